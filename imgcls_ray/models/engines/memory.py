"""How much memory a network takes in a process, for one core and for more: measured once on a machine, and kept.

Neither the size of the weights nor a formula tells it. SwinTransformer_large_patch4_window12_384 has 0.8 GB of weights
in float32: in bf16 they take 0.5 GB, and batches of 32 images 1.1 GB on each core.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.machine import processor_flags
from imgcls_ray.models.cache import cache_dir, is_own, private_folder
from imgcls_ray.models.engines.conversion import conversion_versions
from imgcls_ray.models.engines.load import load_engine, runs_openvino
from imgcls_ray.models.engines.openvino_core import openvino_core

if TYPE_CHECKING:
    from imgcls_ray.models.engines.engine import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_KEYS = ("RssAnon", "RssFile", "RssShmem", "VmData", "VmHWM")


class NetworkMemory(NamedTuple):
    """Memory of a loaded network, bytes that no other process shares."""

    once: int
    """In each process: mostly weights."""
    per_core: int
    """For each batch that runs at once: what its layers hand on."""

    def of_worker(self, num_cores: int) -> int:
        return self.once + num_cores * self.per_core


def can_measure(status: Path = _STATUS) -> bool:
    """Whether this system tells a process its memory; only Linux does, and not in every sandbox."""
    try:
        words = {line.split(":")[0] for line in status.read_text().splitlines()}
    except OSError:
        return False
    return words.issuperset(_KEYS)


def known_memory(
    folder: ModelFolder, *, engine: EngineName, precision: Precision, batch_size: int, embedding: bool
) -> NetworkMemory | None:
    """What ``measure_memory`` found on a machine with this processor; None if it has not been called for this."""
    path = _path(folder, engine, precision, batch_size, embedding)
    with suppress(OSError, ValueError, TypeError):
        if is_own(path.parent) and is_own(path):
            told = NetworkMemory(**json.loads(path.read_text()))
            if all(isinstance(num_bytes, int) and num_bytes >= 0 for num_bytes in told):
                return told
    return None


def measure_memory(
    folder: ModelFolder, *, engine: EngineName, precision: Precision, batch_size: int, embedding: bool
) -> NetworkMemory | None:
    """Load the network and see what it takes; kept for ``known_memory`` where that is possible.

    To be called in a process of its own, which has not prepared the network either: memory that was used before is used
    again, and would be missing in the figures. What ``auto`` finds is also known for the precision that it means here.

    OpenVINO reserves everything for a batch when it loads a network, and writes only the weights: so nothing has to be
    run to know both, which for a large network takes half a minute. torch reserves nothing, so a batch is run.

    Returns:
        None where ``can_measure`` says no.
    """
    if not can_measure():
        return None
    is_openvino = runs_openvino(folder, engine, "cpu")
    if is_openvino:
        # What the library takes for itself, it takes for any number of networks.
        openvino_core()
    before = {key: _bytes_of(key) for key in ("RssAnon", "VmData")}
    network = load_engine(
        folder, engine=engine, precision=precision, batch_size=batch_size, num_threads=1, embedding=embedding
    )
    once = max(0, _bytes_of("RssAnon") - before["RssAnon"])
    if is_openvino:
        total = _bytes_of("VmData") - before["VmData"]
    else:
        size = folder.spec.preprocess.crop_size
        _forget_peak()
        network(np.zeros((batch_size, size, size, 3), np.uint8))
        # The peak counts files as well: torch's libraries and mapped weights, which all processes share.
        total = _bytes_of("VmHWM") - _bytes_of("RssFile") - _bytes_of("RssShmem") - before["RssAnon"]
    memory = NetworkMemory(once, max(0, total - once))
    _keep(_path(folder, engine, precision, batch_size, embedding), memory)
    if precision == "auto":
        # Of "int8+bf16", what is not in 8 bits.
        meant = network.precision.rpartition("+")[2]
        _keep(_path(folder, engine, meant, batch_size, embedding), memory)
    return memory


def _forget_peak() -> None:
    """Let ``VmHWM`` begin anew. Where that is not allowed, it has what loading took for a moment, too."""
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def _bytes_of(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS}: has no {key}")


def _path(folder: ModelFolder, engine: EngineName, precision: str, batch_size: int, embedding: bool) -> Path:
    # Machines of different processors may share a cache, and `auto` is not the same on them.
    processor = [platform.machine(), *sorted(processor_flags())]
    parts = [folder.spec.fingerprint, conversion_versions(), processor, engine, precision, batch_size, embedding]
    return cache_dir() / "memory" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"


def _keep(path: Path, memory: NetworkMemory) -> None:
    """Where it cannot be kept, the next command measures again."""
    with suppress(OSError):
        private_folder(private_folder(path.parent.parent) / path.parent.name)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(memory._asdict()))
        partial.chmod(0o600)
        os.replace(partial, path)
