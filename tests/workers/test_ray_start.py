"""A wrong RAY_ADDRESS, and a machine on which Ray cannot start, are one line at once."""

from __future__ import annotations

import errno
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import ImgclsError, ResourceError, StorageError
from imgcls_ray.workers.ray_cluster import is_cluster_given
from imgcls_ray.workers.ray_start import cluster_address, starting_ray

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "is the job server of Ray's dashboard, not the cluster itself"),
        ("HTTPS://head:8265/", "is the job server of Ray's dashboard, not the cluster itself"),
        ("ray://head:10001", "Ray clients are not supported"),
        ("anyscale://x", "Ray clients are not supported"),
        ("foo", "is not HOST:PORT"),
        (":6379", "is not HOST:PORT"),
        ("head:", "is not HOST:PORT"),
        ("head:port", "is not HOST:PORT"),
        ("head:99999", "is not HOST:PORT"),
        ("::1:6379", "is not HOST:PORT"),
        (" ", "is not HOST:PORT"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError) as caught:
        is_cluster_given()
    assert (
        f"RAY_ADDRESS={address}: {message}; set it to auto on a node of the cluster or to HEAD:6379, or unset it"
        in str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://me:secret@head:8265")
    with pytest.raises(ResourceError) as caught:
        cluster_address()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "meant"),
    [("auto", "auto"), ("head:6379", "head:6379"), ("[::1]:6379", "[::1]:6379"), ("local", None), ("", None)],
)
def test_addresses_of_clusters_are_taken(monkeypatch: pytest.MonkeyPatch, address: str, meant: str | None) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() == meant


def join(address: str) -> str:
    """What is said of an address, before Ray is asked to join it."""
    start = time.monotonic()
    with pytest.raises(ResourceError) as caught, starting_ray(address):
        raise AssertionError("Ray would wait for minutes")
    assert time.monotonic() - start < 8
    return str(caught.value)


@pytest.fixture
def web_server() -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_port_that_refuses_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        assert "cannot be reached (Connection refused); set it to auto" in join(f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_name_that_is_not_known_is_told() -> None:
    assert "RAY_ADDRESS=no-such-host.invalid:6379: cannot be reached (" in join("no-such-host.invalid:6379")


def test_another_kind_of_server_is_told(web_server: str) -> None:
    assert "the server there is not a Ray cluster" in join(web_server)


def test_a_server_that_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls_ray.workers.ray_start._CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "nothing answers there" in join(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_ray_that_runs_is_joined(ray_session: None) -> None:
    import ray

    joined = False
    with starting_ray(ray.get_runtime_context().gcs_address):
        joined = True
    assert joined


def test_sigterm_does_afterwards_what_it_did_before() -> None:
    def start(error: Exception | None) -> None:
        with starting_ray():
            signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does
            if error is not None:
                raise error

    before = signal.getsignal(signal.SIGTERM)
    start(None)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ResourceError):
        start(RuntimeError("it does not start"))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("address", "error", "kind", "message"),
    [
        (
            "auto",
            ConnectionError("Could not find any running Ray.\nStart one."),
            ResourceError,
            "auto: cannot be joined",
        ),
        (
            None,
            RuntimeError("Timed out\nwaiting"),
            ResourceError,
            "Ray did not start on this machine: Timed out waiting;",
        ),
        (
            None,
            Exception("The current node timed out during startup."),
            ResourceError,
            "Ray did not start on this machine: The current node timed out during startup.;",
        ),
        (None, OSError("AF_UNIX path length cannot exceed 107 bytes"), ResourceError, "AF_UNIX path length"),
        (
            None,
            OSError(errno.ENOSPC, "x"),
            StorageError,
            "Ray cannot keep its files there: No space left on device; set",
        ),
        (None, PermissionError(errno.EACCES, "x"), StorageError, "files there: Permission denied; set TMPDIR"),
    ],
)
def test_what_ray_raises_is_one_line(
    address: str | None, error: Exception, kind: type[ImgclsError], message: str
) -> None:
    with pytest.raises(kind) as caught, starting_ray(address):
        raise error
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ray_is_not_started_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 1000, 1000, 1000, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (
        pytest.raises(StorageError, match=f"{tmp_path}: Ray cannot keep .* less than 16 MiB of room"),
        starting_ray(),
    ):
        raise AssertionError("Ray would start workers that die")


def own(tmp: Path, **environment: str) -> dict[str, Any]:
    """What a process would start Ray with: its options, and what it sets in the environment."""
    code = (
        "import json, os; from imgcls_ray.workers.ray_start import own_ray; options = own_ray(); path = os.environ.get;"
        "token = path('RAY_AUTH_TOKEN_PATH');"
        "mode = oct(os.stat(token).st_mode & 0o777) if token and os.path.exists(token) else None;"
        "print(json.dumps({**options, 'token': token, 'mode': mode, 'auth': path('RAY_AUTH_MODE')}))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "TMPDIR": str(tmp), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """As short as the temporary folders of people are."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def test_a_ray_of_our_own_keeps_its_token_and_its_files_to_its_user(short_folder: Path) -> None:
    found = own(short_folder)
    session = short_folder / f"imgcls-{os.getuid()}"
    assert found["_temp_dir"] == str(session / "ray")
    assert session.stat().st_mode & 0o777 == 0o700
    assert found["mode"] == "0o600"
    assert not Path(found["token"]).exists()  # it went with the process
    assert [path.name for path in short_folder.iterdir()] == [session.name]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_somebody_else_has_made_is_not_used(short_folder: Path, kind: str) -> None:
    path = short_folder / f"imgcls-{os.getuid()}"
    if kind == "link":
        (short_folder / "theirs").mkdir()
        path.symlink_to(short_folder / "theirs")
    else:
        path.write_text("")
    found = own(short_folder)
    assert Path(found["_temp_dir"]).parent == Path(found["token"]).parent
    assert not list(short_folder.glob("theirs/*"))


def test_a_temporary_folder_with_a_long_name_has_no_sockets(tmp_path: Path) -> None:
    folder = tmp_path / "a-name-that-is-longer-than-names-of-sockets-may-be"
    folder.mkdir()
    found = own(folder)
    assert found["_temp_dir"] == f"/tmp/imgcls-{os.getuid()}/ray"
    assert found["token"].startswith("/tmp/imgcls-")
    assert found["_object_spilling_directory"].startswith(str(folder))


@pytest.mark.parametrize(
    ("environment", "token"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, None),
        ({"RAY_AUTH_TOKEN": "a" * 64}, None),
        ({"RAY_AUTH_TOKEN_PATH": "/somewhere/token"}, "/somewhere/token"),
    ],
)
def test_a_callers_own_token_is_respected(short_folder: Path, environment: dict[str, str], token: str | None) -> None:
    found = own(short_folder, **environment)
    assert found["token"] == token
    assert found["auth"] == environment.get("RAY_AUTH_MODE")


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_does_not_open_a_ray_of_our_own(short_folder: Path, name: str, value: str) -> None:
    found = own(short_folder, **{name: value})
    assert (found["auth"], found["mode"]) == (None, "0o600")


@pytest.mark.parametrize("mode", ["tokn", "none", "0", "token,disabled"])
def test_a_mode_that_ray_does_not_know_is_refused(short_folder: Path, mode: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        own(short_folder, RAY_AUTH_MODE=mode)
    assert f"ResourceError: RAY_AUTH_MODE={mode}: is no mode of Ray's; " in caught.value.stderr.splitlines()[-1]


def test_no_room_for_sockets_is_said_in_one_line(short_folder: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        own(short_folder / "missing" / "file", RAY_TMPDIR="/proc/missing")
    last = caught.value.stderr.splitlines()[-1]
    assert "StorageError: /proc/missing: Ray cannot keep its files there: " in last
