"""Mistakes on the command line, and what each is answered: one line with what, where, what came and the way out.

``tests/mistakes.txt`` holds the commands and the answers. To add a mistake, add its ``$`` line; this writes all answers
anew, to be read before they are committed:

    UPDATE_MISTAKES=1 python -m pytest tests/test_mistakes.py
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from imgcls_ray import cli
from imgcls_ray.config import TrainConfig, make_config
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.records import StoreIdentity
from imgcls_ray.train.begin import new_state
from imgcls_ray.train.entries import read_entries
from imgcls_ray.train.state import save_state
from imgcls_ray.train.task import STATE_NAME

SNAPSHOT = Path(__file__).with_name("mistakes.txt")
OLD_STORE = Path(__file__).parent / "compatibility" / "0687141" / "stores" / "plain"
COMMANDS = re.findall(r"^\$ (imgcls .*)$", SNAPSHOT.read_text(encoding="utf-8"), flags=re.MULTILINE)

FILES = {
    "empty/": "",
    "no_input.yaml": "model: model\noutput: labels\n",
    "typo.yaml": "input: photos\nmodel: model\noutput: labels\ntopk: 3\n",
    "typo_and_missing.yaml": "outptu: labels\nmodel: model\n",
    "synonym.yaml": "data: lists\nmodel: PP-LCNet_x0_25\n\nlr: 0.1\n",
    "value.yaml": "input: photos\nmodel: model\noutput: labels\nmax_error_rate: 5%\n",
    "twice.yaml": "model: model\nmodel: other\n",
    "list.yaml": "- input: photos\n",
    "brackets.yaml": "input: [photos\n",
    "tag.yaml": "input: !!python/object/apply:os.getcwd []\n",
    "canary.yaml": "model: model\ncanary:\n  model: model\n  weight: 0.1\n",
    "paddle_inference/inference.pdiparams": "",
    "paddle_inference/inference.json": "{}",
    "paddle_training/best_model.pdparams": "",
    "timm_hub/config.json": '{"architecture": "resnet18"}',
    "timm_hub/model.safetensors": "",
    "transformers/config.json": '{"model_type": "vit"}',
    "transformers/model.safetensors": "",
    "exported/model.onnx": "",
    "network.onnx": "",
    "best_model.pdparams": "",
    "labels.txt": "ant\nbee\ncat\n",
    "notes.txt": "",
    "Thumbs.db": "",
}


class Answer(NamedTuple):
    exit_code: int
    text: str
    """Standard error."""

    def __str__(self) -> str:
        return f"  {self.exit_code}: {self.text.rstrip().removeprefix('imgcls: ')}"


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_place(place: Path) -> None:
    """What the commands find in their folder."""
    for name, content in FILES.items():
        path = place / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(content, encoding="latin-1")
    for number in range(3):
        draw(place / f"photos/{number}.jpg", number)
    draw(place / "photo.jpg", 9)
    for number, name in enumerate(("ant", "bee") * 4):
        draw(place / f"classes/{name}/{number}.jpg", number)
    for split in ("train", "val"):
        lines = [f"images/{split}{number}.jpg {number % 2}\n" for number in range(4)]
        for number in range(4):
            draw(place / f"lists/images/{split}{number}.jpg", number)
        (place / f"lists/{split}.txt").write_text("".join(lines))
    (place / "lists/label.txt").write_text("0 ant\n1 wolf\n")
    new_model_folder("PP-LCNet_x0_25", place / "model", class_names=("ant", "bee", "cat"), random_seed=0)
    shutil.copytree(place / "model", place / "edited")
    spec = place / "edited/model.json"
    spec.write_text(spec.read_text().replace('"ant"', '"aunt"'))
    shutil.copytree(OLD_STORE, place / "labels_of_another_model")
    spec = json.loads((place / "model/model.json").read_text())
    identity = StoreIdentity(
        model=spec["name"], fingerprint=spec["fingerprint"], num_classes=3, top_k=2, embedding=False, logits=False
    )
    create_or_open_store(open_directory(str(place / "labels_of_this_model")), identity)


def make_finished_run(place: Path) -> None:
    """The output of a training of two epochs, without the training."""
    values = {"data": "lists", "model": "PP-LCNet_x0_25", "output": "run", "pretrained": False, "epochs": 2}
    config = make_config(TrainConfig, {**values, "image_size": 32})
    state = new_state(config, read_entries("lists", delimiter=None, storage=DEFAULT_STORAGE))
    state.step, state.history = 2, [{"epoch": 1.0}, {"epoch": 2.0}]
    save_state(state, open_directory("run"), STATE_NAME)
    shutil.copytree(place / "model", place / "run/best_model")


def answer_to(command: str, place: Path) -> Answer:
    stdout, stderr = io.StringIO(), io.StringIO()
    sys.argv = shlex.split(command)
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as left:
        cli.main()
    assert isinstance(left.value.code, int)
    # Random weights, and so the fingerprint of the model, are those of a version of torch.
    text = stderr.getvalue().replace(f"{place}/", "")
    return Answer(left.value.code, re.sub(r"\b[0-9a-f]{12}\b", "0123456789ab", text))


def all_files(place: Path) -> list[str]:
    """All but a job's own word of its failure, which is written into the output that it was given: ``new``."""
    names = (str(path.relative_to(place)) for path in place.rglob("*"))
    return sorted(name for name in names if name.partition("/")[0] != "new")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    place = tmp_path_factory.mktemp("place")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", [])
        for name in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
            patch.delenv(name, raising=False)
        # The answers are those of one machine: two cores, no GPU, no cluster.
        for module in ("commands.device", "workers.pool", "workers.prepare"):
            patch.setattr(f"imgcls_ray.{module}.is_cluster_given", lambda: False, raising=False)
        for module in ("workers.ray_cluster", "commands.serve", "commands.gpu_worth"):
            patch.setattr(f"imgcls_ray.{module}.available_cores", lambda: 2)
        for module in ("workers.ray_cluster", "commands.serve"):
            patch.setattr(f"imgcls_ray.{module}.cores_in_words", lambda: "this machine has 2")
        patch.setattr("imgcls_ray.commands.device.may_have_gpus", lambda: False)
        patch.setattr("torch.cuda.device_count", lambda: 0)
        make_place(place)
        make_finished_run(place)
        before = all_files(place)
        found = {command: answer_to(command, place) for command in COMMANDS}
        written = set(all_files(place)) - set(before)
    signal.signal(signal.SIGTERM, on_sigterm)
    if os.environ.get("UPDATE_MISTAKES"):
        write_snapshot(found)
    assert not written
    return found


def write_snapshot(found: dict[str, Answer]) -> None:
    """The same file with these answers: comments and the order of the commands stay."""
    lines: list[str] = []
    for line in SNAPSHOT.read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            lines.append(line)
        if line.startswith("$ "):
            lines.append(str(found[line.removeprefix("$ ")]))
    SNAPSHOT.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_answered_in_one_line(command: str, answers: dict[str, Answer]) -> None:
    answer = answers[command]
    assert answer.exit_code != 0
    assert answer.text.startswith("imgcls: ")
    assert answer.text.count("\n") == 1
    assert f"$ {command}\n{answer}\n" in SNAPSHOT.read_text(encoding="utf-8")


def test_there_are_ninety_nine() -> None:
    assert len(set(COMMANDS)) == len(COMMANDS) >= 99
