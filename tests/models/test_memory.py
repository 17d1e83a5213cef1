"""What a network takes in memory: measured, kept, and never believed of another network or batch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.models.engines import memory
from imgcls_ray.models.engines.memory import NetworkMemory, can_measure, known_memory, measure_memory

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from imgcls_ray.models.folder import ModelFolder

LOAD: dict[str, Any] = {"engine": "auto", "precision": "fp32", "batch_size": 8, "embedding": False}

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


@pytest.mark.parametrize("engine", ["openvino", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_worker_takes_no_more_than_was_measured(small_model: ModelFolder, engine: str) -> None:
    # By another process: what conversion takes for a moment is not to be measured.
    prepare = "import sys; from pathlib import Path; from imgcls_ray.models.engines.load import prepare_engine; "
    prepare += "from imgcls_ray.models.folder import open_model_folder; "
    prepare += "prepare_engine(open_model_folder(Path(sys.argv[1])), sys.argv[2], 'cpu', False)"
    subprocess.run([sys.executable, "-c", prepare, small_model.path, engine], check=True)
    measured, taken = (
        int(subprocess.check_output([sys.executable, "-c", _MEASURE, small_model.path, engine, what]))
        for what in ("measure", "run")
    )
    # What an allocator keeps for the next batch varies by a few megabytes; a worker has room for more than that.
    assert 0 < taken <= measured + 16 * 2**20
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
    for other in ({"batch_size": 16}, {"precision": "bf16"}, {"embedding": True}, {"engine": "torch"}):
        assert known_memory(small_model, **{**LOAD, **other}) is None


def test_what_auto_takes_is_known_of_the_precision_that_it_means_on_this_processor_only(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    measured = measure_memory(small_model, **{**LOAD, "precision": "auto"})
    known = {name: known_memory(small_model, **{**LOAD, "precision": name}) for name in ("auto", "bf16", "fp32")}
    assert known["auto"] == measured
    assert [known["bf16"], known["fp32"]].count(measured) == 1
    assert [known["bf16"], known["fp32"]].count(None) == 1
    # The home folder of another machine.
    monkeypatch.setattr(memory, "processor_flags", lambda: frozenset({"other"}))
    assert known_memory(small_model, **{**LOAD, "precision": "auto"}) is None


def test_of_torch_the_files_that_processes_share_are_not_counted(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"RssAnon": 100, "VmData": 100, "RssFile": 10, "RssShmem": 0, "VmHWM": 110}

    class Network:
        precision = "fp32"

        def __call__(self, pixels: np.ndarray) -> None:
            assert pixels.shape[0] == LOAD["batch_size"]
            # The libraries and the weights that are read now are files: 40 bytes of the peak are none.
            told.update(RssFile=5000, VmHWM=5000 + 190)

    def load(*_: Any, **__: Any) -> Network:
        told.update(RssAnon=150, RssFile=2000, VmHWM=9000)
        return Network()

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "load_engine", load)
    monkeypatch.setattr(memory, "_bytes_of", lambda key: told[key])
    assert measure_memory(small_model, **{**LOAD, "engine": "torch"}) == NetworkMemory(once=50, per_core=40)


def test_a_system_that_does_not_tell_all_of_it_is_not_measured(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_measure()
    assert not can_measure(tmp_path / "none")
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t100 kB\nVmData:\t7 kB\n")
    assert not can_measure(tmp_path / "status")
    monkeypatch.setattr(memory, "can_measure", lambda: False)
    assert measure_memory(small_model, **LOAD) is None


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
