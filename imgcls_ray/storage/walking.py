"""Walk a folder in the order of the URIs: all files, or those that match a pattern.

Each real folder is walked once, even if several links lead to it: under its own name if that is below the root, else
under the first link. A folder that cannot be listed is reported, and the walk continues. Memory holds only the names
in the folders on the current path, and the set of visited folders.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from imgcls_ray.errors import InputError, StorageError
from imgcls_ray.storage.files import FileInfo, absolute_path, stat_file, uri_from_path
from imgcls_ray.storage.left_out import BESIDE, ListingCounts, is_hidden, is_of_store
from imgcls_ray.storage.listed import ListedPlace
from imgcls_ray.storage.names import DEFAULT_NAMES
from imgcls_ray.storage.patterns import EVERYTHING, rule_against

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.names import NameRules
    from imgcls_ray.storage.patterns import Pattern, States

_Place = tuple[int, int]
_NOWHERE: States = frozenset()


def list_folder(
    folder: str,
    *,
    pattern: Pattern = EVERYTHING,
    counts: ListingCounts | None = None,
    leave_out: str | None = None,
    store: str | None = None,
    names: NameRules = DEFAULT_NAMES,
    every_name: bool = False,
) -> Iterator[FileInfo]:
    """List the inputs below a folder, sorted by URI.

    Links to files and folders are followed. A folder that disappears during the walk is no error.

    Args:
        folder: where to walk.
        pattern: of the paths below it.
        counts: receives the numbers of skipped files, and the folders that could not be listed.
        leave_out: a folder to skip completely.
        store: a label store, of which only its own files are skipped.
        names: which names are left out.
        every_name: list a folder under each link to it, because in a dataset the names of folders are labels. Only
            links back to a folder on the current path are not followed.

    Raises:
        InputError: ``folder`` itself cannot be listed; without ``counts`` also, at the end, if any other could not.
        StorageError: ``folder`` went away while it was listed.
    """
    told = ListingCounts() if counts is None else counts
    root = absolute_path(folder)
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error
    place = ListedPlace(root.rstrip("/") + "/", pattern, names)
    told.places.append(place)
    yield from place.follow(_Walk(root, pattern, told, leave_out, store, names, every_name=every_name).files())
    if not os.path.isdir(root):
        raise StorageError(f"{folder}: went away while it was listed; run the command again when it is back")
    place.is_whole = True
    if counts is None and told.num_unlisted:
        raise InputError(told.unlisted_text)


class _Folder(NamedTuple):
    """A folder on the way down."""

    place: _Place
    prefix: str
    names: list[str]
    """That are still to come, the next one last; of folders with a ``/`` behind them."""
    states: States
    is_linked: bool
    """Whether a link below the root led here."""


class _Later(NamedTuple):
    """A name that is not UTF-8: its URI begins with ``file://``, which sorts after every path."""

    uri: str
    path: str
    states: States
    is_linked: bool


class _Walk:
    def __init__(
        self,
        root: str,
        pattern: Pattern,
        counts: ListingCounts,
        leave_out: str | None,
        store: str | None,
        names: NameRules,
        *,
        every_name: bool,
    ) -> None:
        self._root, self._real_root = root, os.path.realpath(root)
        self._pattern, self._counts, self._names_left_out = pattern, counts, names
        self._dots = not names.has_table
        self._root_chars = len(root.rstrip("/")) + 1
        self._leave_out = _place_of(leave_out)
        self._store, self._store_place = os.path.realpath(store) if store else None, _place_of(store)
        self._every_name = every_name
        self._seen: dict[_Place, States] = {}
        # Asked once: what was decided for one link must hold for all.
        self._can_list: dict[str, bool] = {}
        self._later: list[_Later] = []

    def files(self) -> Iterator[FileInfo]:
        if self._store and is_of_store(self._real_root, self._store):
            return
        is_utf8 = uri_from_path(self._root) == self._root
        yield from self._walk(self._root, self._pattern.start, is_linked=False, is_utf8=is_utf8)
        for entry in sorted(self._later):
            if entry.uri.endswith("/"):
                yield from self._walk(entry.path, entry.states, is_linked=entry.is_linked, is_utf8=False)
            else:
                yield stat_file(entry.path)

    def _walk(self, folder: str, states: States, *, is_linked: bool, is_utf8: bool) -> Iterator[FileInfo]:
        way: list[_Folder] = []
        entered = self._enter(folder, states, is_linked=is_linked, is_utf8=is_utf8)
        while entered or way:
            if entered:
                way.append(entered)
                entered = None
            place, prefix, names, states, is_linked = way[-1]
            if not names:
                way.pop()
                if self._every_name:
                    del self._seen[place]
            elif (name := names.pop()).endswith("/"):
                below = self._pattern.below(states, name[:-1], dots=self._dots)
                entered = self._enter(prefix + name[:-1], below, is_linked=is_linked, is_utf8=is_utf8)
            else:
                yield stat_file(prefix + name)

    def _enter(self, path: str, states: States, *, is_linked: bool, is_utf8: bool) -> _Folder | None:
        """Read a folder's names, unless all that may match below it is listed under another name."""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                # The root may be a link: it is the name that was given.
                is_linked |= path != self._root
                status = os.stat(path)
        except OSError as error:
            self._cannot_list(path, error)
            return None
        place = (status.st_dev, status.st_ino)
        if place == self._leave_out:
            return None
        asked, seen = states, self._seen.get(place, _NOWHERE)
        states -= seen
        if is_linked and states and not self._every_name:
            real = os.path.realpath(path)
            if self._is_left_out(real):
                self._counts.pass_over(uri_from_path(path))
                return None
            states -= self._states_by_own_name(real)
        if states != asked:
            self._counts.pass_over(uri_from_path(path))
        if not states:
            self._counts.linked += 1
            return None
        self._seen[place] = seen | states
        prefix = path.rstrip("/") + "/"
        found = self._names(path, prefix, states)
        names = [name for name in found if self._is_wanted(prefix, name, states, place == self._store_place)]
        if is_utf8:
            names, others = _by_encoding(names)
            for name in others:
                below = self._pattern.below(states, name[:-1]) if name.endswith("/") else states
                whole = (prefix + name).rstrip("/")
                uri = uri_from_path(whole) + "/" * name.endswith("/")
                self._later.append(_Later(uri, whole, below, is_linked))
        # A folder sorts as "name/": then the walk gives whole paths in the order of their text.
        names.sort(key=None if is_utf8 else _quoted, reverse=True)
        return _Folder(place, prefix, names, states, is_linked)

    def _names(self, folder: str, prefix: str, states: States) -> list[str]:
        literals = self._pattern.literals(states)
        if literals is not None:
            # A folder that may be entered but not listed still opens what is named.
            return [name for literal in literals if (name := self._looked_up(prefix, literal))]
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name + "/" if _is_folder(entry) else entry.name)  # noqa: PERF401 - kept on error
        except OSError as error:
            self._cannot_list(folder, error)
        return names

    def _looked_up(self, prefix: str, name: str) -> str | None:
        try:
            os.lstat(prefix + name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._cannot_list(prefix + name, error)
            return None
        return name + "/" * os.path.isdir(prefix + name)

    def _is_wanted(self, prefix: str, name: str, states: States, is_store: bool) -> bool:
        """Whether a name may lead to inputs; what is left out is counted."""
        pattern, counts, is_folder = self._pattern, self._counts, name[-1] == "/"
        bare = name[:-1] if is_folder else name
        goes_on = pattern.below if is_folder else pattern.takes
        if not goes_on(states, bare, dots=self._dots):
            counts.hidden += is_hidden(bare) and bool(goes_on(states, bare, dots=True))
            return False
        if is_store and is_of_store(prefix + bare, prefix):
            return False
        if name in BESIDE and os.path.isfile(prefix + BESIDE[name]):
            counts.pass_over(uri_from_path(prefix + bare))
            if is_folder:
                counts.stores += 1
            else:
                counts.by_name[name] += 1
            return False
        where = prefix[self._root_chars :]
        if (rule := rule_against(self._names_left_out, pattern, states, where, name)) is not None:
            counts.by_name[rule] += 1
            return False
        return True

    def _states_by_own_name(self, real: str) -> States:
        """What the walk matches below a folder that it comes to without any link; nothing if it does not come there."""
        prefix = self._real_root.rstrip("/") + "/"
        if not (real + "/").startswith(prefix):
            return _NOWHERE
        folder, states = self._real_root, self._pattern.start
        for name in filter(None, real[len(prefix) :].split("/")):
            if folder not in self._can_list:
                self._can_list[folder] = _can_be_listed(folder)
            above, where = states, prefix[len(self._real_root.rstrip("/")) + 1 :]
            states = self._pattern.below(states, name, dots=self._dots)
            if not states or not self._can_list[folder]:
                return _NOWHERE
            if rule_against(self._names_left_out, self._pattern, above, where, f"{name}/") is not None:
                return _NOWHERE
            folder = prefix + name
            prefix = f"{folder}/"
        return states

    def _is_left_out(self, real: str) -> bool:
        """Whether what a link leads to is left out under its own name."""
        if self._store and is_of_store(real, self._store):
            return True
        ways = [real[:end] for end in range(len(real) + 1) if real[end : end + 1] in ("/", "")]
        if self._leave_out is not None and any(_place_of(way) == self._leave_out for way in ways if way):
            return True
        stores = [way.removesuffix("samples") for way in ways if way.endswith("/samples")]
        return any(os.path.isfile(f"{store}{BESIDE['samples/']}") for store in stores)

    def _cannot_list(self, folder: str, error: OSError) -> None:
        if error.errno == errno.ENOENT and not os.path.lexists(folder):
            return
        self._counts.add_unlisted(uri_from_path(folder), error.strerror or str(error))


def _place_of(folder: str | None) -> _Place | None:
    if folder is None:
        return None
    try:
        status = os.stat(folder)
    except OSError:
        return None  # not made yet: nothing of it can be met
    return (status.st_dev, status.st_ino)


def _can_be_listed(folder: str) -> bool:
    try:
        with os.scandir(folder):
            return True
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link in a circle, or to where one may not look: an input whose reading will say so.
        return False


def _by_encoding(names: list[str]) -> tuple[list[str], list[str]]:
    """Names that are UTF-8, and those that are not."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        others = [name for name in names if uri_from_path(name) != name]
        kept = set(others)
        return [name for name in names if name not in kept], others
    return names, []


def _quoted(name: str) -> str:
    return quote(os.fsencode(name))
