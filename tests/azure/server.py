"""A real Azure Blob server for tests: Microsoft's emulator Azurite on loopback, objects in memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from tests.s3.server import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The only account of the emulator, and its key, are the same everywhere and published.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_PROGRAMS = ("node", "azurite-blob", "setpriv")
_START_DEADLINE_S = 60


class AzureServer(NamedTuple):
    """A running server."""

    url: str
    """Without the account, as a proxy goes on to it."""

    def create_container(self, name: str) -> None:
        self._ask("PUT", f"/{name}", "restype:container")

    def _ask(self, method: str, path: str, *query: str) -> None:
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
        signed = "\n".join([method, *[""] * 11, headers, f"/{ACCOUNT}/{ACCOUNT}{path}", *sorted(query)])
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        url = f"{self.url}/{ACCOUNT}{path}?{'&'.join(item.replace(':', '=') for item in query)}"
        request = urllib.request.Request(url, method=method, headers=dict(h.split(":", 1) for h in headers.split("\n")))
        request.add_header("Authorization", f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}")
        urllib.request.urlopen(request, timeout=10).close()


def missing_programs() -> list[str]:
    """What the server needs and this machine has not."""
    return [program for program in _PROGRAMS if shutil.which(program) is None]


@contextmanager
def azure_server(folder: Path) -> Iterator[AzureServer]:
    """Start a server, and end it with the block; it also ends with the thread that started it."""
    (port,) = free_ports(1)
    command = ["setpriv", "--pdeathsig", "KILL", "--", "azurite-blob", "--blobHost", "127.0.0.1"]
    # What it does not know, a newer client sends all the same.
    command += ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with (folder / "azurite.out").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        server = AzureServer(f"http://127.0.0.1:{port}")
        _wait_for_answer(server.url, process)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Azurite does not start: {error}") from error
        time.sleep(0.1)
