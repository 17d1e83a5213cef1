"""timm's weights: downloaded once through the hub's real client, kept, and refused in one line without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from imgcls_ray import cli
from imgcls_ray.errors import WeightsError
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.pretrained import _is_whole
from tests.models.hub import serve_hub

if TYPE_CHECKING:
    from pathlib import Path

    from tests.models.hub import Hub

IMGCLS = [sys.executable, "-m", "imgcls_ray.cli"]
LCNET = "timm/lcnet_050.ra2_in1k"
HGNET = "timm/hgnetv2_b0.ssld_stage2_ft_in1k"


def weights_of(architecture: str, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state: dict[str, torch.Tensor] = timm.create_model(architecture).state_dict()
    return state


def run(*words: object, hub: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``imgcls models new`` in a process of its own: the hub's client reads its settings when it is imported."""
    variables = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), **environment}
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        variables.pop(name, None) if name not in environment else None
    command = [*IMGCLS, "models", "new", *map(str, words)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


def downloads(hub: Hub) -> list[str]:
    return [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]


def test_weights_are_downloaded_once_and_found_again_without_a_network(tmp_path: Path) -> None:
    state = weights_of("lcnet_050", seed=1)
    home = tmp_path / "home"
    with serve_hub({f"{LCNET}/model.safetensors": save(state)}) as hub:
        done = run("PP-LCNet_x0_5", "-o", tmp_path / "a", "--pretrained", hub=hub.url, home=home)
        assert done.returncode == 0, done.stderr
        assert downloads(hub) == [f"GET /{LCNET}/resolve/main/model.safetensors"]
        url = hub.url
    folder = open_model_folder(tmp_path / "a")
    assert folder.spec.architecture.name == "lcnet_050"
    assert folder.spec.class_names[0].startswith("tench")
    assert folder.spec.preprocess.resize_size == 256
    loaded = folder.load_network().state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    # The server is gone.
    done = run("PP-LCNet_x0_5", "-o", tmp_path / "b", "--num-classes", 3, hub=url, home=home)
    assert done.returncode == 0, done.stderr
    assert "lcnet_050.ra2_in1k: has a head of 1000 classes; the new head of 3 classes is random" in done.stderr
    again = open_model_folder(tmp_path / "b").load_network().state_dict()
    assert torch.equal(again["conv_stem.weight"], state["conv_stem.weight"])


@pytest.mark.slow
def test_timms_weights_of_paddle_go_into_paddles_network(tmp_path: Path) -> None:
    state = weights_of("hgnetv2_b0", seed=1)
    with serve_hub({f"{HGNET}/model.safetensors": save(state)}) as hub:
        done = run("PP-HGNetV2-B0", "-o", tmp_path / "a", hub=hub.url, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert open_model_folder(tmp_path / "a").spec.architecture.name == "paddle_hgnetv2_b0"


@pytest.mark.slow
def test_a_name_of_timms_takes_the_weights_of_its_tag(tmp_path: Path) -> None:
    state = weights_of("lcnet_050", seed=2)
    with serve_hub({f"{LCNET}/model.safetensors": save(state)}) as hub:
        done = run("timm:lcnet_050.ra2_in1k", "-o", tmp_path / "a", hub=hub.url, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert open_model_folder(tmp_path / "a").spec.name == "timm:lcnet_050.ra2_in1k"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("hub", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_the_refusal_is_quick_and_says_the_way_out(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(sys, "argv", ["imgcls", "models", "new", "PP-LCNet_x1_0", "-o", str(tmp_path / "a")])
    start = time.monotonic()
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert time.monotonic() - start < 30
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("imgcls: PP-LCNet_x1_0: pretrained weights could not be loaded (")
    assert line.endswith("--weights FILE` (or --random, for benchmarks)")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_hub_without_the_weights_is_one_line(tmp_path: Path) -> None:
    with serve_hub({}) as hub:
        done = run("PP-LCNet_x1_0", "-o", tmp_path / "a", hub=hub.url, home=tmp_path / "home")
    assert done.returncode == 2
    assert "PP-LCNet_x1_0: pretrained weights could not be loaded (" in one_line(done)


def test_offline_mode_is_named(tmp_path: Path) -> None:
    done = run("PP-LCNet_x1_0", "-o", tmp_path / "a", hub="http://127.0.0.1:9", home=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "could not be loaded (HF_HUB_OFFLINE is set)" in one_line(done)


@pytest.mark.slow
def test_a_download_that_is_damaged_makes_no_folder(tmp_path: Path) -> None:
    content = save(weights_of("lcnet_050", seed=1))
    with serve_hub({f"{LCNET}/model.safetensors": content[:-1000]}) as hub:
        done = run("PP-LCNet_x0_5", "-o", tmp_path / "a", hub=hub.url, home=tmp_path / "home")
    assert done.returncode == 2
    assert "pretrained weights could not be loaded (SafetensorError" in one_line(done)
    assert not (tmp_path / "a").exists()


def test_pretrained_weights_that_timm_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"PP-LCNet_x2_5: timm has no pretrained weights .*; make a model folder"):
        new_model_folder("PP-LCNet_x2_5", tmp_path / "new")


def test_a_downloaded_file_that_was_damaged_is_removed_to_be_fetched_again(tmp_path: Path) -> None:
    blob = tmp_path / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"weights")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert _is_whole(tmp_path / "model.safetensors")
    blob.write_bytes(b"weightz")
    assert not _is_whole(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
