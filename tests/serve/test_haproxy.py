"""What becomes of the configuration of HAProxy that Ray Serve writes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.serve.haproxy import UnexpectedConfigurationError, front_binary, rewrite

if TYPE_CHECKING:
    from pathlib import Path

MANY_FILES = 1_000_000


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As this version of Ray Serve writes it for one application."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    folder = tmp_path_factory.mktemp("haproxy")
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=8123),
        is_head=True,
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_port=9101,
        stats_port=8404,
    )
    servers = [ServerConfig(name="replica", host="127.0.0.1", port=30000)]
    backend = BackendConfig(name="http-imgcls", path_prefix="/", app_name="imgcls", servers=servers)
    proxy = HAProxyApi(config, {"imgcls": backend}, config_file_path=str(folder / "haproxy.cfg"))
    proxy._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


def test_only_what_is_asked_for_is_open(written: str) -> None:
    lines = lines_of(rewrite(written, {}, MANY_FILES))
    assert [line for line in lines if line.startswith("bind ")] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8123",
        "bind 127.0.0.1:8404",
    ]
    [socket] = [line for line in lines if line.startswith("stats socket ")]
    assert " mode 600 " in socket


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "*:8123"),
        ("::", "[::]:8123"),
        ("::1", "[::1]:8123"),
        ("192.0.2.7", "192.0.2.7:8123"),
        ("localhost", "localhost:8123"),
    ],
)
def test_the_service_is_at_its_host_and_nothing_else_is(written: str, host: str, address: str) -> None:
    lines = lines_of(rewrite(written, {"IMGCLS_HAPROXY_HOST": host}, MANY_FILES))
    assert f"bind {address}" in lines
    assert sum(line.startswith("bind 127.0.0.1:") for line in lines) == 2


@pytest.mark.parametrize(
    ("environment", "max_files", "maxconn", "per_address"),
    [
        ({}, MANY_FILES, 16384, 12288),
        # HAProxy would not start with more than its files allow.
        ({}, 20_000, 7920, 5940),
        ({"RAY_SERVE_HAPROXY_MAXCONN": "1000"}, MANY_FILES, 1000, 750),
        ({"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": "64"}, MANY_FILES, 16384, 64),
        ({"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": "0"}, MANY_FILES, 16384, None),
    ],
)
def test_connections_are_bounded_in_all_and_for_one_address(
    written: str, environment: dict[str, str], max_files: int, maxconn: int, per_address: int | None
) -> None:
    lines = lines_of(rewrite(written, environment, max_files))
    assert f"maxconn {maxconn}" in lines
    assert "timeout http-request 10s" in lines
    rejects = [line for line in lines if line.startswith("tcp-request connection reject")]
    assert rejects == ([f"tcp-request connection reject if {{ sc0_conn_cur gt {per_address} }}"] if per_address else [])


def test_haproxy_takes_it_and_takes_it_again(written: str, tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    for environment in ({}, {"IMGCLS_HAPROXY_HOST": "::"}):
        path.write_text(written)
        done = run_front(path, **environment)
        assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["haproxy.cfg"]


@pytest.mark.parametrize(
    "missing", ["mode 666", "maxconn", "bind 127.0.0.1:8123", "listen stats", "prometheus-exporter"]
)
def test_a_configuration_that_is_not_known_is_refused(written: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(
        UnexpectedConfigurationError, match=r"has 0 places like .*: this version of Ray is not supported"
    ):
        rewrite(written.replace(missing, "other"), {}, MANY_FILES)
    path = tmp_path / "haproxy.cfg"
    path.write_text(written.replace(missing, "other"))
    done = run_front(path)
    assert done.returncode == 1
    assert done.stderr.startswith("imgcls-haproxy: Ray Serve's configuration of HAProxy has 0 places like ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["-1", "many", "1e3"])
def test_a_limit_that_is_no_number_is_refused(written: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS={value}: is not a number"):
        rewrite(written, {"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": value}, MANY_FILES)


def run_front(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Let HAProxy check the rewritten configuration."""
    front = front_binary()
    return subprocess.run(
        [front, "-c", "-f", str(path)],
        env={**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": front, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
