"""Open what is packed: in a sorted listing, each tar, zip or Parquet file gives way to the images in it.

The rest of the listing stays as it is, and everything stays sorted by URI. A few files are looked into at a time, ahead
of the work, so the first images can be labelled long before the last file was opened.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.errors import ImageError, InputError
from imgcls_ray.inputs.kept import together
from imgcls_ray.inputs.merging import merge_sorted
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.inputs.tables import FileTables, files_in, only_array, table_of, tables_of
from imgcls_ray.packed.listing import find_file, find_member, list_members
from imgcls_ray.packed.parquets import footer, image_column
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.files import FileInfo, absolute_path, path_from_uri, stat_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.members import SUFFIXES, is_packed_file, possible_members
from imgcls_ray.storage.object_inputs import find_object
from imgcls_ray.storage.patterns import has_magic
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.storage.names import NameRules
    from imgcls_ray.storage.options import StorageOptions

PACKED_PATTERNS = ("*.tar", "*.zip")
"""What is opened in folders without images; the rules that leave it out elsewhere have the same names."""
# Over a network, a file is read or waited for while the one before is; each holds its images' rows until they are used.
_FILES_AHEAD = 8
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")


def refuse_compressed(source: str) -> None:
    """Refuse an archive that cannot be read in parts.

    Raises:
        InputError: with the way out.
    """
    is_folder = not is_object(source) and os.path.isdir(path_from_uri(source))
    if source.lower().endswith(_COMPRESSED) and not is_folder:
        raise InputError(
            f"{source}: is a compressed archive, of which no single image can be read; unpack it, or make a .tar or "
            ".zip of its images"
        )


def is_member(source: str, storage: StorageOptions) -> bool:
    """Whether INPUT names one image in a packed file, ``shard.tar#a.jpg``, and the file is there."""
    members = list(possible_members(source))
    if not members or is_url(source):
        return False
    if is_object(source):
        is_file = find_object(source, storage) is not None
        return not is_file and any(find_object(member.source, storage) is not None for member in members)
    is_file = os.path.lexists(path_from_uri(source))
    return not is_file and any(os.path.isfile(path_from_uri(member.source)) for member in members)


def named_member(source: str, storage: StorageOptions) -> FileInfo:
    """The image in a packed file that INPUT names; without a place in it if it is not there, as its row will say."""
    try:
        return find_member(source, FetchLimits(storage=storage))
    except ImageError:
        return FileInfo(source, None, None, None)


def packed_parquet(source: str, storage: StorageOptions, uri_column: str, parts: list[str]) -> list[FileInfo]:
    """The files of an INPUT that is Parquet with images: one file, or a folder of nothing else.

    None if it is a list: of Parquet that has both, the column of URIs decides.

    Args:
        source: the INPUT.
        storage: how to reach object storage.
        uri_column: the column of the images in lists.
        parts: the files of a folder of Parquet and nothing else.
    """
    if is_url(source) or has_magic(source):
        return []
    is_one = source.lower().endswith(".parquet")
    if is_object(source):
        found = find_object(source, storage) if is_one else None
        files = [found] if found else [FileInfo(uri, None, None, None) for uri in parts]
    elif parts or os.path.isdir(path_from_uri(source)):
        files = [stat_file(absolute_path(path)) for path in parts]
    else:
        files = [stat_file(absolute_path(path_from_uri(source)))] if is_one else []
    if not files or not _has_images(files[0].uri, storage, uri_column):
        return []
    return [info if info.size is not None else find_object(info.uri, storage) or info for info in files]


def _has_images(uri: str, storage: StorageOptions, uri_column: str) -> bool:
    limits = FetchLimits(storage=storage)
    try:
        schema = footer(find_file(uri, limits), limits).schema.to_arrow_schema()
    except (ImageError, pa.ArrowException, OSError, ValueError):
        return False
    return uri_column not in schema.names and image_column(schema) is not None


def open_packed(
    files: Iterable[FileInfo], storage: StorageOptions, names: NameRules, left_out: Counter[str]
) -> Iterator[FileInfo]:
    """A listing with the images in its packed files in their place.

    Args:
        files: sorted by URI, each once.
        storage: how to reach object storage.
        names: which members are left out by their names.
        left_out: receives how many, by rule.
    """
    limits = FetchLimits(storage=storage)
    if any(map(is_packed_file, names.include)):
        # They say which files are opened, not what is taken out of them.
        names = replace(names, include=())

    counting = threading.Lock()

    def counted(info: FileInfo) -> Iterator[FileInfo]:
        # Several files are looked into at a time.
        own: Counter[str] = Counter()
        yield from list_members(info, limits, names, own)
        with counting:
            left_out.update(own)

    def members(info: FileInfo) -> Iterator[pa.Table]:
        return _numbered(tables_of(sort_files(counted(info))))

    files = iter(files)
    for info in files:
        if is_packed_file(info.uri):
            rest = itertools.chain([info], files)
            yield from FileTables(lambda _: _opened(tables_of(rest), members))  # noqa: B023 - the loop ends here
            return
        yield info


def _opened(tables: Iterator[pa.Table], members: Callable[[FileInfo], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(_FILES_AHEAD, thread_name_prefix="packed") as executor:
        ahead: deque[Callable[[], Iterator[pa.Table]]] = deque()
        try:
            for group in _groups(tables):
                ahead.append(_begin(group, members, executor))
                if len(ahead) > _FILES_AHEAD:
                    yield from ahead.popleft()()
            while ahead:
                yield from ahead.popleft()()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _begin(
    group: pa.Table, members: Callable[[FileInfo], Iterator[pa.Table]], executor: ThreadPoolExecutor
) -> Callable[[], Iterator[pa.Table]]:
    """Begin to look into the packed files of a group; what is returned waits for them."""
    is_packed = _is_packed(group)
    if not pc.any(is_packed).as_py():
        return lambda: iter([group])
    packed = [executor.submit(_begun, members(info)) for info in files_in(group.filter(is_packed))]
    loose = group.filter(pc.invert(is_packed))
    if len(packed) == 1 and not loose.num_rows:
        return lambda: packed[0].result()

    def merged() -> Iterator[pa.Table]:
        # A file whose own name looks like that of a member comes before the member.
        streams = [iter([loose] if loose.num_rows else []), *(future.result() for future in packed)]
        return together(merge_sorted(streams), lambda _: None)

    return merged


def _begun(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables; the first one, for which the whole file must have been looked through, is there."""
    first = next(tables, None)
    return iter(()) if first is None else itertools.chain([first], tables)


def _is_packed(table: pa.Table) -> pa.Array:
    uris = pc.utf8_lower(only_array(table.column("uri")))
    found = [pc.ends_with(uris, suffix) for suffix in SUFFIXES]
    return pc.or_(pc.or_(found[0], found[1]), found[2])


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of loose files alone, and of one packed file with all names that begin with its name.

    Its members may stand between these: ``x.tar 2.jpg`` sorts before ``x.tar#a.jpg``.
    """
    waiting: list[FileInfo] = []
    for table in tables:
        if not waiting and not pc.any(_is_packed(table)).as_py():
            yield table
            continue
        loose: list[FileInfo] = []
        for info in files_in(table):
            if waiting and info.uri.startswith(waiting[0].uri):
                waiting.append(info)
                continue
            if waiting:
                yield table_of(waiting)
                waiting = []
            if not is_packed_file(info.uri):
                loose.append(info)
                continue
            if loose:
                yield table_of(loose)
                loose = []
            waiting = [info]
        if loose:
            yield table_of(loose)
    if waiting:
        yield table_of(waiting)


def _numbered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tell members of one name apart, which stand behind each other in sorted tables: ``a.jpg``, ``a.jpg%#2``, ..."""
    last, number = None, 1
    later: list[FileInfo] = []
    for table in tables:
        uris = only_array(table.column("uri"))
        is_again = pa.concat_arrays([pa.array([uris[0].as_py() == last]), pc.equal(uris[:-1], uris[1:])])
        if not later and not is_again.true_count:
            last, number = uris[-1].as_py(), 1
            yield table
            continue
        first: list[FileInfo] = []
        for info in files_in(table):
            number = number + 1 if info.uri == last else 1
            last = info.uri
            if number == 1:
                first.append(info)
            else:
                later.append(info._replace(uri=f"{info.uri}%#{number}"))
        # What sorts behind the last name of this table may have to wait for names of the next one.
        ready = [info for info in later if last is not None and info.uri <= last]
        later = [info for info in later if last is None or info.uri > last]
        if found := sorted([*first, *ready], key=lambda info: info.uri):
            yield table_of(found)
    if later:
        yield table_of(sorted(later, key=lambda info: info.uri))
