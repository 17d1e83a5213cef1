"""Native noise stays off the terminal; people's words and unforeseen failures do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.errors import JobFailedError
with native_stderr_aside():
    os.write(2, b"native noise\\n")
    print("words", file=sys.stderr)
    {end}
os.write(2, b"native afterwards\\n")
"""


@pytest.mark.parametrize(
    ("end", "noise", "afterwards"),
    [("pass", False, True), ("raise JobFailedError('x')", False, False), ("raise RuntimeError('x')", True, False)],
)
def test_native_noise_shows_only_when_something_unforeseen_happens(end: str, noise: bool, afterwards: bool) -> None:
    err = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True, check=False
    ).stderr
    assert "words" in err
    assert ("native noise" in err) == noise
    assert ("native afterwards" in err) == afterwards
