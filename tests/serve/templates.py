"""Servers of decoder processes in milliseconds: forks of one process that has loaded what they need.

A server of its own takes seconds of work, and most tests of the service need one. What a fork does is the server's own
code, but that large pictures do not give way; tests with real replicas show that it also comes up in a new Python.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from imgcls_ray.serve import decoders
from imgcls_ray.workers.child import MEMORY_FD
from imgcls_ray.workers.forks import ForkServer, ForkServerDiedError, serve_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_NAME_BYTES = 1000


class Templates:
    """The process that the servers of this test process are forked from; it is there when the first one is wanted."""

    def __init__(self) -> None:
        self._server: ForkServer | None = None

    def start_python(
        self, module: str, function: str, *, stdin: int, environment: Mapping[str, str] | None = None
    ) -> ForkedPython:
        """As ``workers.child.start_python``, without a new Python; the environment is the template's."""
        if self._server is None or self._server.is_gone:
            self._server = ForkServer(__name__, serve_templates.__name__)
        memory = os.memfd_create("function")
        try:
            os.write(memory, f"{module} {function}".encode())
            return ForkedPython(self._server, self._server._ask(0, stdin, memory))
        finally:
            os.close(memory)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class ForkedPython:
    """What a ``ForkServer`` wants of a ``subprocess.Popen``."""

    def __init__(self, template: ForkServer, pid: int) -> None:
        self._template = template
        self.pid = pid

    def kill(self) -> None:
        with suppress(ForkServerDiedError):
            self._template.end(self.pid)

    def wait(self, timeout_s: float | None = None) -> None:
        deadline = time.monotonic() + (timeout_s or 0)
        while _runs(self.pid):
            if timeout_s is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a server of decoder processes", timeout_s)
            time.sleep(0.005)
        self.kill()


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def serve_templates() -> None:
    def prepare() -> Callable[[], None]:
        decoders.prepare_decoders()
        # Beside other tests no core is ever idle, and large pictures would not be done.
        vars(decoders)["_give_way"] = lambda: None
        return _run

    serve_forks(prepare)


def _run() -> None:
    module, function = os.pread(MEMORY_FD, _MAX_NAME_BYTES, 0).decode().split()
    os.close(MEMORY_FD)
    getattr(importlib.import_module(module), function)()
