"""Run a network on uint8 pixels: OpenVINO on CPUs, torch on CPUs and GPUs.

Every engine takes the same array and gives the same two arrays; normalisation happens inside the network, so that what
crosses from decoding to the engine stays uint8. Batches have one fixed shape: the same image gives the same numbers
whatever stands beside it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from imgcls_ray.config import parse_device
from imgcls_ray.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from imgcls_ray.models.folder import ModelFolder

EngineName = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "bf16", "fp32"]


class EngineOutput(NamedTuple):
    """What a network says about one batch."""

    logits: np.ndarray
    """float32 (B, num_classes)."""
    embedding: np.ndarray | None
    """float32 (B, num_features), the features before the classifier head, or None where not asked for."""


class Engine(Protocol):
    """A network ready to run at one batch size."""

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        """Run one batch: uint8 (batch_size, H, W, 3) at the model's input size, RGB."""


def load_engine(
    folder: ModelFolder,
    *,
    engine: EngineName = "auto",
    device: str = "cpu",
    precision: Precision = "auto",
    batch_size: int = 32,
    num_threads: int | None = None,
    embedding: bool = False,
) -> Engine:
    """Make a model folder ready to run.

    Args:
        folder: a checked model folder.
        engine: ``auto`` takes OpenVINO on a CPU and torch on a GPU.
        device: ``cpu``; ``gpu`` for the first; ``gpu:0,1`` for these, among which every batch is shared out.
        precision: ``auto`` takes bf16 where the processor computes it natively.
        batch_size: the fixed number of images per call.
        num_threads: CPU threads of one forward pass; all cores if not given.
        embedding: also return the features before the head.

    Raises:
        ResourceError: there is no such device.
    """
    if engine == "openvino" and device != "cpu":
        raise ResourceError(f"engine openvino runs on the CPU, not on {device}; use engine torch")
    devices = torch_devices(device)
    num_threads = num_threads or os.cpu_count() or 1
    if _is_openvino(engine, device):
        return _OpenVINOEngine(
            folder, precision=precision, batch_size=batch_size, num_threads=num_threads, embedding=embedding
        )
    engines = [
        _TorchEngine(folder, device=name, precision=precision, num_threads=num_threads, embedding=embedding)
        for name in devices
    ]
    return engines[0] if len(engines) == 1 else _SharedEngine(engines, batch_size=batch_size)


def is_engine_prepared(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> bool:
    """Whether ``prepare_engine`` has nothing to do."""
    return not _is_openvino(engine, device) or _kept_network(folder, embedding=embedding).is_file()


def _is_openvino(engine: EngineName, device: str) -> bool:
    return engine == "openvino" or (engine == "auto" and device == "cpu")


def prepare_engine(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> None:
    """Do once what every worker would otherwise do: convert the network and keep it."""
    if not is_engine_prepared(folder, engine, device, embedding):
        _converted_network(folder, embedding=embedding)


def cache_dir() -> Path:
    """Where converted networks are kept: ``IMGCLS_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("IMGCLS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgcls_ray"


def _from_uint8(folder: ModelFolder, *, embedding: bool) -> nn.Module:
    """Wrap the folder's network: uint8 (B, H, W, 3) in; logits, and the embedding if asked for, out."""
    import torch

    class FromUint8(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network: Any = network
            preprocess = folder.spec.preprocess
            self.register_buffer("mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            normalised = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
            features = self.network.forward_features(normalised)
            logits: torch.Tensor = self.network.forward_head(features)
            if not embedding:
                return logits
            return logits, self.network.forward_head(features, pre_logits=True)

    return FromUint8(folder.load_network()).eval()


class _OpenVINOEngine:
    """The fastest CPU engine measured (see the benchmarks): bf16 costs half of torch's."""

    def __init__(
        self, folder: ModelFolder, *, precision: Precision, batch_size: int, num_threads: int, embedding: bool
    ) -> None:
        import openvino as ov

        core = _openvino_core()
        if precision == "auto":
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        model = core.read_model(_converted_network(folder, embedding=embedding))
        size = folder.spec.preprocess.crop_size
        model.reshape([batch_size, size, size, 3])
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": num_threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                # Pinned, every one-threaded process would sit on the same first core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._request = compiled.create_infer_request()
        self._tensor = ov.Tensor
        self._embedding = embedding

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        self._request.infer({0: self._tensor(pixels, shared_memory=True)})
        logits = self._request.get_output_tensor(0).data.copy()
        return EngineOutput(logits, self._request.get_output_tensor(1).data.copy() if self._embedding else None)


class _TorchEngine:
    """Torch eager: GPUs in bf16 channels-last, and CPUs where OpenVINO is not wanted."""

    def __init__(
        self, folder: ModelFolder, *, device: str, precision: Precision, num_threads: int, embedding: bool
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(num_threads)
        if precision == "auto":
            native = self._device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
            precision = "bf16" if native else "fp32"
        self._bf16 = precision == "bf16"
        network = _from_uint8(folder, embedding=embedding).to(self._device)
        self._network = network.to(memory_format=torch.channels_last)

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        torch = self._torch
        # inference_mode is a property of the thread: Ray may call from another one than built the engine.
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext()
        with torch.inference_mode(), autocast:
            output = self._network(torch.from_numpy(pixels).to(self._device, non_blocking=True))
        logits, embedding = output if isinstance(output, tuple) else (output, None)
        return EngineOutput(
            logits.float().cpu().numpy(), embedding.float().cpu().numpy() if embedding is not None else None
        )


@functools.cache
def _openvino_core() -> Any:
    """The process's one OpenVINO, which lives as long as the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, large enough for AMX' registers, and
    frees that stack when the last engine goes. If that happens in another thread, as it may whenever Python collects
    garbage, the next signal (Ctrl-C) ends the process with a segmentation fault.
    """
    import openvino as ov

    return ov.Core()


class _SharedEngine:
    """Several devices, each with a share of every batch."""

    def __init__(self, engines: Sequence[Engine], *, batch_size: int) -> None:
        self._engines = engines
        # Every device sees one shape, as it would alone; where the batch cannot be shared out evenly the last ones get
        # blank images.
        self._share = math.ceil(batch_size / len(engines))
        self._executor = ThreadPoolExecutor(len(engines), thread_name_prefix="device")

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        blank = self._share * len(self._engines) - len(pixels)
        padded = np.concatenate([pixels, np.zeros((blank, *pixels.shape[1:]), pixels.dtype)]) if blank else pixels
        outputs = list(self._executor.map(_run, self._engines, np.split(padded, len(self._engines))))
        logits = np.concatenate([output.logits for output in outputs])[: len(pixels)]
        embeddings = [output.embedding for output in outputs if output.embedding is not None]
        return EngineOutput(logits, np.concatenate(embeddings)[: len(pixels)] if embeddings else None)


def _run(engine: Engine, pixels: np.ndarray) -> EngineOutput:
    return engine(pixels)


def torch_devices(device: str) -> list[str]:
    """torch's names of the devices that ``cpu``, ``gpu`` or ``gpu:0,1`` means.

    Raises:
        ResourceError: this machine lacks one of them, or it means none.
    """
    try:
        wanted = parse_device(device)
    except ValueError as error:
        raise ResourceError(f"device {device!r}: {error}") from error
    if not wanted.is_gpu:
        return ["cpu"]
    import torch

    found = torch.cuda.device_count()
    ids = wanted.ids or (0,)
    if missing := [i for i in ids if i >= found]:
        have = f"{found} CUDA {'device' if found == 1 else 'devices'}"
        raise ResourceError(f"device {device}: there is no GPU {missing[0]}, this machine has {have}; use cpu")
    return [f"cuda:{i}" for i in ids]


def _kept_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """Where the converted network is, or will be."""
    spec = folder.spec
    parts = [spec.weights_sha256, str(spec.architecture), spec.num_classes, str(spec.preprocess), embedding]
    parts += [version(package) for package in ("openvino", "timm", "imgcls-ray")]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_dir() / "openvino" / key / "network.xml"


def _converted_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """The network as OpenVINO IR, converted once per node and kept: conversion takes seconds, loading 0.3 s."""
    network = _kept_network(folder, embedding=embedding)
    if network.is_file():
        return network
    # All actors of a new node start at once, and each conversion takes most of a gigabyte.
    with _locked(network.parent.with_suffix(".lock")):
        if not network.is_file():
            _convert(folder, network, embedding=embedding)
    return network


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; a process that dies lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
            _from_uint8(folder, embedding=embedding),
            example_input=torch.zeros(2, size, size, 3, dtype=torch.uint8),
            input=[([-1, size, size, 3], ov.Type.u8)],
        )
    kept = network.parent
    partial = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    try:
        # Weights stay float32: halving them here would change labels, and the engine chooses its own precision.
        ov.save_model(converted, partial / "network.xml", compress_to_fp16=False)
        os.replace(partial, kept)
    except OSError:
        # Another process kept the same network first; a name that exists is whole.
        if not network.is_file():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
