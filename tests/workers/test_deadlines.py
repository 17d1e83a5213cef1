"""The time that one image may take, with one thread and with several that share the process' one timer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# Thread A has images of 0.2 s. Thread B has one that holds the interpreter, or lets it go, and never ends.
_WORK = """
import ctypes, sys, threading, time
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.workers.decoding import end_process_when_late

def work(data):
    if data == b"short":
        time.sleep(0.2)
    elif data == b"lets go":
        time.sleep(3600)
    elif data == b"holds":
        ctypes.PyDLL(None).sleep(3600)

timed = end_process_when_late(work, DecodeLimits(timeout_s=1.0))
stuck = threading.Thread(target=timed, args=(sys.argv[1].encode(),))

def many():
    for _ in range(int(sys.argv[2])):
        timed(b"short")

others = [threading.Thread(target=many) for _ in range(3)]
for thread in (*others[:1], stuck, *others[1:]):
    thread.start()
    time.sleep(0.05)
for thread in others:
    thread.join()
stuck.join()
# Longer than the bound: no timer is left behind.
time.sleep(1.5)
print("done", flush=True)
"""


def run(*arguments: str) -> tuple[int, str, float]:
    start = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", _WORK, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return ran.returncode, ran.stdout, time.monotonic() - start


@pytest.mark.parametrize("how", ["lets go", "holds"])
def test_an_image_that_never_ends_ends_the_process_whatever_other_threads_do(how: str) -> None:
    code, _, seconds = run(how, "100")
    assert code == -signal.SIGALRM
    # One second, and Python's start: not the twenty of the other threads.
    assert seconds < 15


def test_threads_whose_images_end_in_time_are_left_alone() -> None:
    # Two seconds of them, with a bound of one second for each.
    assert run("short", "10")[:2] == (0, "done\n")
