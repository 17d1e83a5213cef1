"""Whether an export is good enough to be kept: what it must not lose, and for 8 bits what it must gain.

8 bits are other numbers on purpose, and images of which the model is not sure change sides. So with labels a network in
8 bits is judged by its accuracy, and without them by the images of which the original is confident.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from imgcls_ray.errors import JobFailedError
from imgcls_ray.export.parity import CONFIDENT_SCORE
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from imgcls_ray.config import ExportConfig
    from imgcls_ray.export.parity import Parity
    from imgcls_ray.export.speed import Speed

_Z_95 = 1.959964


class Accuracy(TypedDict):
    """On labelled images, of the model and of what it was exported to; 0 to 1."""

    before: float
    after: float
    num_images: int
    drop: float
    """``before`` less ``after``."""
    drop_interval: list[float]
    """Lower and upper end of its 95 % confidence interval."""


class Limits(TypedDict):
    """The limits that an export had to keep; ``None`` for those that were not applied."""

    min_agreement: float | None
    """Of all images; with 8 bits, of those of which the original is confident."""
    max_accuracy_drop: float | None
    min_speedup: float | None


def applied_limits(parity: Parity, config: ExportConfig) -> Limits:
    """With 8 bits labels decide, where there are any, and an agreement only if it was asked for."""
    is_by_accuracy = config.int8 and parity.num_labelled > 0
    is_by_agreement = not is_by_accuracy or config.min_agreement is not None
    return {
        "min_agreement": config.needed_agreement if is_by_agreement else None,
        "max_accuracy_drop": config.max_accuracy_drop if is_by_accuracy else None,
        "min_speedup": config.min_speedup if config.int8 else None,
    }


def judge(parity: Parity, source: str, config: ExportConfig) -> None:
    """Refuse an export that labels otherwise.

    Args:
        parity: what the comparison found.
        source: of the images, for people.
        config: of the export.

    Raises:
        JobFailedError: with the numbers and the way out.
    """
    if not parity.num_images:
        code, count = parity.errors.most_common(1)[0]
        raise JobFailedError(
            f"{source}: none of the {parity.errors.total()} chosen images could be compared, {count} of them "
            f"{code}; give images that can be read. Nothing was exported"
        )
    if not config.int8:
        _judge_agreement(parity, parity.num_same, parity.num_images, config)
        return
    accuracy = accuracy_of(parity)
    if accuracy is not None:
        _judge_accuracy(accuracy, config)
    if applied_limits(parity, config)["min_agreement"] is not None:
        _judge_confident(parity, config)


def judge_speed(speed: Speed, config: ExportConfig) -> None:
    """Refuse 8 bits that are no faster.

    Raises:
        JobFailedError: with the numbers and the way out.
    """
    if speed["ratio"] >= config.min_speedup:
        return
    reasons = {
        True: "; most of this network's time is in what 8 bits do not make faster",
        False: "; this processor has neither VNNI nor AMX, which compute 8 bits fast",
        None: "",
    }
    raise JobFailedError(
        f"{config.model}: 8 bits do not pay on this processor: {words_of_speed(speed)}, at least "
        f"{config.min_speedup:g} is needed{reasons[speed['fast_int8']]}. Nothing was exported; to export for another "
        "processor or for the smaller files, give --set min_speedup=0"
    )


def accuracy_of(parity: Parity) -> Accuracy | None:
    """The accuracy of both networks; ``None`` without labels."""
    count = parity.num_labelled
    if not count:
        return None
    before, after = parity.num_right_before / count, parity.num_right_after / count
    return {
        "before": before,
        "after": after,
        "num_images": count,
        "drop": before - after,
        "drop_interval": list(drop_interval(parity.num_lost, parity.num_gained, count)),
    }


def drop_interval(num_lost: int, num_gained: int, num_images: int) -> tuple[float, float]:
    """The 95 % confidence interval of a difference of two shares that were measured on the same images.

    That of Bonett and Price (2012), "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data": it holds for few images, too, where most are right before and after.

    Args:
        num_lost: images that were right before only.
        num_gained: images that were right after only.
        num_images: all of them.
    """
    lost, gained = (num_lost + 1) / (num_images + 2), (num_gained + 1) / (num_images + 2)
    half = _Z_95 * math.sqrt((lost + gained - (lost - gained) ** 2) / (num_images + 2))
    return max(-1.0, lost - gained - half), min(1.0, lost - gained + half)


def _judge_agreement(parity: Parity, num_same: int, num_images: int, config: ExportConfig, of: str = "") -> None:
    share = num_same / num_images
    if share >= config.needed_agreement:
        return
    accuracy = accuracy_of(parity)
    cost = f"; {words_of_accuracy(accuracy)}" if accuracy else ""
    raise JobFailedError(
        f"{config.model}: exported to {config.format}{' in 8 bits' if config.int8 else ''}, "
        f"{num_images - num_same:,} of {counted(num_images, 'image')}{of} get another label "
        f"({percent(share)} agree, needed are {percent(config.needed_agreement)}){cost}. "
        f"Nothing was exported; min_agreement={math.floor(share * 1000) / 1000} would accept it"
    )


def _judge_confident(parity: Parity, config: ExportConfig) -> None:
    if parity.num_confident:
        of = f" of which the original is confident (score {CONFIDENT_SCORE:g} or more)"
        _judge_agreement(parity, parity.num_confident_same, parity.num_confident, config, of)
    elif config.needed_agreement:
        raise JobFailedError(
            f"{config.model}: exported to {config.format} in 8 bits, but the original is confident (score "
            f"{CONFIDENT_SCORE:g} or more) of none of the {counted(parity.num_images, 'image')}, so they cannot tell "
            "whether 8 bits are as good. Nothing was exported; give images=DATASET with labels, or images like those "
            "that the model was trained on; min_agreement=0 would accept it"
        )


def _judge_accuracy(accuracy: Accuracy, config: ExportConfig) -> None:
    # Shares are sums of binary fractions: a loss of just the limit is no more than the limit.
    if accuracy["drop"] <= config.max_accuracy_drop + 1e-9:
        return
    # One image of 199 is more than half a point: so few cannot tell whether the loss is one of the network.
    is_uncertain = accuracy["drop_interval"][0] <= config.max_accuracy_drop
    more = "the interval includes the limit: compare on more images (num_images, or a larger val split), "
    raise JobFailedError(
        f"{config.model}: exported to {config.format} in 8 bits, {words_of_accuracy(accuracy)}, allowed are "
        f"{100 * config.max_accuracy_drop:.2f}. Nothing was exported; {more if is_uncertain else ''}calibrate on more "
        f"images (num_calibration_images, now {config.num_calibration_images:,}), or "
        f"max_accuracy_drop={math.ceil(accuracy['drop'] * 1000 - 1e-6) / 1000} would accept it"
    )


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def words_of_accuracy(accuracy: Accuracy) -> str:
    lost = 100 * accuracy["drop"]
    change = "unchanged" if not lost else f"{abs(lost):.2f} points {'lost' if lost > 0 else 'gained'}"
    low, high = (100 * end for end in accuracy["drop_interval"])
    return (
        f"accuracy on {accuracy['num_images']:,} labelled images: {percent(accuracy['before'])} before, "
        f"{percent(accuracy['after'])} after, {change} (95 % confidence: {low:.2f} to {high:.2f} lost)"
    )


def words_of_speed(speed: Speed) -> str:
    return (
        f"{speed['after']:,.0f} images/s with one thread ({speed['precision_after']}), the original "
        f"{speed['before']:,.0f} ({speed['precision_before']}), {speed['ratio']:.2f} times as many"
    )
