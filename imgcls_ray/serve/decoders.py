"""What a replica does with one image's bytes, in a thread of its own or in a decoder process.

Both run the same function, so the pixels are the same. A decoder process answers in plain bytes that are parsed here.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import random
import signal
import struct
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imgcls_ray.errors import ImageError
from imgcls_ray.images.annotate import annotate_image
from imgcls_ray.images.decoder import decode_image, load_optional_decoders
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.images.resize import load_resizer
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from imgcls_ray.serve.priority import NICENESS
from imgcls_ray.workers.decoding import (
    end_process_when_late,
    read_answer,
    read_error,
    serve_images,
    write_answer,
    write_error,
)
from imgcls_ray.workers.forks import serve_forks

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_NICENESS = 19
_MAX_TRIES = 20

_LENGTH = struct.Struct("<I")
# A drawn picture is for people to look at.
_MAX_DRAWN_PIXELS = 2048
_MAX_DRAWN_BYTES = 32 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Decoding:
    """Decode, resize and crop for a model."""

    preprocess: Preprocess

    @property
    def max_answer_bytes(self) -> int:
        return 3 * self.preprocess.crop_size**2 + _MAX_ERROR_BYTES

    def __call__(self, data: bytes, limits: DecodeLimits) -> ModelInput | ImageError:
        return decode_model_input(data, self.preprocess, limits)

    def told(self) -> dict[str, Any]:
        """For a decoder process."""
        return {"decode": asdict(self.preprocess)}

    def read_answer(self, answer: bytes) -> ModelInput | ImageError:
        return read_answer(answer, self.preprocess.crop_size)


@dataclass(frozen=True)
class Drawing:
    """Decode, shrink and write labels below; the picture comes back as base64 of a JPEG."""

    lines: tuple[str, ...]
    max_answer_bytes = _MAX_DRAWN_BYTES

    def __call__(self, data: bytes, limits: DecodeLimits) -> str | ImageError:
        try:
            picture = Image.fromarray(decode_image(data, limits))
        except ImageError as error:
            return error.as_value()
        picture.thumbnail((_MAX_DRAWN_PIXELS, _MAX_DRAWN_PIXELS))
        file = io.BytesIO()
        annotate_image(np.asarray(picture), self.lines).save(file, "JPEG", quality=90)
        return base64.b64encode(file.getvalue()).decode()

    def told(self) -> dict[str, Any]:
        """For a decoder process."""
        return {"draw": self.lines}

    def read_answer(self, answer: bytes) -> str | ImageError:
        return read_error(answer) or answer[1:].decode("ascii")


def write_setup(limits: DecodeLimits, *, max_pixels: int, is_background: bool) -> bytes:
    """The first message to a decoder process.

    Args:
        limits: of every image.
        max_pixels: for so many it may take memory.
        is_background: it decodes when nobody else needs the cores.
    """
    return json.dumps({"limits": asdict(limits), "max_pixels": max_pixels, "is_background": is_background}).encode()


def write_request(task: Decoding | Drawing) -> bytes:
    """What stands before an image's bytes in each further message."""
    header = json.dumps(task.told()).encode()
    return _LENGTH.pack(len(header)) + header


def serve_decoders() -> None:
    """The process that decoder processes are forked from."""
    serve_forks(prepare_decoders)


def prepare_decoders() -> Callable[[], None]:
    """Load everything that decoding and drawing ever load, and say what a decoder process runs."""
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    load_optional_decoders()
    load_resizer()
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG")
    limits = DecodeLimits()
    Decoding(Preprocess())(file.getvalue(), limits)
    # Letters that Pillow's own font lacks: the system's fonts are looked for once.
    Drawing(("\u4e2d",))(file.getvalue(), limits)
    return run_decoder


def run_decoder() -> None:
    """A decoder process: answers one image after the other."""
    serve_images(begin_decoding)


def begin_decoding(setup: bytes) -> tuple[DecodeLimits, Callable[[bytes], bytes]]:
    """The limits on memory, and what answers an image or ends the process by SIGPROF."""
    told = json.loads(setup)
    limits = DecodeLimits(**told["limits"])
    # The timer begins with the image, when all of it is there. It counts CPU time: an image is not to blame for what
    # goes before it.

    def answer(message: bytes) -> bytes:
        return _answer(message, limits)

    work = end_process_when_late(answer, limits, timer=signal.ITIMER_PROF)
    if told["is_background"]:
        work = _in_background(work)
    return replace(limits, max_pixels=told["max_pixels"]), work


def _in_background(work: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """From the first image on. Before that it gets ready, for which others wait."""

    def answer(message: bytes) -> bytes:
        _give_way()
        return work(message)

    return answer


@functools.cache
def _give_way() -> None:
    """Let every thread of the service take a core from this process at once, whatever it does.

    Niceness alone shares: beside a picture of 88 megapixels at niceness 19 a small one waits for half a second.
    """
    with suppress(OSError, AttributeError):  # a system without that class of scheduling
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # Outside of containers Linux shares the cores between sessions before it looks at processes (``sched(7)``,
    # autogroup), and gives a session in which something of no weight runs turns of up to a second. So this process is a
    # session of its own, and that one gives way.
    with suppress(OSError):
        os.setsid()
        _set_autogroup(_MAX_NICENESS)


def _set_autogroup(niceness: int) -> None:
    for _ in range(_MAX_TRIES):
        with suppress(BlockingIOError):  # the system takes one such order in a tenth of a second from ordinary users
            Path("/proc/self/autogroup").write_text(str(niceness))
            return
        time.sleep(random.uniform(0.1, 0.2))


def _answer(message: bytes, limits: DecodeLimits) -> bytes:
    (length,) = _LENGTH.unpack_from(message)
    told = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    data = message[_LENGTH.size + length :]
    if "draw" in told:
        drawn = Drawing(tuple(told["draw"]))(data, limits)
        return write_error(drawn) if isinstance(drawn, ImageError) else b"\0" + drawn.encode()
    return write_answer(Decoding(Preprocess(**told["decode"]))(data, limits))
