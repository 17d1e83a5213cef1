"""Samples of a WebDataset tar: the images of each key, and the small files beside them that tell its label."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.packed.listing import rule_against
from imgcls_ray.packed.tars import members_by_headers
from imgcls_ray.storage.names import DEFAULT_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.packed.members import PackedMember
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.files import FileInfo

_LABEL_EXTENSIONS = ("cls", "class", "label", "json")
_MAX_LABEL_BYTES = 64 * 2**10


class SampleFile(NamedTuple):
    """A small file beside an image."""

    extension: str
    content: bytes


class Sample(NamedTuple):
    """What is behind each other in a tar and has one key."""

    images: list[PackedMember]
    label_files: list[SampleFile]
    """The likeliest first."""


def read_samples(info: FileInfo, limits: FetchLimits) -> Iterator[Sample]:
    """The samples of a tar that have images, in its order. Images are not read.

    Raises:
        ImageError: it cannot be read, or its end is missing.
        StorageError: its storage cannot be read.
    """
    key = ""
    images: list[PackedMember] = []
    labels: list[SampleFile] = []
    for member in members_by_headers(info, limits, reads=_tells_label):
        if member.name is None:
            raise member.error
        found, extension = _key_of(member.name)
        if found != key:
            if images:
                yield _sample(images, labels)
            key, images, labels = found, [], []
        if member.content is not None:
            labels.append(SampleFile(extension, member.content))
        elif rule_against(DEFAULT_NAMES, member.name) is None:
            images.append(member)
    if images:
        yield _sample(images, labels)


def _sample(images: list[PackedMember], labels: list[SampleFile]) -> Sample:
    return Sample(images, sorted(labels, key=lambda file: _LABEL_EXTENSIONS.index(file.extension)))


def _key_of(name: str) -> tuple[str, str]:
    """Key and extension: of a path up to the first dot of its last name, as WebDataset has it."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _tells_label(name: str, size: int) -> bool:
    return size <= _MAX_LABEL_BYTES and _key_of(name)[1] in _LABEL_EXTENSIONS
