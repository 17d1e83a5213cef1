"""Quantize an exported network to 8 bits: weights and activations, with ranges calibrated on real images."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imgcls_ray.models.exported import INPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.images.preprocess import Preprocess


Model = TypeVar("Model")
"""OpenVINO's or ONNX'."""


def quantize_openvino(path: Path, images: Sequence[np.ndarray], preprocess: Preprocess, *, has_attention: bool) -> None:
    """Replace a float32 ``model.xml`` and its ``model.bin`` by quantized ones.

    Args:
        path: of the ``.xml``.
        images: to calibrate on; uint8 (crop_size, crop_size, 3) each.
        preprocess: of the network.
        has_attention: transformers are quantized in a way of their own.
    """
    import openvino as ov

    # Read into memory: the quantized weights go where these are.
    model = ov.Core().read_model(path.read_bytes(), ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8)))
    quantized = _quantize(model, images, preprocess, has_attention=has_attention)
    ov.save_model(quantized, path, compress_to_fp16=False)


def quantize_onnx(path: Path, images: Sequence[np.ndarray], preprocess: Preprocess, *, has_attention: bool) -> None:
    """Replace a float32 ``model.onnx`` by a quantized one; arguments as of ``quantize_openvino``."""
    import onnx

    onnx.save_model(_quantize(onnx.load(path), images, preprocess, has_attention=has_attention), path)


def _quantize(model: Model, images: Sequence[np.ndarray], preprocess: Preprocess, *, has_attention: bool) -> Model:
    import nncf

    mean, std = (255 * np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))

    def network_input(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {INPUT_NAME: ((pixels.transpose(2, 0, 1).astype(np.float32) - mean) / std)[None]}

    quantized: Model = nncf.quantize(
        model,
        nncf.Dataset(images, network_input),
        # Hard-swish and its kin have ranges that are not symmetric around zero.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
    )
    return quantized
