"""Quantize an exported network to 8 bits, with ranges calibrated on real images, and as little of it as costs labels.

NNCF quantizes everything and corrects the bias that this gives every layer. If too many of the calibration images then
miss their class, it takes the layers that cost most back to floating point, one after the other.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.models.exported import INPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import openvino as ov

    from imgcls_ray.images.preprocess import Preprocess

Model = TypeVar("Model")
"""OpenVINO's or ONNX'."""

# Of images that are looked at for each layer, to find those that cost most.
_NUM_RANKED = 100


class CalibrationImage(NamedTuple):
    """One image to calibrate on."""

    pixels: np.ndarray
    """uint8 (crop_size, crop_size, 3)."""
    target: int | None
    """Class id that the network should give it: its label, or what the original is confident of; None for neither."""


@dataclass(frozen=True)
class Calibration:
    """What a network is quantized with."""

    images: Sequence[CalibrationImage]
    max_drop: float
    """Share of the images with a target, 0 to 1, that may lose it."""


def quantize_openvino(path: Path, calibration: Calibration, preprocess: Preprocess, *, has_attention: bool) -> None:
    """Replace a float32 ``model.xml`` and its ``model.bin`` by quantized ones.

    Args:
        path: of the ``.xml``.
        calibration: on at least one image.
        preprocess: of the network.
        has_attention: transformers are quantized in a way of their own.
    """
    import openvino as ov

    # Read into memory: the quantized weights go where these are.
    model = ov.Core().read_model(path.read_bytes(), ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8)))
    shape = model.input(0).get_partial_shape()
    # Of one image: at any batch size, OpenVINO 2026.4 crashes in the networks that NNCF validates (seen with AMX).
    model.reshape(_of_one(shape))
    quantized = _quantize(model, calibration, preprocess, has_attention=has_attention)
    quantized.reshape(shape)
    ov.save_model(quantized, path, compress_to_fp16=False)


def quantize_onnx(path: Path, calibration: Calibration, preprocess: Preprocess, *, has_attention: bool) -> None:
    """Replace a float32 ``model.onnx`` by a quantized one; arguments as of ``quantize_openvino``."""
    import onnx

    onnx.save_model(_quantize(onnx.load(path), calibration, preprocess, has_attention=has_attention), path)


def _quantize(model: Model, calibration: Calibration, preprocess: Preprocess, *, has_attention: bool) -> Model:
    import nncf

    mean, std = (255 * np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))

    def network_input(image: CalibrationImage) -> dict[str, np.ndarray]:
        return {INPUT_NAME: ((image.pixels.transpose(2, 0, 1).astype(np.float32) - mean) / std)[None]}

    images = calibration.images
    options: dict[str, Any] = {
        # Hard-swish and its kin have ranges that are not symmetric around zero.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "model_type": nncf.ModelType.TRANSFORMER if has_attention else None,
    }
    asked = [image for image in images if image.target is not None]
    dataset = nncf.Dataset(images, network_input)
    if not asked:
        quantized: Model = nncf.quantize(model, dataset, **options)
        return quantized
    controlled: Model = nncf.quantize_with_accuracy_control(
        model,
        dataset,
        nncf.Dataset(asked, network_input),
        _share_right(network_input),
        max_drop=calibration.max_drop,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=min(_NUM_RANKED, len(asked))
        ),
        **options,
    )
    return controlled


def _share_right(
    network_input: Callable[[CalibrationImage], dict[str, np.ndarray]],
) -> Callable[[Any, Iterable[CalibrationImage]], tuple[float, list[float]]]:
    """What NNCF calls with a network and images: the share that gets its target, and 1 or 0 for each image."""

    def share_right(network: Any, images: Iterable[CalibrationImage]) -> tuple[float, list[float]]:
        compiled = _compiled(network)
        right = [float(compiled(network_input(image))[0].argmax() == image.target) for image in images]
        return sum(right) / max(len(right), 1), right

    return share_right


def _compiled(network: Any) -> ov.CompiledModel:
    """NNCF hands over OpenVINO's networks compiled, and ONNX' as they are."""
    import openvino as ov

    if isinstance(network, ov.CompiledModel):
        return network
    model = openvino_core().read_model(io.BytesIO(network.SerializeToString()))
    model.reshape(_of_one(model.input(0).get_partial_shape()))
    return openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _of_one(shape: ov.PartialShape) -> list[int]:
    """The shape of one image, in place of that of a batch."""
    return [1, *(side.get_length() for side in list(shape)[1:])]
