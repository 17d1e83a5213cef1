"""A Python process of our own that answers messages, and whose death is an answer too.

Neither ``multiprocessing`` nor fork: a fork of a process with threads may hang, and ``multiprocessing`` would first run
the parent's main module again, which inside Ray is Ray's own, and takes a second. Replies are plain bytes that the
caller parses: a decoder that was taken over must not get at its parent through a pickle.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

LENGTH = struct.Struct("<Q")
"""Before each message, how many bytes it has."""
IN_MEMORY = 1 << 63
"""Added to the length of a message that does not follow, but lies in the memory of MEMORY_FD."""
MEMORY_FD = 3
# Hardly anything of what an import makes is garbage, and looking for it takes a tenth of the time.
_LOAD = "import gc; gc.disable(); from {module} import {function}; gc.enable(); {function}()"
# Of Linux' prctl.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class ChildDiedError(Exception):
    """The process ended instead of answering."""

    def __init__(self, return_code: int) -> None:
        super().__init__(f"signal {-return_code}" if return_code < 0 else f"exit code {return_code}")
        self.return_code = return_code
        """Minus the signal's number, or the exit code."""


def start_python(
    module: str,
    function: str,
    *,
    stdin: int,
    stdout: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run ``function`` of ``module`` in a new Python that can import what this one can."""
    # The parent decides when the child ends: a Ctrl-C at a terminal goes to all processes of a job, and must not
    # end the work in hand. A child inherits which signals are blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _LOAD.format(module=module, function=function)],
            stdin=stdin,
            stdout=stdout,
            # What this process can import, the child can, however this one came to it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ChildProcess:
    """Runs ``function`` of ``module`` in another process: it calls ``answer_messages``.

    Use as a context manager: at the end the process is gone, whatever it was doing.
    """

    def __init__(self, module: str, function: str) -> None:
        self._process = start_python(module, function, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # what it did not read any more
                    stream.close()

    def ask(self, message: bytes) -> bytes:
        """Send a message and wait for its answer.

        Raises:
            ChildDiedError: there is none; the process cannot be asked again.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # its death is seen below
            write_message(self._process.stdin, message)
        answer = read_message(self._process.stdout)
        if answer is None:
            raise ChildDiedError(self._process.wait())
        return answer


def end_with_parent(number: signal.Signals) -> None:
    """Let the system send this process a signal when the thread that started it ends; on Linux alone."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` show of this process, 15 letters; for its main thread to call, on Linux alone."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def answer_messages(answer: Callable[[bytes], bytes]) -> None:
    """Answer messages until the parent is gone; to be called in the child."""
    messages, answers = open_streams()
    while (message := read_message(messages)) is not None:
        write_message(answers, answer(message))


def open_streams(*, buffered: bool = True) -> tuple[IO[bytes], IO[bytes]]:
    """The child's ends: messages to read, and answers to write.

    Args:
        buffered: False where nothing may be read ahead of the message that is asked for.
    """
    buffer_size = io.DEFAULT_BUFFER_SIZE if buffered else 1
    messages = io.BufferedReader(io.FileIO(os.dup(0)), buffer_size)
    answers = os.fdopen(os.dup(1), "wb")
    # A program that this process starts gets 0, 1 and 2 alone. With a connection among them it would keep that open
    # after this process has died, and the parent would not see the death.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A library that prints must not write between the answers.
    os.dup2(2, 1)
    return messages, answers


def write_message(stream: IO[bytes], message: bytes) -> None:
    """Write one message, all of it."""
    stream.write(LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes | None:
    """Wait for one message; None where the other side is gone."""
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    if length & IN_MEMORY:
        length -= IN_MEMORY
        message = os.pread(MEMORY_FD, length, 0)
    else:
        message = stream.read(length)
    return message if len(message) == length else None
