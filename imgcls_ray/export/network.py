"""Write a model's network in the format of another runtime.

Whatever the format: float32 ``images`` (B, 3, H, W), resized, cropped and normalised as ``model.json`` says, in;
``logits`` (B, num_classes) out; any number of images in a batch. The classifier runs what is written here, and
``export/parity.py`` says how far it is from the original.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from imgcls_ray.errors import JobFailedError, UsageError
from imgcls_ray.export.quantize import quantize_network
from imgcls_ray.export.restore import quantize_with_control
from imgcls_ray.models.exported import INPUT_NAME, OUTPUT_NAME, trust_pt2
from imgcls_ray.models.folder import describe_exported_folder
from imgcls_ray.models.spec import EXPORTED_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn

    from imgcls_ray.export.quantize import Control
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.spec import ExportFormat


def check_export_packages(fmt: ExportFormat, *, int8: bool) -> None:
    """Refuse what needs packages that are not installed, before the work is done.

    Raises:
        UsageError: how to install them.
    """
    needed = [*(("onnx", "onnxscript") if fmt == "onnx" else ()), *(("nncf",) if int8 else ())]
    if fmt == "onnx" and int8:
        needed.append("onnxruntime")  # NNCF calibrates with it
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(f"this export needs {' and '.join(missing)}; pip install 'imgcls-ray[export]'")


def export_network(
    folder: ModelFolder,
    partial: Path,
    fmt: ExportFormat,
    *,
    calibrate_on: Sequence[np.ndarray] | None = None,
    control: Control | None = None,
) -> ModelFolder:
    """Write the folder's network and its ``model.json`` into another folder.

    Args:
        folder: what to export.
        partial: an empty folder, or that of an earlier attempt.
        fmt: of the network.
        calibrate_on: uint8 (crop_size, crop_size, 3) each; with them the network is quantized to 8 bits.
        control: keep layers in floating point until these labels are kept.

    Raises:
        NotRestoredError: that failed, and there is no network.
        JobFailedError: NNCF cannot quantize this network.
        ModelFolderError: the folder is an exported one, or its network has a fault.
    """
    network = folder.load_network()
    path = partial / EXPORTED_FILES[fmt][0]
    size = folder.spec.preprocess.crop_size
    with quietly():
        if fmt == "onnx":
            _export_onnx(network, path, size)
        elif fmt == "openvino":
            _export_openvino(network, path, size)
        else:
            _export_torch(network, path, size)
        if calibrate_on is not None:
            preprocess, has_attention = folder.spec.preprocess, _has_attention(network)
            if control is None:
                _quantize_plainly(path, calibrate_on, preprocess, has_attention=has_attention)
            else:
                quantize_with_control(path, calibrate_on, preprocess, has_attention=has_attention, control=control)
    exported = describe_exported_folder(partial, folder.spec, fmt, is_int8=calibrate_on is not None)
    if fmt == "torch_export":
        trust_pt2(exported.spec.files[path.name])
    return exported


def _quantize_plainly(path: Path, images: Sequence[np.ndarray], preprocess: Preprocess, *, has_attention: bool) -> None:
    try:
        quantize_network(path, images, preprocess, has_attention=has_attention)
    # NNCF fails with anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise JobFailedError(
            f"NNCF cannot quantize this network: {reason}. Nothing was exported; export it without --int8"
        ) from error


def _export_onnx(network: nn.Module, path: Path, size: int) -> None:
    import torch

    torch.onnx.export(
        network,
        (_example(size),),
        path,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _export_openvino(network: nn.Module, path: Path, size: int) -> None:
    import openvino as ov

    model = ov.convert_model(network, example_input=_example(size), input=[([-1, 3, size, size], ov.Type.f32)])
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    model.outputs[0].get_tensor().set_names({OUTPUT_NAME})
    # Weights stay float32: halving them here would change labels, and the engine chooses its own precision.
    ov.save_model(model, path, compress_to_fp16=False)


def _export_torch(network: nn.Module, path: Path, size: int) -> None:
    import torch

    class Named(torch.nn.Module):
        """Gives the input its name: torch.export takes that of the argument."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(images)
            return logits

    program = torch.export.export(Named().eval(), (_example(size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # They would be kept in the file, a megabyte of zeros.
    program.example_inputs = None
    torch.export.save(program, path)


def _example(size: int) -> torch.Tensor:
    import torch

    # Two images: with one, tracers take the batch for a constant.
    return torch.zeros(2, 3, size, size)


def _has_attention(network: nn.Module) -> bool:
    return any("attention" in type(module).__name__.lower() for module in network.modules())


@contextmanager
def quietly() -> Iterator[None]:
    """Let exporters do their work without telling of their own affairs; what fails still raises."""
    import torch

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
