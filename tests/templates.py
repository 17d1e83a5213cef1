"""Fork servers in milliseconds: forks of one process that has loaded what they need.

A server of its own takes seconds of work, and most tests that label or serve need one. What such a fork does is the
server's own code. That a server also comes up in a new Python, tests of commands in processes of their own show.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from imgcls_ray.workers import forks
from imgcls_ray.workers.child import MEMORY_FD
from imgcls_ray.workers.forks import ForkServer, ForkServerDiedError, serve_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Whose workers tests fork in their own process.
_JOBS = ("imgcls_ray.predict.label", "imgcls_ray.evaluate.classifying", "imgcls_ray.datasets.inspecting")


class Templates:
    """The process that the servers of this test process are forked from; it is there when the first one is wanted.

    Args:
        module, function: of that process: it calls ``serve_templates``.
        keeps_memory: as the servers have it.
    """

    def __init__(self, module: str, function: str, *, keeps_memory: bool) -> None:
        self._module, self._function, self._keeps_memory = module, function, keeps_memory
        self._server: ForkServer | None = None

    def start_python(
        self, module: str, function: str, *, stdin: int, environment: Mapping[str, str] | None = None
    ) -> ForkedPython:
        """As ``workers.child.start_python``, without a new Python."""
        if self._server is None or self._server.is_gone:
            self._server = ForkServer(self._module, self._function, keeps_memory=self._keeps_memory)
        told = {
            "module": module,
            "function": function,
            "environment": {**os.environ, **(environment or {})},
            "folder": os.getcwd(),
        }
        memory = os.memfd_create("function")
        try:
            os.write(memory, json.dumps(told).encode())
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
                raise subprocess.TimeoutExpired("a forked server", timeout_s)
            time.sleep(0.005)
        self.kill()


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def forked_from(templates: Templates, is_meant: Callable[[str], bool]) -> Iterator[None]:
    """Fork the servers of some modules; all others, and the templates, come up in the ordinary way."""
    start = vars(forks)["start_python"]

    def start_python(module: str, function: str, **options: Any) -> Any:
        return (templates.start_python if is_meant(module) else start)(module, function, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "start_python", start_python)
        yield
    templates.close()


def job_templates() -> Templates:
    """For the servers that workers of jobs on this machine are forked from."""
    return Templates(__name__, serve_job_templates.__name__, keeps_memory=False)


def is_job(module: str) -> bool:
    return module in _JOBS


def serve_job_templates() -> None:
    from imgcls_ray.models.engines.openvino_core import openvino_core
    from imgcls_ray.workers.without_pandas import spare_pandas

    def load() -> None:
        # What these servers load themselves is there already.
        spare_pandas()
        for module in _JOBS:
            importlib.import_module(module)
        openvino_core()

    serve_templates(load)


def serve_templates(load: Callable[[], None]) -> None:
    """Be the process that servers are forked from."""

    def prepare() -> Callable[[], None]:
        load()
        return _run

    serve_forks(prepare)
    # As workers' servers do: the end of an interpreter with many libraries takes a moment.
    os._exit(0)


def _run() -> None:
    told = json.loads(os.pread(MEMORY_FD, os.fstat(MEMORY_FD).st_size, 0))
    os.close(MEMORY_FD)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    getattr(importlib.import_module(told["module"]), told["function"])()
