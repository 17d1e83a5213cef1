"""Run a network with OpenVINO: the fastest CPU engine measured (see the benchmarks).

A model folder's network is converted once per node and kept, for this user only and with the hashes of its files, which
are compared each time before it is read; an exported one is read as it is.
"""

from __future__ import annotations

import copy
import fcntl
import functools
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import StorageError
from imgcls_ray.models.cache import cache_dir, is_own, private_folder, replace_folder
from imgcls_ray.models.engines.engine import EngineOutput
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.exported import read_openvino_model
from imgcls_ray.models.folder import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import openvino as ov

    from imgcls_ray.models.engines.engine import Precision
    from imgcls_ray.models.folder import ModelFolder


logger = logging.getLogger(__name__)

_NETWORK_FILES = ("network.xml", "network.bin")
_HASHES_FILE = "SHA256SUMS"


class OpenVINOEngine:
    """One network on this machine's CPU: bf16 costs half of torch's."""

    def __init__(
        self,
        folder: ModelFolder,
        *,
        precision: Precision,
        batch_size: int | None,
        num_threads: int,
        num_streams: int,
        embedding: bool,
    ) -> None:
        import openvino as ov

        core = _openvino_core()
        if precision == "auto":
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        if folder.spec.exported is None:
            model = core.read_model(converted_network(folder, embedding=embedding))
        else:
            model = read_openvino_model(folder, core)
        size = folder.spec.preprocess.crop_size
        model.reshape([batch_size or -1, size, size, 3])
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": num_threads * num_streams,
                "NUM_STREAMS": num_streams,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                # Pinned, every one-threaded process would sit on the same first core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._tensor = ov.Tensor
        self._embedding = embedding

    def beside(self) -> OpenVINOEngine:
        other = copy.copy(self)
        other._request = self._compiled.create_infer_request()
        return other

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        self._request.infer({0: self._tensor(pixels, shared_memory=True)})
        logits = self._request.get_output_tensor(0).data.copy()
        return EngineOutput(logits, self._request.get_output_tensor(1).data.copy() if self._embedding else None)


@functools.cache
def _openvino_core() -> ov.Core:
    """The process's one OpenVINO, which lives as long as the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, large enough for AMX' registers, and
    frees that stack when the last engine goes. If that happens in another thread, as it may whenever Python collects
    garbage, the next signal (Ctrl-C) ends the process with a segmentation fault.
    """
    import openvino as ov

    return ov.Core()


def kept_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """Where the converted network is, or will be."""
    spec = folder.spec
    parts = [spec.weights_sha256, str(spec.architecture), spec.num_classes, str(spec.preprocess), embedding]
    parts += [version(package) for package in ("openvino", "timm", "imgcls-ray")]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_dir() / "openvino" / key / _NETWORK_FILES[0]


def converted_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """The network as OpenVINO IR, converted once per node and kept: conversion takes seconds, loading 0.3 s.

    Raises:
        StorageError: there is no place to keep it.
        ModelFolderError: the folder's weights do not fit.
    """
    network = kept_network(folder, embedding=embedding)
    if _is_whole(network.parent):
        return network
    try:
        # All actors of a new node start at once, and each conversion takes most of a gigabyte.
        with _locked(network.parent.with_suffix(".lock")):
            if not _is_whole(network.parent):
                _convert(folder, network, embedding=embedding)
    except OSError as error:
        raise StorageError(
            f"{cache_dir()}: the converted network cannot be saved there: {error.strerror or error}; "
            "set IMGCLS_CACHE to a folder that you can write to and that has space"
        ) from error
    return network


def _is_whole(kept: Path) -> bool:
    """Whether a kept network is this user's own and still what was written: it is run without further questions."""
    try:
        if not is_own(kept) or not all(is_own(kept / name) for name in (*_NETWORK_FILES, _HASHES_FILE)):
            return False
        if (kept / _HASHES_FILE).read_text() != _hashes(kept):
            raise ValueError
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        logger.warning("%s: the converted network was changed or damaged; it is converted again", kept)
        return False
    return True


def _hashes(kept: Path) -> str:
    """As ``sha256sum`` writes and checks them."""
    return "".join(f"{sha256_file(kept / name)}  {name}\n" for name in _NETWORK_FILES)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; a process that dies lets go of it."""
    private_folder(path.parent)
    with path.open("a") as file:
        # A file system without locks costs a conversion per process; whoever is first keeps the network.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(folder: ModelFolder, network: Path, *, embedding: bool) -> None:
    """Convert and keep, in one step: the name is there whole or not at all."""
    import openvino as ov
    import torch

    size = folder.spec.preprocess.crop_size
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO's converter traces with a part of torch that announces its end; nothing here can act on it.
        warnings.simplefilter("ignore", FutureWarning)
        # What a network asks of sizes is answered for the one size that it will see; only the batch is left open.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        converted = ov.convert_model(
            from_uint8(folder, embedding=embedding),
            example_input=torch.zeros(2, size, size, 3, dtype=torch.uint8),
            input=[([-1, size, size, 3], ov.Type.u8)],
        )
    kept = network.parent
    partial = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    try:
        # Weights stay float32: halving them here would change labels, and the engine chooses its own precision.
        ov.save_model(converted, partial / network.name, compress_to_fp16=False)
        (partial / _HASHES_FILE).write_text(_hashes(partial))
        for name in (*_NETWORK_FILES, _HASHES_FILE):
            (partial / name).chmod(0o600)
        replace_folder(partial, kept, is_good=lambda: _is_whole(kept))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
