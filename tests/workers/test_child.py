"""The ends of a child's connection: who keeps them open, and what is read ahead."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.workers.child import LENGTH, ChildDiedError
from imgcls_ray.workers.forks import ForkServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODULE = """
import os
import select
import subprocess
from pathlib import Path
from imgcls_ray.workers.child import open_streams, read_message, write_message
from imgcls_ray.workers.forks import serve_forks

def start_a_program_and_die():
    messages, _ = open_streams()
    path = read_message(messages).decode()
    # Files that are not closed for it, as multiprocessing starts the server of its processes.
    program = subprocess.Popen(["sleep", "60"], close_fds=False)
    Path(path).write_text(str(program.pid))
    os._exit(3)

def look_for_more():
    messages, answers = open_streams(buffered=False)
    read_message(messages)
    waiting = select.poll()
    waiting.register(messages, select.POLLIN)
    write_message(answers, b"more" if waiting.poll(0) else b"nothing")

def serve_deaths():
    serve_forks(lambda: start_a_program_and_die)

def serve_looks():
    serve_forks(lambda: look_for_more)
"""


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    (tmp_path / "for_test_child.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    server = ForkServer("for_test_child", request.param)
    yield server
    server.close()


@pytest.mark.parametrize("server", ["serve_deaths"], indirect=True)
def test_a_program_that_a_child_started_does_not_hide_its_death(server: ForkServer, tmp_path: Path) -> None:
    path = tmp_path / "program"
    try:
        with pytest.raises(ChildDiedError, match="exit code 3"):
            server.fork().ask(str(path).encode(), timeout_s=20, max_bytes=1)
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("server", ["serve_looks"], indirect=True)
def test_unbuffered_what_follows_a_message_can_be_waited_for(server: ForkServer) -> None:
    fork = server.fork()
    fork.connection.settimeout(20)
    fork.connection.sendall(LENGTH.pack(4) + b"task" + b"s")
    assert fork.connection.recv(LENGTH.size + 4) == LENGTH.pack(4) + b"more"
    fork.end()
