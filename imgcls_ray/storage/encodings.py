"""Tell texts that are not UTF-8 by their first bytes, and how to save them as UTF-8."""

from __future__ import annotations

import os

HEAD_BYTES = 8192
"""First bytes of a file that tell its encoding."""
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32", "UTF-32LE"),
    (b"\x00\x00\xfe\xff", "UTF-32", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16", "UTF-16LE"),
    (b"\xfe\xff", "UTF-16", "UTF-16BE"),
)
# Of text, at most a stray character is a NUL; of ASCII in UTF-16, every other byte is one.
_NULS_OF_WIDE_TEXT = 0.2


def other_encoding(path: str, head: bytes, *, is_packed: bool = False) -> str | None:
    """What is wrong with a text of UTF-16 or UTF-32, in words; None if it is none.

    Args:
        path: of the file.
        head: its first bytes, unpacked.
        is_packed: whether the file is gzipped.
    """
    if (encoding := _encoding_of(head)) is None:
        return None
    name, code = encoding
    return f"is {name}, and lists are read as UTF-8; {as_utf8(path, code, is_packed=is_packed)}"


def as_utf8(path: str, code: str, *, is_packed: bool = False) -> str:
    """How a list in this encoding is saved as UTF-8."""
    name = os.path.basename(path)
    target = f"utf8-{name.removesuffix('.gz')}"
    command = f"gzip -dc {name} | iconv -f {code} -t UTF-8" if is_packed else f"iconv -f {code} -t UTF-8 {name}"
    return f"save it as UTF-8, e.g. with `{command} > {target}`"


def _encoding_of(head: bytes) -> tuple[str, str] | None:
    """An encoding of two or four bytes a character, by its mark or by where its NULs are; its name for iconv, too."""
    for mark, name, code in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name, code
    whole = head[: len(head) // 4 * 4]
    nuls = [whole[i::4].count(0) for i in range(4)]
    enough = _NULS_OF_WIDE_TEXT * len(whole)
    if len(whole) < 4 or sum(nuls) < enough:
        return None
    quarter = len(whole) // 4
    if min(nuls[1:]) > 0.9 * quarter and nuls[0] < enough:
        return "UTF-32 without a byte order mark", "UTF-32LE"
    if min(nuls[:3]) > 0.9 * quarter and nuls[3] < enough:
        return "UTF-32 without a byte order mark", "UTF-32BE"
    even, odd = nuls[0] + nuls[2], nuls[1] + nuls[3]
    if even < 0.1 * odd:
        return "UTF-16 without a byte order mark", "UTF-16LE"
    if odd < 0.1 * even:
        return "UTF-16 without a byte order mark", "UTF-16BE"
    return None
