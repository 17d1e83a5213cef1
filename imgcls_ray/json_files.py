"""JSON files as every job writes them; and PaddleX's way to say in one of them that a job failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.storage import Directory

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can say, where nothing more is known of it."""


def encode_json(content: Mapping[str, object]) -> bytes:
    """A file of one object, for people to read too; the caller answers for values that JSON can hold."""
    # A path may hold bytes that are not UTF-8; as escapes they come back as they were.
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def failure_of(error: BaseException) -> dict[str, Json]:
    """What PaddleX's result files say of a job that failed."""
    return {"done_flag": False, "err_type": str(type(error)), "err_msg": str(error) or type(error).__name__}


def write_failure(directory: Directory, name: str, error: BaseException) -> None:
    """Say in a job's result file that there is no result, and why.

    Raises:
        StorageError: it cannot be written.
    """
    directory.replace(name, encode_json(failure_of(error)))
