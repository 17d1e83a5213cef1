"""An INPUT on object storage: one object, everything under a prefix, or a pattern."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import IO, TYPE_CHECKING

from imgcls_ray.errors import ImgclsError, InputError
from imgcls_ray.storage.files import FileInfo, opaque_etag
from imgcls_ray.storage.left_out import BESIDE, ListingCounts, is_hidden, is_of_store
from imgcls_ray.storage.listed import ListedPlace
from imgcls_ray.storage.names import DEFAULT_NAMES, NameRules
from imgcls_ray.storage.object_client import client_of
from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.object_listing import is_any_under, list_objects
from imgcls_ray.storage.patterns import EVERYTHING, Pattern, has_magic, rule_against
from imgcls_ray.storage.schemes import split_uri
from imgcls_ray.storage.scratch import scratch_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.storage.object_client import ObjectClient
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.storage.patterns import States

_COPY_BYTES = 64 * 2**20
_ANSWERS_KEPT = 1024


def find_object(uri: str, options: StorageOptions) -> FileInfo | None:
    """The object of exactly this name, or ``None``.

    Raises:
        InputError: there is no such bucket.
        StorageError: that cannot be told.
    """
    bucket, key = split_uri(uri)
    client = client_of(uri, options)
    if not key or key.endswith("/"):
        return None
    try:
        head = client.head(bucket, key)
    except ObjectError as error:
        # Without the right to list, S3 says of a missing object that it is refused: the listing decides.
        if error.failure in (Failure.MISSING, Failure.DENIED):
            return None
        raise _input_error(client, uri, bucket, error) from error
    return FileInfo(f"{bucket}/{key}", head.size, opaque_etag(head.etag), head.mtime)


def check_place(uri: str, options: StorageOptions) -> None:
    """Refuse an INPUT that cannot be listed.

    A prefix that ends with ``/`` may be empty: files may arrive there later. A name that matches no object and no
    prefix is an error.

    Raises:
        InputError: there is no such bucket, object or prefix.
        StorageError: it cannot be listed.
    """
    bucket, key = split_uri(uri)
    client = client_of(uri, options)
    if find_object(uri, options) is not None:
        return
    try:
        prefix, parts = _prefix(client, bucket, key)
        is_there = is_any_under(client, bucket, prefix)
    except ObjectError as error:
        raise _input_error(client, uri, bucket, error) from error
    if not is_there and not parts and key and not key.endswith("/"):
        raise InputError(f"{uri}: there is no such object, and none under {uri}/")


def list_place(
    uri: str,
    options: StorageOptions,
    counts: ListingCounts | None = None,
    *,
    store: str | None = None,
    names: NameRules = DEFAULT_NAMES,
) -> Iterator[FileInfo]:
    """List the inputs of an object, a prefix or a pattern, in the order of the URIs.

    An existing name is never a pattern: an object of exactly this name, or a folder whose name looks like a pattern.

    Args:
        uri: bucket, prefix, key or pattern.
        options: how to reach the storage.
        counts: receives the numbers of skipped files.
        store: a label store, whose own files are skipped.
        names: which names are left out.

    Raises:
        InputError, StorageError: it cannot be listed.
    """
    bucket, key = split_uri(uri)
    client = client_of(uri, options)
    if (info := find_object(uri, options)) is not None:
        yield info
        return
    try:
        prefix, parts = _prefix(client, bucket, key)
        pattern = Pattern(parts) if parts else EVERYTHING
        told = ListingCounts() if counts is None else counts
        place = ListedPlace(f"{bucket}/{prefix}", pattern, names)
        told.places.append(place)
        rule = _Rule(client, place.root, pattern, told, store, names)
        yield from place.follow(rule.inputs(list_objects(client, bucket, prefix)))
        place.is_whole = True
    except ObjectError as error:
        raise _input_error(client, uri, bucket, error) from error


def only_inputs(
    objects: Iterable[FileInfo],
    options: StorageOptions,
    counts: ListingCounts,
    *,
    store: str | None = None,
    names: NameRules = DEFAULT_NAMES,
) -> Iterator[FileInfo]:
    """Keep, of all objects of an inventory, the inputs that a listing of the buckets would give.

    Raises:
        StorageError: that cannot be told.
    """
    client = client_of("s3://", options)
    try:
        yield from _Rule(client, "s3://", EVERYTHING, counts, store, names).inputs(objects)
    except ObjectError as error:
        raise client.storage_error("what is an input cannot be told", error) from error


class _Rule:
    """The rule of ``left_out`` for keys; most follow others of the same folder, whose part of it is kept."""

    def __init__(
        self,
        client: ObjectClient,
        root: str,
        pattern: Pattern,
        counts: ListingCounts,
        store: str | None,
        names: NameRules,
    ) -> None:
        self._client, self._root, self._pattern, self._counts, self._store = client, root, pattern, counts, store
        self._names, self._dots = names, not names.has_table
        self._is_of_bucket = root != "s3://"
        self._told = ""
        self._answers: OrderedDict[str, bool] = OrderedDict()

    def inputs(self, objects: Iterable[FileInfo]) -> Iterator[FileInfo]:
        folder: str | None = None
        states: States = frozenset()
        for info in objects:
            where, slash, name = info.uri.removeprefix(self._root).rpartition("/")
            if where + slash != folder:
                folder = where + slash
                states = self._states(folder)
            if states and self._is_wanted(folder, name, states):
                yield info

    def _states(self, folder: str) -> States:
        """Where in the pattern a folder leads to; nowhere if what it holds is left out."""
        states, above = self._pattern.start, self._root
        if self._store and is_of_store(f"{self._root}{folder}", self._store):
            return frozenset()
        for name in folder.split("/")[:-1]:
            below = self._pattern.below(states, name, dots=self._dots)
            is_bucket = above == "s3://"
            where = self._where(above.removeprefix(self._root))
            rule = None if is_bucket else rule_against(self._names, self._pattern, states, where, f"{name}/")
            if not below or rule is not None:
                # Counted once, as a folder is that is not looked into: its keys come one after the other.
                if above + name != self._told:
                    self._tell(states, name, rule, self._pattern.below)
                self._told = above + name
                return frozenset()
            if (other := BESIDE.get(f"{name}/")) and self._is_there(above + other):
                self._counts.pass_over(above + name)
                return frozenset()
            states, above = below, f"{above}{name}/"
        return states

    def _where(self, folder: str) -> str:
        """A folder relative to the INPUT; an inventory's begins below the bucket."""
        return folder if self._is_of_bucket else folder.partition("/")[2]

    def _tell(self, states: States, name: str, rule: str | None, goes_on: Callable[..., object]) -> None:
        if rule is not None:
            self._counts.by_name[rule] += 1
        else:
            self._counts.hidden += is_hidden(name) and bool(goes_on(states, name, dots=True))

    def _is_wanted(self, folder: str, name: str, states: States) -> bool:
        pattern = self._pattern
        if not pattern.takes(states, name, dots=self._dots):
            self._tell(states, name, None, pattern.takes)
            return False
        if self._store and is_of_store(f"{self._root}{folder}{name}", self._store):
            return False
        if name in BESIDE and self._is_there(f"{self._root}{folder}{BESIDE[name]}"):
            self._counts.by_name[name] += 1
            self._counts.pass_over(f"{self._root}{folder}{name}")
            return False
        if rule := rule_against(self._names, pattern, states, self._where(folder), name):
            self._counts.by_name[rule] += 1
            return False
        return True

    def _is_there(self, uri: str) -> bool:
        """Whether an object is there, e.g. the ``store.json`` beside ``samples/``; asked once a folder."""
        if uri in self._answers:
            return self._answers[uri]
        bucket, key = split_uri(uri)
        try:
            self._client.head(bucket, key)
            is_there = True
        except ObjectError as error:
            if error.failure not in (Failure.MISSING, Failure.DENIED):
                raise
            is_there = False
        self._counts.stores += is_there and uri.endswith(BESIDE["samples/"])
        self._answers[uri] = is_there
        if len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return is_there


def copy_object(uri: str, options: StorageOptions) -> IO[bytes]:
    """Copy an object to a temporary file without a name, and open it: a list that is read more than once.

    Raises:
        InputError: there is no such object.
        StorageError: it cannot be read.
    """
    bucket, key = split_uri(uri)
    client = client_of(uri, options)
    info = find_object(uri, options)
    if info is None or info.size is None:
        raise _why_not_found(client, uri, bucket, key)
    file = scratch_file("copy")
    try:
        for start in range(0, info.size, _COPY_BYTES):
            span = (start, min(start + _COPY_BYTES, info.size))
            file.write(client.get(bucket, key, etag=info.etag, span=span).data)
    except ObjectError as error:
        file.close()
        raise _input_error(client, uri, bucket, error) from error
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return io.BufferedReader(file)


def _prefix(client: ObjectClient, bucket: str, key: str) -> tuple[str, list[str]]:
    """What everything meant by a key begins with, and the parts of a pattern behind that.

    Raises:
        ObjectError: it cannot be told whether a folder is there whose name looks like a pattern.
    """
    parts = key.split("/")
    for i, part in enumerate(parts):
        if has_magic(part) and not is_any_under(client, bucket, "/".join(parts[: i + 1]) + "/"):
            return "".join(f"{above}/" for above in parts[:i]), parts[i:]
    return key if not key or key.endswith("/") else f"{key}/", []


def _why_not_found(client: ObjectClient, uri: str, bucket: str, key: str) -> ImgclsError:
    # The answer to HEAD has no words; a GET is told whether it is the name, the rights or the credentials.
    if key and not key.endswith("/"):
        try:
            client.get(bucket, key, span=(0, 1))
        except ObjectError as error:
            if error.failure is not Failure.MISSING:
                return _input_error(client, uri, bucket, error)
    return InputError(f"{uri}: there is no such object that may be read")


def _input_error(client: ObjectClient, uri: str, bucket: str, error: ObjectError) -> ImgclsError:
    if error.failure is Failure.NO_BUCKET:
        return InputError(f"{uri}: {client.why_no_bucket(bucket, error)}")
    if error.failure is Failure.MISSING:
        return InputError(f"{uri}: there is no such object ({error})")
    return client.storage_error(f"{uri}: cannot be read", error)
