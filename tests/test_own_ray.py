"""A Ray that a command starts for itself belongs to its user: no other user, and nobody in the network, reaches it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from imgcls_ray.serve.local import free_ports
from tests.jobs.cluster import environment
from tests.listening import (
    Listener,
    can_be_nobody,
    listeners,
    listening_sockets,
    open_to_others,
    own_address,
    private_folders,
)
from tests.train.conftest import write_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

IMGCLS = Path(sys.executable).with_name("imgcls")
BETWEEN_REPLICAS = "/ray.serve.ASGIService/HandleRequest"
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
# Ray's prefix for what its processes say, its colours, and what it says when a stop interrupts tasks.
OF_RAY = re.compile(r"raylet|retries remaining|ray::|\x1b\[|Traceback|\*\*\* SIG|core_worker|gcs_|pid=\d")


def own_environment(home: Path, **values: str) -> dict[str, str]:
    """That of a user who has never met Ray."""
    home.mkdir(exist_ok=True)
    kept = {key: value for key, value in environment(HOME=str(home), **values).items() if key != "RAY_AUTH_MODE"}
    return {**kept, "RAY_AUTH_MODE": values["RAY_AUTH_MODE"]} if "RAY_AUTH_MODE" in values else kept


@contextmanager
def started(command: list[str], env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A command whose output goes to a file, as a service manager's does."""
    output = Path(env["HOME"], "output")
    with (
        output.open("w") as file,
        subprocess.Popen(
            command, env=env, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
    ):
        try:
            yield process, output
        finally:
            process.terminate()
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(process: subprocess.Popen[str], output: Path, words: str) -> None:
    deadline = time.monotonic() + 180
    while words not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


def check_reach(found: set[Listener], asked_for: int | None = None) -> None:
    """Everything that listens is on loopback, is what was asked for, or refuses who has no token."""
    assert any("gcs_server" in listener.name for listener in found)
    for listener in found:
        if "gcs_server" in listener.name:
            assert listener.refuses(NODES)
        if not listener.is_local and listener.port != asked_for:
            assert listener.refuses(BETWEEN_REPLICAS), listener


def classify(url: str, image: Path) -> int:
    headers = {"content-type": "image/jpeg"}
    return httpx.post(f"{url}/v1/classify", content=image.read_bytes(), headers=headers, timeout=60).status_code


def serve_command(model: ModelFolder, port: str, *more: str) -> list[str]:
    return [str(IMGCLS), "serve", "--model", str(model.path), "--port", port, *more]


def test_a_service_shows_the_network_its_one_port_and_other_users_nothing(
    small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    [image] = draw_images(1)
    # One replica: others listen as it does, and each takes seconds to come up.
    command = serve_command(small_model, port, "--host", "0.0.0.0", "-s", "num_replicas=1")
    with started(command, own_environment(tmp_path / "home")) as (process, output):
        wait_for(process, output, "Ctrl-C")
        assert output.read_text().count("IMGCLS_API_KEYS") == 1
        assert classify(f"http://{own_address()}:{port}", image) == 200
        check_reach(listeners(process.pid), int(port))
        folders = private_folders(process.pid)
        assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
        [run_folder] = [folder for folder in folders if list(folder.rglob("haproxy.cfg"))]
        if can_be_nobody():
            assert open_to_others(folders) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        assert not OF_RAY.search(output.read_text())
    assert not run_folder.exists()
    assert not (tmp_path / "home" / ".ray").exists()


@pytest.mark.slow
def test_a_killed_service_stands_in_no_others_way(
    small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    [image] = draw_images(1)
    env = own_environment(tmp_path / "home")
    command = serve_command(small_model, port)
    with started(command, env) as (process, output):
        wait_for(process, output, "Ctrl-C")
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(60)
        # It took nothing away, but its processes end; HAProxy, too, which holds the port.
        assert psutil.wait_procs(children, timeout=120)[1] == []
    with started(command, env) as (process, output):
        wait_for(process, output, "Ctrl-C")
        assert classify(f"http://127.0.0.1:{port}", image) == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0


def watch_until_it_ends(process: subprocess.Popen[str]) -> tuple[set[Listener], set[Path], list[str]]:
    """What listened at any time, where Ray's files were, and what of them another user could open."""
    found: set[Listener] = set()
    folders: set[Path] = set()
    opened: list[str] = []
    sockets: frozenset[str] = frozenset()
    while process.poll() is None:
        before, sockets = sockets, listening_sockets()
        if not sockets - before:
            time.sleep(0.02)
            continue
        new = listeners(process.pid) - found
        found |= new
        if any("gcs_server" in listener.name for listener in new) or not all(listener.is_local for listener in new):
            check_reach(new | {listener for listener in found if "gcs_server" in listener.name})
        if not folders and any("raylet" in listener.name for listener in found):
            folders = private_folders(process.pid)
            if can_be_nobody():
                opened = open_to_others(folders)
    return found, folders, opened


def commands(model: ModelFolder, images: Path, colours: Path, output: Path) -> dict[str, list[str]]:
    train = {"model": "PP-LCNet_x0_25", "pretrained": False, "image_size": 32, "epochs": 1, "batch_size": 8}
    train |= {"num_workers": 2, "cpus_per_worker": 1, "loader_processes": 1}
    settings = [f"-s{key}={value}" for key, value in train.items()]
    return {
        "predict": [str(images), "-m", str(model.path), "-o", str(output), "-sunit_size=16", "--on", "ray"],
        "evaluate": [str(colours), "-m", str(model.path), "-o", str(output), "--on", "ray"],
        "train": [str(colours), "-o", str(output), *settings],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "train"])
def test_a_job_shows_the_network_and_other_users_nothing(
    name: str, small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    images = draw_images(64)
    write_colours(tmp_path / "colours")
    arguments = commands(small_model, images[0].parent, tmp_path / "colours", tmp_path / "output")[name]
    with started([str(IMGCLS), name, *arguments], own_environment(tmp_path / "home")) as (process, output):
        found, folders, opened = watch_until_it_ends(process)
    assert process.returncode == 0, output.read_text()
    assert not OF_RAY.search(output.read_text())
    assert any("gcs_server" in listener.name for listener in found)
    assert opened == []
    assert len(folders) == 2
    assert sum(folder.exists() for folder in folders) == 1  # the logs stay
    assert not (tmp_path / "home" / ".ray").exists()


def has_started_ray(process: subprocess.Popen[str]) -> bool:
    return any("raylet" in listener.name for listener in listeners(process.pid))


@pytest.mark.slow
@pytest.mark.parametrize("is_terminal", [True, False], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("moment", ["at once", "Ray is there", "at work"])
@pytest.mark.parametrize("name", ["predict", "train", "serve"])
def test_a_stop_shows_the_commands_own_words_only(
    name: str,
    moment: str,
    is_terminal: bool,
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    images = draw_images(600)
    write_colours(tmp_path / "colours")
    [port] = free_ports(1)
    command = [str(IMGCLS), name]
    command += commands(small_model, images[0].parent, tmp_path / "colours", tmp_path / "output").get(name, [])
    if name == "serve":
        command = serve_command(small_model, port)
    elif name == "train":
        command.append("-sepochs=500")
    at_work = {"serve": "Ctrl-C", "train": "epoch 1", "predict": ""}[name]
    with started(command, own_environment(tmp_path / "home")) as (process, output):
        deadline = time.monotonic() + 180
        while (
            process.poll() is None
            and not {
                "at once": bool(output.read_text()),
                "Ray is there": has_started_ray(process),
                "at work": at_work in output.read_text()
                and (name != "predict" or any(tmp_path.glob("output/pred*/*"))),
            }[moment]
        ):
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        if is_terminal:
            os.killpg(process.pid, signal.SIGINT)  # a terminal asks every process that it runs
        else:
            process.send_signal(signal.SIGTERM)
        process.wait(90)
        said = output.read_text()
        assert process.returncode in (0, 130), said
        assert not OF_RAY.search(said), said
