"""Turn Ray's account of a failed worker into ours: one line, and the exit code of what went wrong there."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray import errors
from imgcls_ray.errors import ImgclsError, JobFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


@contextmanager
def causes_told(what_now: str = "") -> Iterator[None]:
    """Tell errors of Ray and of workers as ours, in one line.

    Args:
        what_now: for people, after what went wrong.

    Raises:
        ImgclsError: a worker failed for good; of the kind of its own error, if that was one of ours.
    """
    try:
        yield
    # Ray Data hands on a worker's end as any of its own kinds, Ray's, or a plain one.
    except Exception as error:
        kind, words = _reason(_root_cause(error))
        raise kind(f"a worker failed for good: {words}{what_now}") from error


def with_causes(results: Iterable[T], what_now: str = "") -> Iterator[T]:
    """Hand on what workers bring; raises as ``causes_told``."""
    with causes_told(what_now):
        yield from results


def _root_cause(error: BaseException) -> BaseException:
    from ray.data.exceptions import SystemException

    cause = getattr(error, "cause", None) or error.__cause__
    # Ray Data hangs an empty one of these below errors that it did not expect.
    if not isinstance(cause, BaseException) or isinstance(cause, SystemException):
        return error
    return _root_cause(cause)


def _reason(cause: BaseException) -> tuple[type[ImgclsError], str]:
    """The kind of error to end with, and why in one line."""
    if isinstance(cause, ImgclsError):
        # Ours are one line; Ray Data adds advice of its own.
        return type(cause), str(cause).partition("\n")[0]
    # Of a worker that could not start, Ray hands on no more than the text of its traceback.
    named = re.findall(r"^imgcls_ray\.errors\.(\w+): (.+)$", str(cause), flags=re.MULTILINE)
    if named and issubclass(kind := getattr(errors, named[-1][0], JobFailedError), ImgclsError):
        return kind, named[-1][1]
    words = " ".join(str(cause).split()) or type(cause).__name__
    return JobFailedError, words[:500]
