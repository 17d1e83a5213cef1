"""The half of ``paddle_parity`` that runs where PaddlePaddle and PaddleClas are installed.

For one name: PaddleClas' network with PaddleX's arguments, every tensor drawn anew so that all of them show in the
result, its weights saved as Paddle saves them, and its logits. It needs nothing else of ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_DRAWN = "relative_position_index"
"""What PaddleClas saves although it follows from the network."""


# Without shortcuts, half of the signal is lost in every activation, and more in PP-LCNet's.
_GAINS = {
    "MobileNetV1": 1.4,
    "MobileNetV2": 1.4,
    "MobileNetV3": 1.4,
    "PP-HGNet": 1.4,
    "PP-LCNetV2": 1.4,
    "PP-LCNet": 1.7,
}


def draw_weights(name: str, shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """Draw float32 values for the tensors of a network, by Paddle's names, so that signals about keep their size."""
    gain = next((gain for family, gain in _GAINS.items() if name.startswith(family)), 1.0)
    rng = np.random.default_rng(seed)
    weights = {}
    for tensor, shape in shapes.items():
        last = tensor.rpartition(".")[2]
        if last == NOT_DRAWN:
            continue
        if last in ("_variance", "gamma", "scale") or (last == "weight" and len(shape) == 1):
            value = rng.uniform(0.6, 1.4, shape)
        elif last in ("_mean", "bias"):
            value = rng.normal(0, 0.1, shape)
        elif last in ("cls_token", "pos_embed", "relative_position_bias_table"):
            value = rng.normal(0, 0.5, shape)
        else:
            # Paddle's linear layers are (in, out), its convolutions (out, in, height, width).
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            # What is multiplied by itself (attention, StarNet's star) would grow beyond float32's digits.
            squares = any(part in tensor for part in (".f1.", ".f2.", "query_proj", "key_proj"))
            value = rng.normal(0, (0.3 if squares else gain) * fan_in**-0.5, shape)
        weights[tensor] = value.astype(np.float32)
    return weights


def draw_pixels(size: int, seed: int) -> np.ndarray:
    """Two normalised images: float32 (2, 3, size, size)."""
    return np.random.default_rng(seed).normal(0, 1, (2, 3, size, size)).astype(np.float32)


def _paddle_name(name: str) -> str:
    for ours, theirs in (("PP-LCNet", "PPLCNet"), ("PP-HGNetV2-", "PPHGNetV2_"), ("PP-HGNet", "PPHGNet")):
        if name.startswith(ours):
            return name.replace(ours, theirs)
    return name.replace("-", "_")


def main() -> None:
    """Arguments: name, image size, number of classes, folder for the results."""
    import paddle  # type: ignore[import-not-found]
    from paddleclas.ppcls.arch import backbone  # type: ignore[import-not-found]

    name, size, num_classes, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    wanted = _paddle_name(name)
    make: Any = getattr(backbone, wanted, None) or getattr(backbone, wanted.replace("_x1_0", ""))
    network = make(class_num=num_classes)
    state = network.state_dict()
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    for key, value in draw_weights(name, shapes, seed=0).items():
        state[key].set_value(paddle.to_tensor(value))
    network.eval()
    with paddle.no_grad():
        logits = network(paddle.to_tensor(draw_pixels(size, seed=1))).numpy()
    paddle.save(state, str(folder / "weights.pdparams"))
    np.save(folder / "logits.npy", logits)
    (folder / "shapes.json").write_text(json.dumps(shapes))


if __name__ == "__main__":
    main()
