"""Decoder processes that do what an image tells them: it stands for a decoder with a bug, or one that was taken over.

``order("spin")`` is a file that begins as a TIFF does, so that it goes to a process; other files are decoded as ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import TYPE_CHECKING

from imgcls_ray.models import classifier
from imgcls_ray.serve import decoders
from imgcls_ray.workers.child import LENGTH
from imgcls_ray.workers.forks import serve_forks

if TYPE_CHECKING:
    from imgcls_ray.errors import ImageError
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.classifier import ModelInput

SERVER = (__name__, "serve_bad_decoders")
SLOW_DEATH_S = 3.0
_MAGIC = b"II*\0 order "


def order(what: str, image: bytes = b"") -> bytes:
    """A file that makes its decoder do something; after ``nap`` it decodes ``image``."""
    return _MAGIC + what.encode() + b"\n" + image


def serve_bad_decoders() -> None:
    vars(decoders)["decode_model_input"] = obey
    serve_forks(decoders.prepare_decoders)


def serve_slow_deaths() -> None:
    """Processes that are gone so long after they are killed."""
    killed: dict[int, float] = {}
    wait = os.waitpid

    def wait_for_it(pid: int, options: int) -> tuple[int, int]:
        if time.monotonic() < killed.setdefault(pid, time.monotonic()) + SLOW_DEATH_S:
            assert options == os.WNOHANG, "the server waits"
            return 0, 0
        return wait(pid, options)

    os.waitpid = wait_for_it
    serve_forks(lambda: lambda: time.sleep(3600))


def obey(data: bytes, preprocess: Preprocess, limits: DecodeLimits) -> ModelInput | ImageError:
    if data.startswith(_MAGIC):
        what, _, data = data.removeprefix(_MAGIC).partition(b"\n")
        _ORDERS[what.decode()]()
    return classifier.decode_model_input(data, preprocess, limits)


def _spin() -> None:
    """In C, with the interpreter's lock, for hours."""
    pow(3, (1 << 400_000) - 1, (1 << 400_001) - 3)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    time.sleep(3600)


def _connection() -> int:
    """What a decoder that was taken over would look for among its open files."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return next(number for number in numbers if _leads_to(number).startswith("socket:"))


def _leads_to(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:  # that of the listing
        return ""


def _promise_too_much() -> None:
    os.write(_connection(), LENGTH.pack(1 << 62))
    time.sleep(3600)


def _say_nonsense() -> None:
    os.write(_connection(), LENGTH.pack(8) + b"nonsense")


_ORDERS = {
    "spin": _spin,
    "sleep": lambda: time.sleep(3600),
    "nap": lambda: time.sleep(1),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(0),
    "hog": lambda: bytearray(1 << 36),
    "disarm": _disarm,
    "promise": _promise_too_much,
    "nonsense": _say_nonsense,
}
