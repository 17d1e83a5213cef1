"""What a network takes in memory: measured, kept, and never believed of another network or batch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.models.engines.memory import NetworkMemory, known_memory, measure_memory

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

LOAD: dict[str, Any] = {"engine": "auto", "precision": "auto", "batch_size": 8, "embedding": False}

# The memory that is not shared after everything has run, beside what was measured before; bytes.
_MEASURE = """
import sys
from pathlib import Path
import numpy as np
from imgcls_ray.models.classifier import ImageClassifier
from imgcls_ray.models.engines.load import load_engine
from imgcls_ray.models.engines.memory import _bytes_of, measure_memory
from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.models.folder import open_model_folder

folder, engine = open_model_folder(Path(sys.argv[1])), sys.argv[2]
if sys.argv[3] == "measure":
    print(measure_memory(folder, engine=engine, precision="fp32", batch_size=64, embedding=False).of_worker(1))
else:
    openvino_core()
    before = _bytes_of("RssAnon")
    network = load_engine(folder, engine=engine, precision="fp32", batch_size=64, num_threads=1)
    size = folder.spec.preprocess.crop_size
    for _ in range(2):
        network(np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8))
    print(_bytes_of("RssAnon") - before)
"""


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_worker_takes_no_more_than_was_measured(small_model: ModelFolder, engine: str) -> None:
    measured, taken = (
        int(subprocess.check_output([sys.executable, "-c", _MEASURE, small_model.path, engine, what]))
        for what in ("measure", "run")
    )
    assert 0 < taken <= measured
    # What libraries reserve and never use is tens of megabytes.
    assert measured <= taken + 512 * 2**20


def test_what_was_measured_is_known_of_the_same_network_and_batch_only(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    assert known_memory(small_model, **LOAD) is None
    measured = measure_memory(small_model, **LOAD)
    assert measured is not None
    assert known_memory(small_model, **LOAD) == measured
    for other in ({"batch_size": 16}, {"precision": "fp32"}, {"embedding": True}, {"engine": "torch"}):
        assert known_memory(small_model, **{**LOAD, **other}) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"once": 1}', '{"once": "a", "per_core": -1}'])
def test_a_damaged_note_is_measured_again(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    measure_memory(small_model, **LOAD)
    [note] = (tmp_path / "cache" / "memory").iterdir()
    note.write_text(content)
    assert known_memory(small_model, **LOAD) is None


def test_a_note_that_others_may_write_is_not_believed(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    measure_memory(small_model, **LOAD)
    [note] = (tmp_path / "cache" / "memory").iterdir()
    note.write_text(json.dumps({"once": 1, "per_core": 1}))
    assert known_memory(small_model, **LOAD) == NetworkMemory(1, 1)
    note.chmod(0o666)
    assert known_memory(small_model, **LOAD) is None


def test_what_cannot_be_kept_is_measured_all_the_same(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure_memory(small_model, **LOAD) is not None  # the network is converted now
    monkeypatch.setattr("imgcls_ray.models.engines.memory.cache_dir", lambda: tmp_path / "file" / "cache")
    (tmp_path / "file").write_text("no folder")
    assert measure_memory(small_model, **LOAD) is not None
    assert known_memory(small_model, **LOAD) is None
