"""Child processes look for no garbage while they import, and do so afterwards."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from imgcls_ray.workers.child import start_python
from imgcls_ray.workers.forks import ForkServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_MODULE = """
import gc
from imgcls_ray.workers.child import answer_messages
from imgcls_ray.workers.forks import serve_forks

states = [gc.isenabled()]

def tell():
    print(*states, gc.isenabled())

def prepare():
    states.append(gc.isenabled())
    return lambda: answer_messages(lambda _: f"{states} {gc.isenabled()}".encode())

def serve():
    serve_forks(prepare)
"""


def test_a_child_looks_for_garbage_when_it_has_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told_of_garbage.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    child = start_python("told_of_garbage", "tell", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.communicate()[0] == b"False True\n"


def test_a_fork_looks_for_garbage_and_its_server_did_not_while_it_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told_of_garbage.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    server = ForkServer("told_of_garbage", "serve")
    try:
        assert server.fork().ask(b"", timeout_s=20, max_bytes=100) == b"[False, False] True"
    finally:
        server.close()
