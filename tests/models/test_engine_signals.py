"""A signal reaches its handler whatever engines have come and gone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder

PROGRAM = """
import gc, os, signal, sys, threading
from pathlib import Path
from imgcls_ray.models.engines.load import load_engine
from imgcls_ray.models.folder import open_model_folder

def handle(number, frame):
    print("handled")

signal.signal(signal.SIGTERM, handle)
engines = [load_engine(open_model_folder(Path(sys.argv[1])), engine="openvino", num_threads=1)]

def forget():
    engines.clear()
    gc.collect()

thread = threading.Thread(target=forget)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def test_a_signal_after_an_engine_was_forgotten_in_another_thread(small_model: ModelFolder) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(small_model.path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["handled", "alive"]), done.stderr
