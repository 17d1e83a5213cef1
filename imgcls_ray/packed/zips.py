"""Members of zip files, by the directory at their end; unpacking one, bounded by what was said of it."""

from __future__ import annotations

import bz2
import itertools
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed.members import PackedMember, broken
from imgcls_ray.packed.range_file import RangeFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.files import FileInfo

# The library makes an object of each entry: this is about 300,000 of them, and 200 MB while they are listed.
_MAX_DIRECTORY_BYTES = 32 * 2**20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1 | 0x40
# A name and other fields of 64 kB each, and what may stand behind the data.
_MAX_BESIDE_DATA = _LOCAL_HEADER.size + 2 * 65_535 + 24
_STORED, _DEFLATED, _BZIP2 = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2


def zip_members(info: FileInfo, limits: FetchLimits) -> Iterator[PackedMember]:
    """The files in a zip file, in the order of its directory.

    Raises:
        ImageError: it cannot be read.
        StorageError: its storage cannot.
    """
    if not info.size:
        yield broken(None, ImageErrorCode.EMPTY)
        return
    try:
        with zipfile.ZipFile(RangeFile(info, limits, max_read=_MAX_DIRECTORY_BYTES)) as packed:
            entries, end = packed.infolist(), packed.start_dir
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, struct.error) as error:
        yield broken(None, ImageErrorCode.CORRUPT, f"is no zip file, or cut off: {error}")
        return
    ends = _ends(entries, end)
    for entry in entries:
        # ``filename`` ends at a NUL.
        if not entry.orig_filename.endswith("/"):
            yield _member(entry, ends.get(entry.header_offset, 0) - entry.header_offset)


def _ends(entries: list[zipfile.ZipInfo], end: int) -> dict[int, int]:
    """Up to which byte each local header and its data may reach, by the header's place."""
    places = sorted({entry.header_offset for entry in entries if entry.header_offset <= end})
    return dict(itertools.pairwise([*places, end]))


def _member(entry: zipfile.ZipInfo, span: int) -> PackedMember:
    name, method = entry.orig_filename, entry.compress_type
    if entry.flag_bits & _ENCRYPTED:
        return broken(name, ImageErrorCode.UNSUPPORTED_FORMAT, "it is encrypted")
    if method not in (_STORED, _DEFLATED, _BZIP2):
        return broken(
            name, ImageErrorCode.UNSUPPORTED_FORMAT, f"it is packed with method {method}; deflate can be read"
        )
    if entry.header_offset < 0 or span < _LOCAL_HEADER.size + entry.compress_size:
        return broken(name, ImageErrorCode.CORRUPT, "it overlaps with another member of the zip file, or is not in it")
    span = min(span, entry.compress_size + _MAX_BESIDE_DATA)
    numbers = (entry.header_offset, span, entry.compress_size, method, entry.file_size, entry.CRC)
    return PackedMember(name, entry.file_size, f"zip:{':'.join(map(str, numbers))}")


def unpack(data: bytes, packed_size: int, method: int, size: int, crc: int) -> bytes:
    """The content of a member, from its local header and what follows.

    Raises:
        ImageError: truncated or corrupt.
    """
    if len(data) < _LOCAL_HEADER.size:
        raise ImageError(ImageErrorCode.TRUNCATED, "the zip file is cut off")
    signature, *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(data)
    if signature != _SIGNATURE:
        raise ImageError(ImageErrorCode.CORRUPT, "its header is not where the zip file's directory says")
    start = _LOCAL_HEADER.size + name_bytes + extra_bytes
    packed = data[start : start + packed_size]
    if len(packed) < packed_size:
        raise ImageError(ImageErrorCode.TRUNCATED, f"{len(packed):,} of {packed_size:,} bytes are in the zip file")
    content = _inflated(packed, method, size)
    # One byte more than was said shows that there is more, and no more than that is unpacked.
    if len(content) != size or zlib.crc32(content) != crc:
        raise ImageError(ImageErrorCode.CORRUPT, "it is not what the zip file's directory says (size or checksum)")
    return content


def _inflated(packed: bytes, method: int, size: int) -> bytes:
    if method == _STORED:
        return packed
    try:
        if method == _DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
        return bz2.BZ2Decompressor().decompress(packed, size + 1)
    except (zlib.error, OSError, EOFError) as error:
        raise ImageError(ImageErrorCode.CORRUPT, f"it cannot be unpacked: {error}") from error
