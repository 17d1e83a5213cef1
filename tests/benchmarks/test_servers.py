"""A server and what it starts, as the benchmarks know it."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.servers import end_session, processes_of
from tests.serve.conftest import wait_until


def test_a_process_that_has_a_session_of_its_own_still_belongs_to_the_server() -> None:
    child = "import os, time; os.setsid(); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    server = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        wait_until(
            lambda: any(os.getsid(process.pid) == process.pid != server.pid for process in processes_of(server.pid))
        )
        assert os.getpid() not in [process.pid for process in processes_of(server.pid)]
        processes = processes_of(server.pid)
    finally:
        end_session(server.pid)
        server.wait()
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in processes))
