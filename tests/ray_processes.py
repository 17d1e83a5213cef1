"""Processes of the Ray that a test process has started, so that a test can kill one and nobody else's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def own_ray_processes(title: str) -> list[int]:
    """Ids of the processes of this process' Ray that have a text in the titles that Ray gives them."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes()
            if not words.startswith(b"ray::") or title.encode() not in words:
                continue
            raylet = (entry / "environ").read_bytes().partition(b"RAY_RAYLET_PID=")[2].split(b"\0")[0].decode()
            parent = Path("/proc", raylet, "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                pids.append(int(entry.name))
    return pids
