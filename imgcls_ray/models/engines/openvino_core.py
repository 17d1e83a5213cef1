"""The process's one OpenVINO, and how networks are compiled with it for this machine's CPU."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

    from imgcls_ray.models.engines.engine import Precision


def has_native_bf16() -> bool:
    """Whether this machine's processor computes bf16 natively: what ``auto`` takes."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def openvino_core() -> ov.Core:
    """The process's one OpenVINO, which lives as long as the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, large enough for AMX' registers, and
    frees that stack when the last engine goes. If that happens in another thread, as it may whenever Python collects
    garbage, the next signal (Ctrl-C) ends the process with a segmentation fault.
    """
    import openvino as ov

    return ov.Core()


def compile_network(
    model: ov.Model,
    *,
    size: int,
    precision: Precision = "auto",
    batch_size: int | None,
    num_threads: int = 1,
    num_streams: int = 1,
) -> ov.CompiledModel:
    """Make a network ready to run.

    Args:
        model: uint8 (B, size, size, 3) in.
        size: sides of its images, pixels.
        precision: ``auto`` takes bf16 where the processor computes it natively.
        batch_size: fixed number of images per call; None for any.
        num_threads: CPU threads of one forward pass.
        num_streams: forward passes that may run at once.

    Raises:
        RuntimeError: OpenVINO cannot run it.
    """
    if precision == "auto":
        precision = "bf16" if has_native_bf16() else "fp32"
    model.reshape([batch_size or -1, size, size, 3])
    return openvino_core().compile_model(
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
