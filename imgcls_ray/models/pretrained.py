"""Pretrained weights through timm's hub: downloaded once, then found again without a network."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imgcls_ray.errors import UnknownModelError, WeightsError
from imgcls_ray.models.architecture import Architecture, build_network
from imgcls_ray.models.folder import sha256_file
from imgcls_ray.models.timm_models import preprocess_of
from imgcls_ray.models.weights import LoadedNetwork, tell_of_new_head

if TYPE_CHECKING:
    from timm.data import ImageNetInfo
    from timm.models import PretrainedCfg

    from imgcls_ray.models.zoo import ZooModel

logger = logging.getLogger(__name__)

WAYS_OUT = "make a model folder with `imgcls models new NAME --weights FILE` (or --random, for benchmarks)"
"""Ways out where weights cannot be had, for jobs that need a trained model."""
_CONNECT_TIMEOUT_S = 5.0


def pretrained_network(model: ZooModel, *, num_classes: int | None = None, ways_out: str = WAYS_OUT) -> LoadedNetwork:
    """Build a network with timm's weights.

    Where timm's network differs from the one of the zoo (a bias more, another activation), it is timm's, as the weights
    need it, and so is the preprocessing.

    Args:
        num_classes: if it is not that of the weights, the head is random, and a warning says so.
        ways_out: for people, where there are no weights.

    Raises:
        WeightsError: timm has none, or they cannot be had.
    """
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if model.timm_weights is None:
        raise WeightsError(f"{model.name}: timm has no pretrained weights of this network; {ways_out}")
    config = timm.models.get_pretrained_cfg(model.timm_weights)
    if not config.num_classes and num_classes is None:
        raise WeightsError(
            f"{model.name}: timm's weights have no classifier head; give --num-classes, and train the new head"
        )
    # The hub's client tells of each of its attempts; the outcome is told below.
    for name in ("huggingface_hub", "timm", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    file = _cached_file(config)
    if file is None:
        _check_hub_is_reachable(model, ways_out)
    try:
        loaded = timm.create_model(
            model.timm_weights,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(file)} if file else None,
            **({} if num_classes is None else {"num_classes": num_classes}),
        )
    # The hub's client raises its own kinds for no network, no cache, no space and no permission.
    except Exception as error:
        raise WeightsError(
            _cannot_be_had(model, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", ways_out)
        ) from error
    if loaded.num_classes != config.num_classes:
        tell_of_new_head(model.timm_weights, config.num_classes, loaded.num_classes)
    architecture = Architecture(model.timm_weights.partition(".")[0])
    # timm's weights of this family are PaddleClas' own, and the network of the zoo is the one they were trained in.
    if model.family == "PP-HGNetV2":
        architecture = model.architecture
    network = build_network(architecture, num_classes=loaded.num_classes)
    network.load_state_dict(loaded.state_dict())
    try:
        preprocess = preprocess_of(config.to_dict(), model.timm_weights)
    except UnknownModelError as error:
        raise WeightsError(str(error)) from error
    class_names = None
    if loaded.num_classes == config.num_classes and (subset := infer_imagenet_subset(loaded)):
        class_names = distinct_names(ImageNetInfo(subset))
    return LoadedNetwork(network, architecture, preprocess, class_names)


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k, in the order of pretrained networks' outputs, each once."""
    from timm.data import ImageNetInfo

    return distinct_names(ImageNetInfo("imagenet-1k"))


def distinct_names(info: ImageNetInfo) -> tuple[str, ...]:
    """The names of an ImageNet of timm's; where two classes share one, with their WordNet ids.

    "crane" is a bird and a machine, "maillot" two garments.
    """
    names = info.label_descriptions()
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return tuple(f"{name} ({info.index_to_label_name(i)})" if seen[name] > 1 else name for i, name in enumerate(names))


def _cached_file(config: PretrainedCfg) -> Path | None:
    """Weights that were downloaded before: asking the hub for news of them would need a network."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id or config.custom_load:
        return None
    repo, _, revision = config.hf_hub_id.partition("@")
    for name in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repo, name, revision=revision or None) if name else None
        if isinstance(found, str) and _is_whole(Path(found)):
            return Path(found)
    return None


def _is_whole(file: Path) -> bool:
    """Whether a downloaded file is what it was; one that is not is removed, and the hub sends it again.

    The hub's client keeps large files under the hash of their content, but does not compare it later.
    """
    blob = file.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name) or sha256_file(blob) == blob.name:
        return True
    logger.warning("%s: is damaged; it is downloaded again", blob)
    blob.unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    return False


def _check_hub_is_reachable(model: ZooModel, ways_out: str) -> None:
    """Fail at once without a network: the hub's client would try for most of a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(_cannot_be_had(model, "HF_HUB_OFFLINE is set", ways_out))
    # Behind a proxy only the proxy knows.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return
    hub = urlsplit(constants.ENDPOINT)
    try:
        address = (hub.hostname or "", hub.port or {"https": 443}.get(hub.scheme, 80))
        socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise WeightsError(_cannot_be_had(model, f"{hub.hostname}: {error.strerror or error}", ways_out)) from error


def _cannot_be_had(model: ZooModel, reason: str, ways_out: str) -> str:
    return (
        f"{model.name}: pretrained weights could not be loaded ({reason}); the first use needs a network, to get "
        f"{model.timm_weights} from Hugging Face; or {ways_out}"
    )
