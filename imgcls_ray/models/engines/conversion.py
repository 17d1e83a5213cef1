"""Convert a network to OpenVINO's format (IR), which takes seconds and most of a gigabyte.

The same network and versions give the same files, bit for bit, whoever converts. So it does not matter for a row
whether its worker read the converted network from the model folder or from this machine's cache.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

from imgcls_ray.words import shortened

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from imgcls_ray.models.spec import ModelSpec

NETWORK_FILES = ("network.xml", "network.bin")
"""Graph and weights."""
# To be counted up with every change of this package that changes converted networks, in whatever digit.
_CONVERSION_VERSION = 1
_MAX_WORDS = 200


def conversion_key(spec: ModelSpec, *, embedding: bool) -> str:
    """Hash (SHA-256) of what decides the files of the converted network."""
    preprocess = spec.preprocess
    parts = {
        "weights": spec.weights_sha256,
        "architecture": asdict(spec.architecture),
        "num_classes": spec.num_classes,
        "input": [preprocess.crop_size, preprocess.mean, preprocess.std],
        "embedding": embedding,
        "conversion": _CONVERSION_VERSION,
        "versions": conversion_versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def conversion_versions() -> dict[str, str]:
    """Versions of the libraries that decide the files, without the part that names a build (``+cpu``)."""
    return {package: version(package).partition("+")[0] for package in ("openvino", "timm", "torch")}


def convert_network(network: nn.Module, size: int, place: Path) -> None:
    """Write the files of the converted network.

    Args:
        network: uint8 (B, size, size, 3) in, as ``from_uint8`` makes it.
        size: sides of its images, pixels.
        place: a folder.

    Raises:
        OSError: the files cannot be written.
    """
    import openvino as ov
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO's converter traces with a part of torch that announces its end; nothing here can act on it.
        warnings.simplefilter("ignore", FutureWarning)
        # What a network asks of sizes is answered for the one size that it will see; only the batch is left open.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        converted = ov.convert_model(
            network,
            example_input=torch.zeros(2, size, size, 3, dtype=torch.uint8),
            input=[([-1, size, size, 3], ov.Type.u8)],
        )
    # OpenVINO's own names have numbers that count everything that the process has converted.
    converted.set_friendly_name("network")
    for number, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    # Weights stay float32: halving them here would change labels, and the engine chooses its own precision.
    try:
        ov.save_model(converted, place / NETWORK_FILES[0], compress_to_fp16=False)
    except RuntimeError as error:  # of a full disk it says "basic_ios::clear: iostream error"
        raise OSError(f"OpenVINO cannot write it ({shortened(str(error), _MAX_WORDS)})") from error
