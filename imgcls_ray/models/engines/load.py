"""Run a network on uint8 pixels: OpenVINO on CPUs, torch on CPUs and GPUs.

Every engine takes the same array and gives the same two arrays; normalisation happens inside the network, so that what
crosses from decoding to the engine stays uint8. Batches have one fixed shape: the same image gives the same numbers
whatever stands beside it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.config import parse_device
from imgcls_ray.errors import ResourceError, UsageError
from imgcls_ray.machine import available_cores
from imgcls_ray.models.engines import openvino_core, torch_engine
from imgcls_ray.models.engines.converted import converted_network, needed_preparation
from imgcls_ray.models.engines.engine import Computed, Engine, EngineName, EngineOutput, Precision
from imgcls_ray.models.engines.openvino_engine import OpenVINOEngine
from imgcls_ray.models.engines.torch_engine import TorchEngine, from_uint8
from imgcls_ray.models.exported import read_torch_network
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from imgcls_ray.models.engines.converted import Preparation
    from imgcls_ray.models.folder import ModelFolder

__all__ = [
    "Engine",
    "EngineName",
    "EngineOutput",
    "Precision",
    "check_engine",
    "load_engine",
    "native_bf16_of",
    "preparation_of",
    "prepare_engine",
    "runs_converted",
    "runs_openvino",
    "torch_devices",
]


def load_engine(
    folder: ModelFolder,
    *,
    engine: EngineName = "auto",
    device: str = "cpu",
    precision: Precision = "auto",
    batch_size: int | None = 32,
    num_threads: int | None = None,
    num_streams: int = 1,
    embedding: bool = False,
) -> Engine:
    """Make a model folder ready to run.

    Args:
        folder: a checked model folder.
        engine: ``auto`` takes OpenVINO on a CPU and torch on a GPU.
        device: ``cpu``; ``gpu`` for the first; ``gpu:0,1`` for these, among which every batch is shared out.
        precision: ``auto`` takes bf16 where the processor computes it natively.
        batch_size: the fixed number of images per call; None for another number in every call, whose scores then differ
            in their last digits from one number to the next.
        num_threads: CPU threads of one forward pass; all cores if not given.
        num_streams: forward passes on the CPU that may run at once, one in each engine ``beside`` this one.
        embedding: also return the features before the head.

    Raises:
        ResourceError: there is no such device.
        UsageError: an exported network that cannot run like that.
    """
    check_engine(folder, engine, device, embedding)
    if engine == "openvino" and device != "cpu":
        raise ResourceError(f"engine openvino runs on the CPU, not on {device}; use engine torch")
    devices = torch_devices(device)
    num_threads = num_threads or available_cores()
    if runs_openvino(folder, engine, device):
        return OpenVINOEngine(
            folder,
            precision=precision,
            batch_size=batch_size,
            num_threads=num_threads,
            num_streams=num_streams,
            embedding=embedding,
        )
    engines = [
        TorchEngine(
            _torch_network(folder, name, embedding=embedding),
            device=name,
            precision=precision,
            num_threads=num_threads,
        )
        for name in devices
    ]
    return engines[0] if len(engines) == 1 else _SharedEngine(engines)


def check_engine(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> None:
    """Refuse to run an exported network as it cannot run; a model folder runs in every way.

    Raises:
        UsageError: with the way out.
    """
    exported = folder.spec.exported
    if exported is None:
        return
    what = f"{folder.path}: was exported to {exported.format}"
    way_out = "or give the model folder that it was exported from"
    if embedding:
        raise UsageError(f"{what}, which gives logits and no embedding; leave embedding out, {way_out}")
    if exported.format == "torch_export":
        if engine == "openvino":
            raise UsageError(f"{what}, which OpenVINO does not run; give engine=torch, {way_out}")
    elif engine == "torch" or device != "cpu":
        raise UsageError(f"{what}, which runs on OpenVINO on the CPU; give engine=openvino device=cpu, {way_out}")


def preparation_of(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> Preparation | None:
    """What ``prepare_engine`` has to do: compare the converted network of the folder, or convert; None for nothing."""
    if not runs_converted(folder, engine, device):
        return None
    return needed_preparation(folder, embedding=embedding)


def prepare_engine(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> None:
    """Do once what every worker would otherwise do: compare the folder's converted network, or convert and keep it."""
    if runs_converted(folder, engine, device):
        converted_network(folder, embedding=embedding)


def runs_converted(folder: ModelFolder, engine: EngineName, device: str) -> bool:
    """Whether the engine is OpenVINO with the network of a model folder, which has to be converted for it."""
    return folder.spec.exported is None and runs_openvino(folder, engine, device)


def native_bf16_of(folder: ModelFolder, engine: EngineName) -> Callable[[], bool]:
    """What tells, on any machine, whether ``precision=auto`` is bf16 there for this network on CPUs."""
    return openvino_core.has_native_bf16 if runs_openvino(folder, engine, "cpu") else torch_engine.has_native_bf16


def runs_openvino(folder: ModelFolder, engine: EngineName, device: str) -> bool:
    """Whether the engine is OpenVINO, with a network of any origin."""
    is_torch_only = folder.spec.exported is not None and folder.spec.exported.format == "torch_export"
    return engine == "openvino" or (engine == "auto" and device == "cpu" and not is_torch_only)


def _torch_network(folder: ModelFolder, device: str, *, embedding: bool) -> nn.Module:
    if folder.spec.exported is None:
        return from_uint8(folder, embedding=embedding)
    return read_torch_network(folder, device)


class _SharedEngine:
    """Several devices, each with a share of every batch."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._executor = ThreadPoolExecutor(len(engines), thread_name_prefix="device")

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        # Every device sees one shape, as it would alone; where the batch cannot be shared out evenly the last ones get
        # blank images.
        blank = -len(pixels) % len(self._engines)
        padded = np.concatenate([pixels, np.zeros((blank, *pixels.shape[1:]), pixels.dtype)]) if blank else pixels
        outputs = list(self._executor.map(_run, self._engines, np.split(padded, len(self._engines))))
        logits = np.concatenate([output.logits for output in outputs])[: len(pixels)]
        embeddings = [output.embedding for output in outputs if output.embedding is not None]
        return EngineOutput(logits, np.concatenate(embeddings)[: len(pixels)] if embeddings else None)

    @property
    def precision(self) -> Computed:
        return self._engines[0].precision

    def beside(self) -> _SharedEngine:
        return self


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
        have = counted(found, "CUDA device")
        raise ResourceError(f"device {device}: there is no GPU {missing[0]}, this machine has {have}; use cpu")
    return [f"cuda:{i}" for i in ids]
