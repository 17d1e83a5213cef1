"""Quantize an exported network to 8 bits: weights and activations, with ranges calibrated on real images.

NNCF also corrects the biases for the mean error of the layers before them. With accuracy control it leaves those layers
in floating point whose 8 bits cost the most, until labels are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imgcls_ray.models.exported import INPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from imgcls_ray.images.preprocess import Preprocess

# Layers are ranked by how far their 8 bits move the logits of so many images: enough for an order, and with all of
# them the hundreds of networks that are compared would take hours.
_NUM_RANKING = 32
_MAX_RESTORED = 40


class Control(NamedTuple):
    """What accuracy control has to keep."""

    expected: Sequence[int | None]
    """Class that the network must say of each image that it is calibrated on; ``None`` for those that do not count."""
    max_drop: float
    """Largest share of them that it may lose."""


def quantize_network(
    path: Path,
    images: Sequence[np.ndarray],
    preprocess: Preprocess,
    *,
    has_attention: bool,
    control: Control | None = None,
) -> None:
    """Replace a float32 ``model.onnx``, or ``model.xml`` and ``model.bin``, by a quantized one.

    Args:
        path: of the ``.onnx`` or the ``.xml``.
        images: to calibrate on; uint8 (crop_size, crop_size, 3) each.
        preprocess: of the network.
        has_attention: transformers are quantized in a way of their own.
        control: compile the network again and again, and keep layers in floating point; for OpenVINO's format alone.
    """
    if path.suffix == ".onnx":
        import onnx

        onnx.save_model(_quantize(onnx.load(path), images, preprocess, has_attention, control), path)
        return
    import openvino as ov

    # Read into memory: the quantized weights go where these are.
    model = ov.Core().read_model(path.read_bytes(), ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8)))
    ov.save_model(_quantize(model, images, preprocess, has_attention, control), path, compress_to_fp16=False)


def _quantize(
    model: Any, images: Sequence[np.ndarray], preprocess: Preprocess, has_attention: bool, control: Control | None
) -> Any:
    """OpenVINO's or ONNX' model, quantized."""
    import nncf

    mean, std = (255 * np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))

    def network_input(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {INPUT_NAME: ((pixels.transpose(2, 0, 1).astype(np.float32) - mean) / std)[None]}

    options = {
        # Hard-swish and its kin have ranges that are not symmetric around zero.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "model_type": nncf.ModelType.TRANSFORMER if has_attention else None,
    }
    if control is None:
        return nncf.quantize(model, nncf.Dataset(images, network_input), **options)
    counted = [(pixels, label) for pixels, label in zip(images, control.expected, strict=True) if label is not None]

    def measure(network: Any, items: Iterable[tuple[np.ndarray, int]]) -> tuple[float, list[list[np.ndarray]]]:
        """The share of kept labels, and the logits, by which NNCF ranks layers."""
        answers = [(np.asarray(network(network_input(pixels))[0]), label) for pixels, label in items]
        return float(np.mean([logits.argmax() == label for logits, label in answers])), [[one] for one, _ in answers]

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(images, network_input),
        nncf.Dataset(counted, lambda item: network_input(item[0])),
        measure,
        max_drop=control.max_drop,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            max_num_iterations=_MAX_RESTORED,
            ranking_subset_size=_NUM_RANKING,
            # Its threads would compile networks for the same cores at once.
            num_ranking_workers=1,
        ),
        **options,
    )
