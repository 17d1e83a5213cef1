"""Run ``pip install`` and show that it is alive: ``VENV/bin/python tools/pip_install.py ARGUMENTS OF PIP INSTALL``.

pip in full fills the screen with several hundred lines, and ``--quiet`` is silent for minutes. This prints large
downloads and, whenever ten seconds were silent, how far the environment has grown. All of pip's lines are in
``VENV/pip.log``. Needs nothing but Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

_SILENCE_S = 10.0
_LARGE_MB = 20.0
_DOWNLOAD = re.compile(r"^\s*Downloading (?:\S*/)?(\S+?)-(\d\S*?)-\S+ \(([\d.]+) ([kMG])B\)")
_IN_MB = {"k": 1e-3, "M": 1.0, "G": 1e3}


def main() -> None:
    """Install, and leave with pip's exit code; what pip says of errors goes to stderr as it comes."""
    venv = Path(sys.prefix)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    process = subprocess.Popen([*pip, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, errors="replace")
    progress = _Progress(venv)
    threading.Thread(target=progress.tell_of_silence, daemon=True).start()
    assert process.stdout is not None
    try:
        with (venv / "pip.log").open("w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                progress.read(line)
        code = process.wait()
    except KeyboardInterrupt:  # pip got it too, and ends by itself
        code = process.wait()
    progress.say(f"done: {progress.state()}" if code == 0 else f"pip ended with exit code {code}; see {venv}/pip.log")
    sys.exit(code)


class _Progress:
    """What pip has done so far, in few lines."""

    def __init__(self, venv: Path) -> None:
        self._venv = venv
        self._start = self._last = time.monotonic()
        self._downloaded_mb = 0.0
        self._doing = "looking for packages"

    def read(self, line: str) -> None:
        """Take in a line of pip's."""
        if line.startswith("Installing collected packages"):
            self._doing = f"installing {line.count(',') + 1} packages"
            self.say(self._doing)
        elif (match := _DOWNLOAD.match(line)) is not None:
            name, version, number, unit = match.groups()
            size_mb = float(number) * _IN_MB[unit]
            self._downloaded_mb += size_mb
            self._doing = "looking for packages"
            if size_mb >= _LARGE_MB:
                self._doing = f"downloading {name} {version} ({size_mb:,.0f} MB)"
                self.say(self._doing)

    def tell_of_silence(self) -> None:
        """Say where it is whenever nothing was said for a while; a thread of its own runs this."""
        while True:
            time.sleep(1.0)
            if time.monotonic() - self._last >= _SILENCE_S:
                self.say(f"{self._doing}; {self.state()}")

    def state(self) -> str:
        """Time and size."""
        seconds = time.monotonic() - self._start
        return f"{seconds:.0f} s, {self._downloaded_mb:,.0f} MB downloaded, {_size_gb(self._venv):.1f} GB on disk"

    def say(self, text: str) -> None:
        """Print one line, also where nobody but a file reads it."""
        self._last = time.monotonic()
        print(f"  {text}", flush=True)


def _size_gb(folder: Path) -> float:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:  # pip moves files while they are counted
                continue
    return total / 1e9


if __name__ == "__main__":
    main()
