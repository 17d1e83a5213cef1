"""Read exported networks: ONNX and OpenVINO's own format for OpenVINO, ``torch.export``'s for torch.

Reading ONNX and OpenVINO's format runs nothing and reads no other file. Reading ``torch.export``'s may run whatever its
writer wanted: torch unpickles parts of it and evaluates expressions in it. So a ``model.pt2`` is read only where this
user exported it, or named its hash.
"""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.cache import cache_dir
from imgcls_ray.models.engines.torch_engine import make_normalise
from imgcls_ray.models.onnx_file import refuse_external_data
from imgcls_ray.models.spec import EXPORTED_FILES

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov
    from torch import nn

    from imgcls_ray.models.folder import ModelFolder

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
TRUSTED_PT2 = "IMGCLS_TRUSTED_PT2"
"""Environment variable: sha256 of the ``model.pt2`` files that may be read, with commas between."""


def read_openvino_model(folder: ModelFolder, core: ov.Core) -> ov.Model:
    """Read an exported network for OpenVINO and put normalisation before it.

    Args:
        folder: exported to ``onnx`` or ``openvino``.
        core: OpenVINO's.

    Returns:
        uint8 (B, H, W, 3) in, logits out.

    Raises:
        ModelFolderError: it cannot be read, or is no network of these images and classes.
    """
    path = folder.path / _exported_files(folder)[0]
    if path.suffix == ".onnx":
        refuse_external_data(path)
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise ModelFolderError(f"{path}: is not a network that OpenVINO can read: {reason[:200]}") from error
    _check_ports(folder, model, path)
    return _from_uint8(folder, model)


def _check_ports(folder: ModelFolder, model: ov.Model, path: Path) -> None:
    size = folder.spec.preprocess.crop_size
    expected = [[f"[?,3,{size},{size}]"], [f"[?,{folder.spec.num_classes}]"]]
    found = [[str(port.get_partial_shape()) for port in ports] for ports in (model.inputs, model.outputs)]
    types = {str(port.get_element_type().get_type_name()) for port in (*model.inputs, *model.outputs)}
    if found != expected or types != {"f32"}:
        raise ModelFolderError(
            f"{path}: takes {', '.join(found[0])} and gives {', '.join(found[1])} ({', '.join(sorted(types))}); with "
            f"this preprocessing and these classes it must take {expected[0][0]} and give {expected[1][0]}, float32"
        )


def _from_uint8(folder: ModelFolder, model: ov.Model) -> ov.Model:
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    preprocess = folder.spec.preprocess
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (preprocess.mean, preprocess.std))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(std)
    return steps.build()


def read_torch_network(folder: ModelFolder, device: str) -> nn.Module:
    """Read an exported network for torch and put normalisation before it.

    Args:
        folder: exported to ``torch_export``.
        device: torch's name of the device it is to run on.

    Returns:
        uint8 (B, H, W, 3) in, logits out.

    Raises:
        ModelFolderError: nobody vouches for the file, or torch cannot read it.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    [name] = _exported_files(folder)
    path = folder.path / name
    content = path.read_bytes()
    # Of the very bytes that torch is about to read: the file may have been replaced since the folder was opened.
    found = hashlib.sha256(content).hexdigest()
    _refuse_untrusted(path, found)
    try:
        program = torch.export.load(io.BytesIO(content))
    # Reading another version's file raises anything.
    except Exception as error:
        raise ModelFolderError(f"{path}: torch {torch.__version__} cannot read it: {error}") from error
    return torch.nn.Sequential(
        make_normalise(folder.spec.preprocess), move_to_device_pass(program, device).module(check_guards=False)
    )


def trust_pt2(sha256: str) -> None:
    """Let this user read a ``model.pt2`` that was exported here."""
    mark = _trust_mark(sha256)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _refuse_untrusted(path: Path, sha256: str) -> None:
    if sha256 in os.environ.get(TRUSTED_PT2, "").split(",") or _trust_mark(sha256).is_file():
        return
    raise ModelFolderError(
        f"{path}: was not exported on this machine, and torch may run what is in such a file when it reads it. If you "
        f"know where it comes from, set {TRUSTED_PT2}={sha256} wherever it is to run; or use the model folder that it "
        "was exported from, or an export to onnx or openvino, which can run nothing"
    )


def _trust_mark(sha256: str) -> Path:
    return cache_dir() / "trusted_pt2" / sha256


def _exported_files(folder: ModelFolder) -> tuple[str, ...]:
    exported = folder.spec.exported
    assert exported is not None, "load_engine asks for it"
    return EXPORTED_FILES[exported.format]
