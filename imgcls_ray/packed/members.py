"""A member of a packed file as its directory tells of it."""

from __future__ import annotations

from typing import NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode


class PackedMember(NamedTuple):
    """One member, in the order of the file."""

    name: str | None
    """As in the file, bytes that are not UTF-8 as surrogate escapes; ``None`` for what is said of the whole file."""
    size: int | None
    locator: str
    content: bytes | None = None
    """Of a small one that was asked for."""

    @property
    def error(self) -> ImageError:
        """What is wrong with it, if its locator says so."""
        _, code, detail = self.locator.split(":", 2)
        return ImageError(ImageErrorCode(code), detail)


def broken(name: str | None, code: ImageErrorCode, detail: str = "") -> PackedMember:
    """A member that cannot be read, or a file whose further members cannot be found."""
    return PackedMember(name, None, f"broken:{code}:{detail}")


def broken_file(error: ImageError) -> PackedMember:
    return broken(None, error.code, error.detail)
