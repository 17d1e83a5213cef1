"""Members of tar files, by their headers, or by the index of WebDataset's tools beside the file.

A tar has no directory: each header says where the next one is. What lies between two headers is not read if it is
large (``RangeFile``). With ``shard.idx`` beside ``shard.tar``, as ``wds2idx`` of NVIDIA DALI writes it, nothing of the
tar is read but the headers of two members, which show that the index is of this tar.
"""

from __future__ import annotations

import posixpath
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed.members import PackedMember, broken
from imgcls_ray.packed.range_file import RangeFile
from imgcls_ray.storage import fetch, fetch_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.files import FileInfo

_BLOCK = tarfile.BLOCKSIZE
# Headers have some hundred bytes; of extended ones, some kilobytes.
_MAX_HEADER_BYTES = 2**20
_INDEX_VERSION = "v1.2"
_MAX_DIGITS = 18
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"


class _Indexed(NamedTuple):
    """A member as an index has it."""

    offset: int
    size: int
    name: str


def tar_members(info: FileInfo, limits: FetchLimits) -> Iterator[PackedMember]:
    """The regular files in a tar, in its order; links and devices, and what is damaged, as broken ones.

    Raises:
        ImageError: it cannot be read.
        StorageError: its storage cannot.
    """
    if (indexed := _indexed(info, limits)) is not None:
        for member in indexed:
            yield PackedMember(member.name, member.size, f"tar:{member.offset}:{member.size}")
        return
    yield from members_by_headers(info, limits)


def members_by_headers(
    info: FileInfo, limits: FetchLimits, *, reads: Callable[[str, int], bool] = lambda _name, _size: False
) -> Iterator[PackedMember]:
    """As ``tar_members``, without the index: with the content of those that ``reads`` says, by name and size."""
    file = RangeFile(info, limits, max_read=_MAX_HEADER_BYTES)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                # Else it would keep them all.
                tar.members.clear()  # type: ignore[attr-defined] # of no stub, and known to everybody
                if member.size < 0 or tar.offset <= end:
                    yield broken(None, ImageErrorCode.CORRUPT, "a header points to before itself")
                    return
                end = tar.offset
                if member.isdir():
                    continue
                found = _member(member, file.size)
                if found.size is not None and reads(member.name, member.size):
                    file.seek(member.offset_data)
                    found = found._replace(content=file.read(member.size))
                yield found
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        yield _why_not(file, " ".join(str(error).split()))
        return
    # The library ends without a word where a header is damaged or cut off.
    file.seek(min(end, file.size))
    if (block := file.read(_BLOCK)).strip(b"\0"):
        yield broken(None, ImageErrorCode.CORRUPT, f"no header is at byte {end:,}; further members are not found")
    elif 0 < len(block) < _BLOCK or end > file.size:
        yield broken(None, ImageErrorCode.TRUNCATED, "the tar file is cut off")


def _member(member: tarfile.TarInfo, size: int) -> PackedMember:
    if not member.isreg() or member.issparse():
        what = "a sparse file" if member.isreg() else "a link or device, not a file"
        return broken(member.name, ImageErrorCode.NOT_A_FILE, f"{what}; pack files themselves (tar --dereference)")
    if member.offset_data + member.size > size:
        return broken(member.name, ImageErrorCode.TRUNCATED, "the tar file is cut off")
    return PackedMember(member.name, member.size, f"tar:{member.offset_data}:{member.size}")


def _why_not(file: RangeFile, reason: str) -> PackedMember:
    if not file.size:
        return broken(None, ImageErrorCode.EMPTY)
    if reason == "unexpected end of data":
        return broken(None, ImageErrorCode.TRUNCATED, "the tar file is cut off")
    file.seek(0)
    if file.read(min(6, file.size)).startswith((_GZIP, _ZSTD, _XZ, _BZIP2)):
        return broken(
            None, ImageErrorCode.UNSUPPORTED_FORMAT, "a compressed tar cannot be read in parts; uncompress it"
        )
    return broken(None, ImageErrorCode.CORRUPT, f"is no tar file: {reason}")


def _indexed(info: FileInfo, limits: FetchLimits) -> list[_Indexed] | None:
    """The members by the index beside a tar; ``None`` if there is none, or it is not of this tar."""
    try:
        text = fetch(f"{posixpath.splitext(info.uri)[0]}.idx", None, limits)
    except ImageError:
        return None
    members = _parse(text.decode(errors="surrogateescape"))
    if not members:
        return None
    members.sort()
    is_there = all(_is_there(member, info, limits) for member in (members[0], members[-1]))
    return members if is_there and _ends_with(members[-1], info, limits) else None


def _parse(text: str) -> list[_Indexed]:
    lines = text.splitlines()
    if not lines or not lines[0].startswith(f"{_INDEX_VERSION} "):
        return []
    members = []
    for line in lines[1:]:
        fields = line.split(" ")
        # Nothing is quoted: with a blank in a name it cannot be told what is what.
        if len(fields) % 4:
            return []
        for at in range(0, len(fields), 4):
            _, offset, size, name = fields[at : at + 4]
            if not (offset.isdecimal() and size.isdecimal() and max(len(offset), len(size)) <= _MAX_DIGITS):
                return []
            members.append(_Indexed(int(offset), int(size), name))
    return members


def _ends_with(member: _Indexed, info: FileInfo, limits: FetchLimits) -> bool:
    """Whether a member is the last one: behind it is nothing but zeros."""
    end = member.offset + -(-member.size // _BLOCK) * _BLOCK
    if end >= (info.size or 0):
        return member.offset + member.size <= (info.size or 0)
    return not fetch_range(info.uri, end, _BLOCK, info.etag, limits).strip(b"\0")


def _is_there(member: _Indexed, info: FileInfo, limits: FetchLimits) -> bool:
    if not _BLOCK <= member.offset <= (info.size or 0):
        return False
    try:
        header = fetch_range(info.uri, member.offset - _BLOCK, _BLOCK, info.etag, limits)
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    # The plain header of a long name has its beginning.
    return found.size == member.size and member.name.removeprefix("./").startswith(found.name.removeprefix("./")[:90])
