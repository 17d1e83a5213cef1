"""Processes that are there in milliseconds: forks of a server that has everything loaded already.

A process with threads must not fork itself, and a new Python takes seconds to load what a decoder needs. So one process
of a single thread loads it once and forks on request; it also ends its forks and says how they ended. All of them end
with their parent, however that ends.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from imgcls_ray.workers.child import IN_MEMORY, LENGTH, MEMORY_FD, ChildDiedError, end_with_parent, start_python

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A request is a process to end, or 0 with the socket and the memory of a new one. The answer is how it ended, or the
# id of the new one.
_NUMBER = struct.Struct("<i")
# Larger messages go through shared memory. A socket holds some 200 kB, and both ends would take turns for each of them:
# on a busy machine every turn costs milliseconds.
_MAX_SOCKET_BYTES = 128 * 2**10
# Of that memory so much is used again for the next message; making it anew costs more than copying into it.
_KEPT_BYTES = 8 * 2**20
_CANNOT_FORK = -1
# It is killed and not gone yet. No exit code and no signal has this number.
_DYING = 1 << 16
_ASK_AGAIN_S = 0.01
# Its connection, and the memory for large messages.
_FILES_OF_FORK = 2
_TIME = struct.Struct("@ll")
# Loading comes before the first answer: from a slow disk it takes a minute.
_SERVER_TIMEOUT_S = 180.0
_CLOSE_TIMEOUT_S = 5.0
# Libraries that start threads when they are loaded would make the server one that must not fork.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# On virtual machines every other process waits while the kernel takes gigabytes back or hands them out. So a fork has
# its memory in pages of 2 MB, and keeps it for what comes next: whoever forks ends a fork that has nothing more to do.
_ALL_MEMORY = 1 << 46
_MALLOC = (
    "glibc.malloc.hugetlb=1",
    f"glibc.malloc.mmap_threshold={_ALL_MEMORY}",
    f"glibc.malloc.trim_threshold={_ALL_MEMORY}",
)


class ForkServerDiedError(Exception):
    """The server is gone, and its forks with it: none of them is to blame."""


class ForkServer:
    """Runs ``function`` of ``module``, which calls ``serve_forks``, in another process. Safe to call from threads.

    Args:
        module, function: of the server.
        keeps_memory: a fork keeps its memory, in large pages, for what comes next.
    """

    def __init__(self, module: str, function: str, *, keeps_memory: bool = True) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            environment = dict(_ONE_THREAD)
            if keeps_memory:
                # What comes last wins: an operator's own tunables hold.
                tunables = ":".join(filter(None, (*_MALLOC, os.environ.get("GLIBC_TUNABLES"))))
                environment["GLIBC_TUNABLES"] = tunables
            self._process = start_python(module, function, stdin=theirs.fileno(), environment=environment)
        self._socket.settimeout(_SERVER_TIMEOUT_S)
        self._lock = threading.Lock()
        self._is_ready = False
        self.is_gone = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self) -> Fork:
        """Make a process; the first one waits until the server has loaded everything.

        Raises:
            ForkServerDiedError: there is no server any more.
            OSError: the system cannot start another process.
        """
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("message")
        try:
            with theirs:
                pid = self._ask(0, theirs.fileno(), memory)
            if pid == _CANNOT_FORK:
                raise OSError("the system cannot start another process")
        except BaseException:
            ours.close()
            os.close(memory)
            raise
        return Fork(self, pid, ours, memory)

    def end(self, pid: int) -> int:
        """End a fork and leave nothing of it, which waits for that one process and keeps nobody else from the server.

        What has gigabytes to give back, and gives way to everybody, takes seconds on a busy machine.

        Returns:
            Minus the signal's number, or the exit code; that of its own end where that came first.

        Raises:
            ForkServerDiedError: it has ended with the server.
        """
        while (ended := self._ask(pid)) == _DYING:
            time.sleep(_ASK_AGAIN_S)
        return ended

    def _ask(self, number: int, *passed: int) -> int:
        with self._lock:
            if self.is_gone:
                raise ForkServerDiedError
            try:
                socket.send_fds(self._socket, [_NUMBER.pack(number)], passed)
                answer = self._socket.recv(_NUMBER.size)
                if len(answer) < _NUMBER.size:
                    raise EOFError("the server is gone")
            except (OSError, EOFError) as error:
                self.is_gone = True
                raise ForkServerDiedError from error
            self._is_ready = True
        return int(_NUMBER.unpack(answer)[0])

    def close(self) -> None:
        """End the server and its forks."""
        # Nothing of a server that still loads has to be ended but itself; one that is ready ends its forks first.
        if not self._is_ready:
            self._process.kill()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._lock:
            self.is_gone = True
            self._socket.close()


class Fork:
    """One process. One thread asks it, or speaks through its connection; any thread may interrupt it."""

    def __init__(self, server: ForkServer, pid: int, connection: socket.socket, memory: int) -> None:
        self._server = server
        self.pid = pid
        self._socket = connection
        self._memory: int | None = memory
        self._lock = threading.Lock()

    @property
    def connection(self) -> socket.socket:
        """The other end of the process' stdin and stdout, for who does not wait for one answer after the other."""
        return self._socket

    def ask(self, *message: bytes, timeout_s: float, max_bytes: int) -> bytes:
        """Send a message, in parts, and wait for its answer, which has at most ``max_bytes``.

        Raises:
            ChildDiedError: the process ended instead, or answered what is none. It is gone.
            TimeoutError: there was no answer in time. It is gone.
            ForkServerDiedError: it has ended with the server.
        """
        deadline = time.monotonic() + timeout_s
        num_bytes = sum(map(len, message))
        parts = [LENGTH.pack(num_bytes), *message]
        try:
            if num_bytes > _MAX_SOCKET_BYTES:
                self._write_memory(message)
                parts = [LENGTH.pack(num_bytes + IN_MEMORY)]
            # Timeouts of the kernel and one call for all: with Python's, a thread would ask for the interpreter again
            # for each few hundred kilobytes.
            self._set_timeout(socket.SO_SNDTIMEO, timeout_s)
            with suppress(BrokenPipeError, ConnectionResetError):  # its death is seen below
                if self._socket.sendmsg(parts) < sum(map(len, parts)):
                    raise TimeoutError
            header = self._receive(LENGTH.size, deadline)
            if len(header) == LENGTH.size:
                (length,) = LENGTH.unpack(header)
                # One that promises more than it may say is no decoder any more.
                if length <= max_bytes and len(answer := self._receive(length, deadline)) == length:
                    return answer
        except (TimeoutError, BlockingIOError) as error:
            self.end()
            raise TimeoutError(f"no answer within {timeout_s:g} s") from error
        except OSError:  # interrupted
            pass
        raise ChildDiedError(self.end())

    def is_waiting(self) -> bool:
        """Whether it waits for a message: one that ended meanwhile, or writes unasked, does not."""
        with self._lock:
            if self._socket.fileno() < 0:
                return False
            readable = select.poll()  # select knows no file descriptors above 1023
            readable.register(self._socket, select.POLLIN)
            return not readable.poll(0)

    def interrupt(self) -> None:
        """Let whoever asks it get a ``ChildDiedError`` at once; costs the caller nothing."""
        with self._lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> int:
        """End the process, whatever it does. Returns and raises as ``ForkServer.end``."""
        with self._lock:
            self._socket.close()
            if self._memory is not None:
                os.close(self._memory)
                self._memory = None
        return self._server.end(self.pid)

    def _write_memory(self, message: Sequence[bytes]) -> None:
        assert self._memory is not None
        if os.fstat(self._memory).st_size > _KEPT_BYTES:
            os.ftruncate(self._memory, 0)
        offset = 0
        for part in message:
            if os.pwrite(self._memory, part, offset) < len(part):
                raise OSError("there is no memory for the message")
            offset += len(part)

    def _receive(self, num_bytes: int, deadline: float) -> bytes:
        """So many bytes, fewer if the connection ends."""
        received = bytearray(num_bytes)
        view, num_received = memoryview(received), 0
        while num_received < num_bytes:
            self._set_timeout(socket.SO_RCVTIMEO, deadline - time.monotonic())
            count = self._socket.recv_into(view[num_received:], 0, socket.MSG_WAITALL)
            if not count:
                break
            num_received += count
        return bytes(view[:num_received])

    def _set_timeout(self, option: int, seconds: float) -> None:
        if seconds <= 0:
            raise TimeoutError
        # Zero would be for ever.
        self._socket.setsockopt(socket.SOL_SOCKET, option, _TIME.pack(int(seconds), int(seconds % 1 * 1e6) or 1))


def serve_forks(prepare: Callable[[], Callable[[], None]]) -> None:
    """Fork and end processes until the parent is gone; to be called in the server, by its only thread.

    Args:
        prepare: loads what the forks need, and says what each of them runs, with its connection as stdin and stdout:
            ``answer_messages``.
    """
    with socket.socket(fileno=os.dup(0)) as control:
        # While it imports, nothing looks for garbage, of which there is hardly any.
        gc.disable()
        run = prepare()
        # Pages that no collection writes to stay shared with the forks.
        gc.collect()
        gc.freeze()
        gc.enable()
        forks: set[int] = set()
        try:
            while True:
                request, passed, _, _ = socket.recv_fds(control, _NUMBER.size, _FILES_OF_FORK)
                if len(request) < _NUMBER.size:
                    return
                (number,) = _NUMBER.unpack(request)
                answer = _CANNOT_FORK
                if number in forks:
                    answer = _end(number)
                    if answer != _DYING:
                        forks.discard(number)
                elif len(passed) == _FILES_OF_FORK:
                    answer = _fork(run, control, *passed)
                    forks.add(answer)
                else:  # there was no room for one more open file
                    for file in passed:
                        os.close(file)
                control.sendall(_NUMBER.pack(answer))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            forks.discard(_CANNOT_FORK)
            for pid in forks:
                os.kill(pid, signal.SIGKILL)
            for pid in forks:
                os.waitpid(pid, 0)


def _fork(run: Callable[[], None], control: socket.socket, connection: int, memory: int) -> int:
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        pid = _CANNOT_FORK
    if pid == 0:
        _be_fork(run, control, connection, memory, server)
    os.close(connection)
    os.close(memory)
    return pid


def _be_fork(run: Callable[[], None], control: socket.socket, connection: int, memory: int, server: int) -> NoReturn:
    exit_code = 1
    try:
        _end_with(server)
        # A core file of gigabytes takes longer to write than everything else.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        control.close()
        os.dup2(connection, 0)
        os.dup2(connection, 1)
        os.close(connection)
        if memory != MEMORY_FD:
            os.dup2(memory, MEMORY_FD)
            os.close(memory)
        run()
        exit_code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(exit_code)


def _end_with(server: int) -> None:
    """Let this process end when the server does: the parent's connection alone would not end one that computes."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _end(pid: int) -> int:
    """Kill a process; how it ended, or ``_DYING``."""
    # A process that has ended keeps its id, and how it ended, until it is waited for.
    os.kill(pid, signal.SIGKILL)
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else _DYING
