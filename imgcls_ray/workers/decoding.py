"""Decode images of which one may end the process that tries, or never come to an end.

The ordinary way costs two microseconds more than nothing: a timer of the kernel ends a worker that sits on one image.
The careful way, for blocks that have ended a worker twice, decodes in a child process: the guilty image gets its code,
and nothing else is hurt. Both run the same function, so the pixels are the same.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode, JobFailedError
from imgcls_ray.images.crops import Crop, Picture
from imgcls_ray.images.limits import PEAK_BYTES_PER_PIXEL, DecodeLimits
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.images.resize import load_resizer
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from imgcls_ray.workers.child import ChildDiedError, ChildProcess, answer_messages, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

Decode = Callable[[bytes | Crop], ModelInput | ImageError]
E = TypeVar("E")
R = TypeVar("R")

_BYTES_FOR_THE_REST = 512 * 2**20
_SIZE = struct.Struct("<II")


def decode_in_time(preprocess: Preprocess, limits: DecodeLimits) -> Decode:
    """The ordinary way. An image that takes longer than ``limits.timeout_s`` ends the process by SIGALRM."""

    def decode(data: bytes | Crop) -> ModelInput | ImageError:
        return decode_model_input(data, preprocess, limits)

    return end_process_when_late(decode, limits)


def end_process_when_late(
    work: Callable[[E], R], limits: DecodeLimits, *, timer: int = signal.ITIMER_REAL
) -> Callable[[E], R]:
    """Give work on one image ``limits.timeout_s``; then the process ends by SIGALRM.

    With ``timer=signal.ITIMER_PROF`` it is seconds of CPU time, and the signal is SIGPROF: for a process that others go
    before, and whose image is not to blame for that. There, one thread works at a time.

    A timer of the kernel and the signal's default action, because a decoder in C may never give the GIL back: no
    handler and no thread of Python's would run. ``faulthandler.dump_traceback_later`` needs no GIL either, but starts a
    thread for each image, 54 microseconds against two. The process must have no other use for the signal, which holds
    for a worker, and only one such function is in use at a time. Threads may share it: a process has only one timer,
    which is always set for the image that was begun first.
    """
    lock = threading.Lock()
    # When each thread began its image, the oldest first.
    begun: dict[int, float] = {}

    def timed(data: E) -> R:
        thread = threading.get_ident()
        with lock:
            if not begun:
                signal.setitimer(timer, limits.timeout_s)
            begun[thread] = time.monotonic()
        try:
            return work(data)
        finally:
            with lock:
                was_oldest = next(iter(begun)) == thread
                del begun[thread]
                if was_oldest:
                    oldest = next(iter(begun.values()), None)
                    # Zero would be no timer at all.
                    left = 0.0 if oldest is None else max(oldest + limits.timeout_s - time.monotonic(), 1e-6)
                    signal.setitimer(timer, left)

    return timed


@contextmanager
def decode_in_child(preprocess: Preprocess, limits: DecodeLimits) -> Iterator[Decode]:
    """The careful way: an image that ends its process gets ``decoder_crashed`` or ``decode_timeout``."""
    task = json.dumps({"preprocess": asdict(preprocess), "limits": asdict(limits)}).encode()
    with ask_child(__name__, "serve_decoding", task, limits) as ask:

        def decode(data: bytes | Crop) -> ModelInput | ImageError:
            if isinstance(data, Crop) and data.picture.failure is not None:
                return data.picture.failure
            answer = ask(write_image(data))
            if isinstance(answer, ImageError):
                # It ended the child: it is the picture, which would end one for each of its boxes.
                if isinstance(data, Crop):
                    data.picture.failure = answer
                return answer
            return read_answer(answer, preprocess.crop_size)

        yield decode


@contextmanager
def ask_child(
    module: str, function: str, task: bytes, limits: DecodeLimits
) -> Iterator[Callable[[bytes], bytes | ImageError]]:
    """Work on images in a child, and in another one after an image that ended its process: that one gets its code.

    Args:
        module, function: what the child runs; it calls ``serve_images``.
        task: its first message.
        limits: those that the child keeps.
    """
    child: ChildProcess | None = None

    def ask(data: bytes) -> bytes | ImageError:
        nonlocal child
        if child is None:
            child = ChildProcess(module, function)
            try:
                # It answers when it can decode: an image must not pay for the imports, nor be blamed for them.
                child.ask(task)
            except ChildDiedError as death:
                raise JobFailedError(f"the decoder process did not start: {death}") from death
        try:
            return child.ask(data)
        except ChildDiedError as death:
            child.kill()
            child = None
            return error_of_death(death, limits)

    try:
        yield ask
    finally:
        if child is not None:
            child.kill()


def error_of_death(death: ChildDiedError, limits: DecodeLimits) -> ImageError:
    """The error of the image that ended its process."""
    if death.return_code in (-signal.SIGALRM, -signal.SIGPROF):
        return late(limits)
    return ImageError(ImageErrorCode.DECODER_CRASHED, str(death))


def late(limits: DecodeLimits) -> ImageError:
    """The error of an image that took too long."""
    return ImageError(ImageErrorCode.DECODE_TIMEOUT, f"more than {limits.timeout_s:g} s")


def serve_decoding() -> None:
    """The child of ``decode_in_child``."""
    end_with_parent(signal.SIGKILL)

    def begin(task: bytes) -> tuple[DecodeLimits, Callable[[bytes], bytes]]:
        told = json.loads(task)
        limits = DecodeLimits(**told["limits"])
        decode = decode_in_time(Preprocess(**told["preprocess"]), limits)
        return limits, lambda message: write_answer(decode(read_image(message)))

    serve_images(begin)


def serve_images(begin: Callable[[bytes], tuple[DecodeLimits, Callable[[bytes], bytes]]]) -> None:
    """The child's end of ``ask_child``: the first message is the task, each further one an image.

    Args:
        begin: makes of the task the limits to keep, and what answers an image.
    """
    work: Callable[[bytes], bytes] | None = None

    def answer(message: bytes) -> bytes:
        nonlocal work
        if work is None:
            limits, work = begin(message)
            load_resizer()
            _limit_memory(limits)
            return b"ready"
        return work(message)

    answer_messages(answer)


def _limit_memory(limits: DecodeLimits) -> None:
    """Let this process have as much more than it has as one image may take: a bomb is to end here, and nobody else."""
    num_bytes = PEAK_BYTES_PER_PIXEL * limits.max_pixels + 4 * limits.max_bytes + _BYTES_FOR_THE_REST
    try:
        # Where the system runs out all the same, this process is the one to go.
        Path("/proc/self/oom_score_adj").write_text("1000")
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # not Linux: only the limits of the decoder hold
    limit = num_pages * os.sysconf("SC_PAGESIZE") + num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def write_image(data: bytes | Crop) -> bytes:
    """An image for a child: its box, which is empty for a whole picture, a zero byte, and the file."""
    return data.box.encode() + b"\0" + data.picture.data if isinstance(data, Crop) else b"\0" + data


def read_image(message: bytes) -> bytes | Crop:
    """What ``write_image`` wrote."""
    box, _, data = message.partition(b"\0")
    return Crop(Picture(data), box.decode()) if box else data


def write_error(error: ImageError) -> bytes:
    """An image's error as a child's answer."""
    return json.dumps({"code": error.code, "detail": error.detail}).encode()


def read_error(answer: bytes) -> ImageError | None:
    """The error that a child's answer is; None where it is a result, which begins with a zero byte."""
    if answer[:1] == b"\0":
        return None
    error: dict[str, Any] = json.loads(answer)
    return ImageError(ImageErrorCode(error["code"]), error["detail"])


def write_answer(result: ModelInput | ImageError) -> bytes:
    """A decoded image, or its error, as a child's answer."""
    if isinstance(result, ImageError):
        return write_error(result)
    return b"\0" + _SIZE.pack(result.width, result.height) + result.pixels.tobytes()


def read_answer(answer: bytes, crop_size: int) -> ModelInput | ImageError:
    """What ``write_answer`` wrote."""
    error = read_error(answer)
    if error is not None:
        return error
    width, height = _SIZE.unpack_from(answer, 1)
    pixels = np.frombuffer(answer, np.uint8, offset=1 + _SIZE.size).reshape(crop_size, crop_size, 3)
    return ModelInput(pixels, width=width, height=height)
