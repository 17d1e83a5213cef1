"""The converted network of a model folder: the one that lies in it, or the one that this machine converted.

A converted network comes with a model folder from anywhere. So it runs only after its answers to known pictures have
been compared, once on each machine, with those that the folder has of the network in float32.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from imgcls_ray.errors import ImgclsError
from imgcls_ray.models.bundle import BUNDLE, BUNDLE_FILES, RECORD_FILE, read_bundle, write_record
from imgcls_ray.models.cache import cache_dir, is_own, private_folder
from imgcls_ray.models.engines.cached import cached_network, cached_path
from imgcls_ray.models.engines.conversion import NETWORK_FILES, convert_network
from imgcls_ray.models.engines.openvino_core import compile_network, openvino_core
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.folder import sha256_file
from imgcls_ray.models.known_pictures import MAX_DIFFERENCE, NUM_BUNDLED, known_pictures, logits_difference
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from imgcls_ray.models.bundle import Bundle
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.spec import ModelSpec
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

Preparation: TypeAlias = Literal["check", "conversion"]

_RIGHT, _WRONG = "right", "wrong"


def converted_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """The network as OpenVINO IR, from the model folder if it has it, else converted once on this machine.

    Raises:
        StorageError: there is no place to keep a conversion.
        ModelFolderError: the folder's weights do not fit.
    """
    if not embedding and (bundle := read_bundle(folder)) is not None and _is_right(bundle, folder.spec):
        return bundle.path
    return cached_network(folder, embedding=embedding)


def bundled_logits(folder: ModelFolder) -> np.ndarray | None:
    """What the network says of the first known pictures in float32, if its folder says so and was found to be right.

    Returns:
        float32 (NUM_BUNDLED, num_classes); None if only the network itself can say it.
    """
    bundle = read_bundle(folder)
    return bundle.logits if bundle is not None and _verdict(bundle) == _RIGHT else None


def needed_preparation(folder: ModelFolder, *, embedding: bool) -> Preparation | None:
    """What ``converted_network`` would have to do before the network can be read."""
    if not embedding and (bundle := read_bundle(folder)) is not None:
        verdict = _verdict(bundle)
        if verdict != _WRONG:
            return None if verdict == _RIGHT else "check"
    return None if cached_path(folder, embedding=embedding).is_file() else "conversion"


def _is_right(bundle: Bundle, spec: ModelSpec) -> bool:
    """Whether a bundled network says of the known pictures what the network in float32 said; found out once."""
    if (verdict := _verdict(bundle)) is not None:
        return verdict == _RIGHT
    is_right = False
    try:
        difference = logits_difference(_answers(bundle.path, spec), bundle.logits)
        is_right = difference <= MAX_DIFFERENCE
        reason = f"its logits for known pictures differ by {difference:.0%} from those of the network in float32"
    except (RuntimeError, ValueError) as error:  # OpenVINO cannot read or run it; other shapes
        reason = str(error).strip().rpartition("\n")[2][:200]
    if not is_right:
        logger.warning("%s: the converted network is left aside: %s", bundle.path.parent, reason)
    _note(bundle.record_sha256, _RIGHT if is_right else _WRONG)
    return is_right


def _note(record_sha256: str, verdict: str) -> None:
    """Keep a verdict for this user's later processes; where it cannot be kept, each of them finds out for itself."""
    note = _note_path(record_sha256)
    with suppress(OSError):
        private_folder(private_folder(note.parent.parent) / note.parent.name)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(verdict)
        partial.chmod(0o600)
        os.replace(partial, note)


def _verdict(bundle: Bundle) -> str | None:
    """What this machine found out about a bundled network; None if nothing."""
    note = _note_path(bundle.record_sha256)
    with suppress(OSError, ValueError):
        if is_own(note.parent) and is_own(note):
            return note.read_text()
    return None


def _note_path(record_sha256: str) -> Path:
    # By the record, which has the hashes of the network's files and what they have to say.
    return cache_dir() / "openvino" / "checked" / record_sha256


def _answers(network: Path, spec: ModelSpec) -> np.ndarray:
    """float32 (NUM_BUNDLED, num_classes), in float32 arithmetic: the difference is the network's alone."""
    size = spec.preprocess.crop_size
    compiled = compile_network(openvino_core().read_model(network), size=size, precision="fp32", batch_size=NUM_BUNDLED)
    return np.asarray(compiled(known_pictures(NUM_BUNDLED, size))[0])


def add_bundle(model: str, folder: ModelFolder, storage: StorageOptions = DEFAULT_STORAGE) -> bool:
    """Convert the network and put it into its model folder, if it is not there.

    The folder is as good without it, so a failure is a warning.

    Args:
        model: path or URI of the folder.
        folder: what it holds.
        storage: how to reach it.

    Returns:
        Whether it is there now.
    """
    if read_bundle(folder) is not None:
        return True
    logger.info("%s: converting the network, about 15 s; commands that use the model then start sooner", model)
    try:
        with scratch_folder("converted") as scratch:
            place = Path(scratch)
            _make_bundle(folder, place)
            directory = open_directory(model, storage, only_read=True)
            for name in BUNDLE_FILES:
                directory.replace_from(f"{BUNDLE}/{name}", str(place / name))
            _note(sha256_file(place / RECORD_FILE), _RIGHT)
    # OpenVINO's converter fails with anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning(
            "%s: the model is saved, but without its converted network, so its first use on a machine takes longer: %s",
            model,
            reason[:300],
        )
        return False
    return True


def _make_bundle(folder: ModelFolder, place: Path) -> None:
    """Convert, and see that the conversion says what the network says.

    Raises:
        ImgclsError: it does not.
        Exception: any, of OpenVINO's converter.
    """
    import torch

    spec = folder.spec
    network = from_uint8(folder, embedding=False)
    convert_network(network, spec.preprocess.crop_size, place)
    with torch.inference_mode():
        logits = network(torch.from_numpy(known_pictures(NUM_BUNDLED, spec.preprocess.crop_size))).float().numpy()
    difference = logits_difference(_answers(place / NETWORK_FILES[0], spec), logits)
    if not difference <= MAX_DIFFERENCE:
        raise ImgclsError(f"its logits differ by {difference:.0%} from those of the network")
    write_record(place, spec, logits)
