"""timm's own names: ``timm:convnext_tiny.fb_in1k``, beside the names of the zoo."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from imgcls_ray.config import letters_and_digits
from imgcls_ray.errors import UnknownModelError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture
from imgcls_ray.models.zoo import ZooModel

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "timm:"


def find_timm_model(name: str) -> ZooModel:
    """Look up an architecture of timm, with or without a tag of weights.

    Args:
        name: ``timm:``, then timm's name.

    Raises:
        UnknownModelError: timm has no such architecture or weights, or prepares images in a way that is not known here.
    """
    import timm
    from timm.models import get_pretrained_cfg

    timm_name = name.removeprefix(PREFIX)
    architecture, _, tag = timm_name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(PREFIX + match for match in near)}?" if near else ""
        raise UnknownModelError(f"{name}: timm has no architecture of that name{hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if timm_name.endswith(".") or (tag and timm_name not in tagged):
        known = f"timm has {', '.join(PREFIX + match for match in tagged)}" if tagged else "timm has none of it"
        raise UnknownModelError(f"{name}: timm has no weights of that name; {known}")
    config = get_pretrained_cfg(timm_name)
    if config is None:
        raise UnknownModelError(f"{name}: timm has no preprocessing for it, so it cannot be used")
    has_weights = bool(tag) or any(config.tag == match.partition(".")[2] for match in tagged)
    return ZooModel(
        name=name,
        family="timm",
        architecture=Architecture(architecture),
        train_size=config.input_size[-1],
        preprocess=preprocess_of(config.to_dict(), name),
        top1_percent=None,
        num_parameters=None,
        timm_weights=f"{architecture}.{config.tag}" if has_weights else None,
    )


def like_timm_names(name: str, *, cutoff: float) -> list[str]:
    """timm's names, with ``timm:``, that a name without it may mean.

    Args:
        cutoff: how like it they are, 0 to 1, case and punctuation apart.
    """
    import timm

    wanted = name.rpartition("/")[2].partition(".")[0]
    if timm.is_model(wanted):
        tail = name.rpartition("/")[2]
        return [PREFIX + (tail if tail in timm.list_pretrained(f"{wanted}.*") else wanted)]
    folded = {letters_and_digits(known): known for known in timm.list_models()}
    form = letters_and_digits(wanted)
    near = [form] if form in folded else difflib.get_close_matches(form, folded, n=2, cutoff=cutoff)
    return [PREFIX + folded[one] for one in near]


def preprocess_of(config: Mapping[str, Any], name: str) -> Preprocess:
    """The preprocessing that timm gives for weights: of ``input_size`` and ``crop_pct``, not of a larger test size.

    Args:
        config: timm's ``pretrained_cfg``.
        name: for the error.

    Raises:
        UnknownModelError: it is not resizing (with or without squashing) and cropping the centre square.
    """
    _, height, width = config["input_size"]
    interpolation: Any = config["interpolation"]
    crop_mode: Any = config.get("crop_mode") or "center"
    if height != width or interpolation not in ("bilinear", "bicubic") or crop_mode not in ("center", "squash"):
        raise UnknownModelError(
            f"{name}: its preprocessing in timm is not supported here ({height} x {width}, {interpolation}, "
            f"crop_mode {crop_mode})"
        )
    return Preprocess(
        resize_size=math.floor(height / config["crop_pct"]),
        crop_size=height,
        interpolation=interpolation,
        crop_mode=crop_mode,
        mean=config["mean"],
        std=config["std"],
    )
