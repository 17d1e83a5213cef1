"""The members of a packed file that are inputs; one of them by its name; and an input wherever it is, by its URI."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.images.crops import Crop, Picture
from imgcls_ray.packed.members import PackedMember, broken_file
from imgcls_ray.packed.reading import part_of, place_in_group, read_span, spans_of
from imgcls_ray.packed.tars import tar_members
from imgcls_ray.packed.zips import zip_members
from imgcls_ray.storage import fetch, fetch_range
from imgcls_ray.storage.crops import box_in, split_box
from imgcls_ray.storage.files import FileInfo, absolute_path, path_from_uri, scheme_of, stat_file
from imgcls_ray.storage.members import Member, member_name, member_uri, possible_members, split_member
from imgcls_ray.storage.object_inputs import find_object
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.names import NameRules

_FILES_KEPT = 4
# What is said of a name that may be that of a part of a file. Without the right to list, S3 says of a missing object
# that it is refused.
_MAY_BE_INSIDE = frozenset({ImageErrorCode.NOT_FOUND, ImageErrorCode.ACCESS_DENIED})
_MEMBERS_KEPT = 200_000
# What WebDataset keeps beside an image, of what no folder's rule leaves out.
_SIDE_FILES = frozenset(
    {".cls", ".cls2", ".class", ".count", ".id", ".index", ".inx", ".text", ".caption", ".transcript"}
)


def list_members(
    info: FileInfo, limits: FetchLimits, names: NameRules, left_out: Counter[str] | None = None
) -> Iterator[FileInfo]:
    """The inputs in a packed file, in its order; several may have one name.

    What is wrong with the file itself is an input, too, of the file's own URI: its row says what it is.

    Args:
        info: of the file.
        limits: how it is reached.
        names: which members are left out, as of a folder.
        left_out: receives the number of these, by rule.

    Raises:
        StorageError: its storage cannot be read.
    """
    for member in _members(info, limits):
        if member.name is None:
            yield info._replace(size=None, source=None, locator=member.locator)
        elif (rule := rule_against(names, member.name)) is None:
            uri = member_uri(info.uri, member.name)
            yield FileInfo(uri, member.size, info.etag, info.mtime, info.uri, member.locator)
        elif left_out is not None:
            left_out[rule] += 1


def _members(info: FileInfo, limits: FetchLimits) -> Iterator[PackedMember]:
    try:
        if info.size is None:
            # It could not be looked at: what is said when it is read is why.
            fetch_range(info.uri, 0, 1, info.etag, limits)
        yield from _reader_of(info.uri)(info, limits)
    except ImageError as error:
        yield broken_file(error)


def _reader_of(uri: str) -> Callable[[FileInfo, FetchLimits], Iterator[PackedMember]]:
    if uri.lower().endswith(".parquet"):
        # Arrow takes a while to load, and the other kinds do without it.
        from imgcls_ray.packed.parquets import parquet_members

        return parquet_members
    return tar_members if uri.lower().endswith(".tar") else zip_members


def rule_against(names: NameRules, name: str) -> str | None:
    """The rule that leaves a member out; a dot or two of a path are no hidden names."""
    *folders, last = name.split("/")
    where = ""
    for part in [*(f"{folder}/" for folder in folders if folder not in ("", ".", "..")), last or name]:
        if names.has_table and part.startswith("."):
            return ".*"
        rule = (
            names.of_table(part)
            or (_rule_of_side_file(part) if names.has_table else None)
            or (names.of_patterns(where + part) if names.has_patterns else None)
        )
        if rule is not None:
            return rule
        where += part
    return None


def _rule_of_side_file(name: str) -> str | None:
    suffix = os.path.splitext(name)[1].lower()
    return f"*{suffix}" if suffix in _SIDE_FILES else None


def fetch_input(
    uri: str, etag: str | None, limits: FetchLimits, *, source: str | None = None, locator: str | None = None
) -> bytes | Crop:
    """Read one input whole, be it a file, an object, an address, a member of a packed file or a box of one of these.

    Without a locator, a file or object of exactly this name comes first. To find a member, the directory of its file
    is read; those of the last few files are kept.

    Raises:
        ImageError, StorageError: as ``storage.fetch``.
    """
    if (box := box_in(locator)) is not None:
        return Crop(Picture(fetch_whole(source or uri, etag, limits)), box)
    if locator is not None:
        return read_member(FileInfo(uri, None, etag, None, source, locator), limits)
    if (named := split_box(uri)) is None:
        return fetch_whole(uri, etag, limits)
    if scheme_of(uri) not in ("http", "https"):
        try:
            return fetch_whole(uri, etag, limits)
        except ImageError as error:
            if error.code not in _MAY_BE_INSIDE:
                raise
    return Crop(Picture(fetch_whole(named.source, etag, limits)), named.box)


def fetch_whole(uri: str, etag: str | None, limits: FetchLimits) -> bytes:
    """Read what is no box; see ``fetch_input``."""
    member = split_member(uri)
    if member is None or scheme_of(uri) in ("http", "https"):
        return fetch(uri, etag, limits)
    try:
        return fetch(uri, etag, limits)
    except ImageError as error:
        if error.code not in _MAY_BE_INSIDE:
            raise
    info = find_member(uri, limits)
    if etag is not None and info.etag is not None and info.etag != etag:
        raise ImageError(ImageErrorCode.CHANGED)
    return read_member(info, limits)


def read_member(info: FileInfo, limits: FetchLimits) -> bytes:
    """Read one member that is found.

    Raises:
        ImageError, StorageError: as ``storage.fetch``.
    """
    source, locator = info.source or info.uri, info.locator or ""
    if (place := place_in_group(locator)) is not None:
        from imgcls_ray.packed.parquets import GroupScan

        file = FileInfo(source, place.file_size, info.etag, None)
        [result] = GroupScan(file, place.group, limits).take(0, [place.row])
    else:
        part = part_of(locator, limits.max_bytes)
        if isinstance(part, ImageError):
            raise part
        [span] = spans_of([(0, part)])
        [result] = read_span(source, info.etag, span, limits)
    if isinstance(result, ImageError):
        raise result
    return result


def find_member(uri: str, limits: FetchLimits) -> FileInfo:
    """The member that a URI names.

    Raises:
        ImageError: not_found, or why its file cannot be read.
        StorageError: its storage cannot be read.
    """
    failure = ImageError(ImageErrorCode.NOT_FOUND)
    # A folder may have such a name, too.
    for member in possible_members(uri):
        try:
            info = find_file(member.source, limits)
        except ImageError as error:
            failure = error
        else:
            return _find_in(info, member, limits)
    raise failure


def _find_in(info: FileInfo, member: Member, limits: FetchLimits) -> FileInfo:
    name = member_name(member.name)
    if member.source.lower().endswith(".parquet"):
        found = _find_row(info, name, limits)
    else:
        found = _find_kept(info, name, member.occurrence, limits)
    if found is None:
        raise ImageError(ImageErrorCode.NOT_FOUND, "the file has no such member")
    again = f"%#{member.occurrence}" if member.occurrence > 1 else ""
    uri = member_uri(info.uri, found.name) + again if found.name is not None else info.uri
    return FileInfo(uri, found.size, info.etag, info.mtime, info.uri, found.locator)


def find_file(uri: str, limits: FetchLimits) -> FileInfo:
    """A packed file itself.

    Raises:
        ImageError: not_found.
        StorageError: its storage cannot be read.
    """
    try:
        info = find_object(uri, limits.storage) if is_object(uri) else stat_file(absolute_path(path_from_uri(uri)))
    except InputError as error:
        raise ImageError(ImageErrorCode.NOT_FOUND, str(error)) from error
    if info is None or info.size is None:
        raise ImageError(ImageErrorCode.NOT_FOUND, "the file that it is said to be in")
    return info


def _find_row(info: FileInfo, name: str, limits: FetchLimits) -> PackedMember | None:
    number = name.removeprefix("row=")
    if not name.startswith("row=") or not number.isdecimal():
        return None
    wanted = int(number)
    return next((row for at, row in enumerate(_members(info, limits)) if row.name is None or at == wanted), None)


def _find_kept(info: FileInfo, name: str, occurrence: int, limits: FetchLimits) -> PackedMember | None:
    kept = _kept_members(info, limits)
    members = iter(kept.get(name, ())) if kept is not None else _of_name(info, name, limits)
    found = next((member for at, member in enumerate(members, 1) if at == occurrence), None)
    # Behind damage there may be more: then that is what is said of it.
    return found or (next(iter(kept.get(None, ())), None) if kept is not None else None)


def _of_name(info: FileInfo, name: str, limits: FetchLimits) -> Iterator[PackedMember]:
    return (member for member in _members(info, limits) if member.name == name)


@functools.lru_cache(maxsize=_FILES_KEPT)
def _kept_members(info: FileInfo, limits: FetchLimits) -> dict[str | None, list[PackedMember]] | None:
    """All members by name, if they are not too many to be kept."""
    kept: defaultdict[str | None, list[PackedMember]] = defaultdict(list)
    for number, member in enumerate(_members(info, limits)):
        if number >= _MEMBERS_KEPT:
            return None
        kept[member.name].append(member)
    return kept
