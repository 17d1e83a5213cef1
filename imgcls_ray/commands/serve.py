"""``imgcls serve``: one machine answers, until it is told to stop."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console

from imgcls_ray.commands.device import settle_device
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import ServeConfig, make_config, nested, read_values
from imgcls_ray.errors import ResourceError, UsageError
from imgcls_ray.machine import available_cores, cores_in_words
from imgcls_ray.models.engines.load import check_engine, torch_devices
from imgcls_ray.models.open import open_model
from imgcls_ray.options import storage_options
from imgcls_ray.serve.keys import KEYS_VARIABLE, read_api_keys
from imgcls_ray.serve.local import local_service, num_local_replicas
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Start, say where, and answer until Ctrl-C or SIGTERM.

    Raises:
        ImgclsError: with the exit code.
    """
    config = settle_device(make_config(ServeConfig, nested(read_values(ServeConfig, config_file, overrides, flags))))
    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    num_cores = available_cores()
    _check(config, num_cores)
    _warn(config)
    start = time.monotonic()
    replicas = counted(num_local_replicas(config, num_cores), "replica")
    console.print(f"starting {replicas} of {config.model} ...", markup=False)
    stopped = threading.Event()
    with native_stderr_aside(), local_service(config, num_cores) as metrics_port:
        # The first signal ends the service in order; a second one changes nothing.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        _tell(config, console, time.monotonic() - start, metrics_port)
        stopped.wait()
        console.print("stopping: open requests are answered first ...")


def _check(config: ServeConfig, num_cores: int) -> None:
    """Refuse what cannot run before anything is started."""
    if num_local_replicas(config, num_cores) > num_cores:
        raise ResourceError(
            f"num_replicas={config.num_replicas} needs {config.num_replicas} cores, {cores_in_words()}; give fewer"
        )
    read_api_keys(os.environ)
    torch_devices(config.device)
    storage = storage_options(config)
    for choice in (config, config.canary, config.shadow):
        if choice is not None:
            check_engine(open_model(choice.model, storage), config.engine, config.device, embedding=False)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise UsageError(
                f"{config.host}:{config.port}: cannot listen there: {error.strerror}; give another --port or --host"
            ) from error


def _warn(config: ServeConfig) -> None:
    if os.environ.get(KEYS_VARIABLE) or _is_loopback(config.host):
        return
    words = (
        f"warning: host={config.host} lets everyone who can reach this machine send requests; set {KEYS_VARIABLE} to "
        "require API keys"
    )
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(words, markup=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(config: ServeConfig, console: Console, seconds: float, metrics_port: int) -> None:
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    base = f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
    has_keys = bool(os.environ.get(KEYS_VARIABLE))
    key = " -H 'X-API-Key: KEY'" if has_keys else ""
    lines = [
        f"ready after {seconds:.0f} s",
        f"  page           {base}/",
        f"  documentation  {base}/docs",
        f"  metrics        http://127.0.0.1:{metrics_port}/metrics",
        f"  try it         curl -H 'Content-Type: image/jpeg'{key} --data-binary @photo.jpg {base}/v1/classify",
    ]
    console.print("\n".join([*lines, "Ctrl-C stops it"]), markup=False)
