"""What an export in 8 bits must not lose and must gain, and how that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.config import ExportConfig, make_config
from imgcls_ray.errors import ImageError, ImageErrorCode, JobFailedError
from imgcls_ray.export.gate import accuracy_of, applied_limits, drop_interval, judge, judge_speed, words_of_accuracy
from imgcls_ray.export.parity import Parity
from imgcls_ray.machine import has_fast_int8
from imgcls_ray.models.classifier import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.export.speed import Speed


def config_of(**options: Any) -> ExportConfig:
    values = {"model": "m", "output": "o", "format": "openvino", "int8": True, "images": "pictures"}
    return make_config(ExportConfig, {**values, **options})


def labelled(num_images: int, *, right: int, lost: int, gained: int = 0) -> Parity:
    return Parity(
        num_images=num_images,
        num_same=num_images - lost - gained,
        num_labelled=num_images,
        num_right_before=right,
        num_right_after=right - lost + gained,
        num_lost=lost,
        num_gained=gained,
        num_confident=num_images,
        num_confident_same=num_images - lost - gained,
    )


def unlabelled(num_images: int, *, same: int, confident: int, confident_same: int) -> Parity:
    return Parity(num_images=num_images, num_same=same, num_confident=confident, num_confident_same=confident_same)


def speed(*, ratio: float, fast_int8: bool | None) -> Speed:
    return {
        "before": 100.0,
        "after": 100 * ratio,
        "ratio": ratio,
        "num_threads": 1,
        "batch_size": 16,
        "precision_before": "fp32",
        "precision_after": "int8+fp32",
        "fast_int8": fast_int8,
    }


# Accuracy


def test_half_a_point_may_be_lost_and_no_more() -> None:
    judge(labelled(1000, right=900, lost=5), "d", config_of())
    with pytest.raises(JobFailedError) as refusal:
        judge(labelled(1000, right=900, lost=8, gained=2), "d", config_of())
    assert str(refusal.value) == (
        "m: exported to openvino in 8 bits, accuracy on 1,000 labelled images: 90.00 % before, 89.40 % after, 0.60 "
        "points lost (95 % confidence: -0.08 to 1.28 lost), allowed are 0.50. Nothing was exported; the interval "
        "includes the limit: compare on more images (num_images, or a larger val split), calibrate on more images "
        "(num_calibration_images, now 300), or max_accuracy_drop=0.006 would accept it"
    )
    judge(labelled(1000, right=900, lost=8, gained=2), "d", config_of(max_accuracy_drop=0.006))


def test_more_images_are_asked_for_only_where_they_could_change_the_answer() -> None:
    """One of 199 images is more than half a point; a hundred of a thousand are a loss on any images."""
    with pytest.raises(JobFailedError, match="the interval includes the limit: compare on more images"):
        judge(labelled(199, right=190, lost=1), "d", config_of())
    judge(labelled(200, right=190, lost=1), "d", config_of())
    with pytest.raises(JobFailedError, match=r"allowed are 0\.50\. Nothing was exported; calibrate on more images"):
        judge(labelled(1000, right=900, lost=100), "d", config_of())


@pytest.mark.parametrize(
    ("options", "has_labels", "expected"),
    [
        ({"int8": False}, True, (0.995, None, None)),
        ({"int8": False, "min_agreement": 0.9}, False, (0.9, None, None)),
        ({}, True, (None, 0.005, 1.0)),
        ({"min_agreement": 0.9}, True, (0.9, 0.005, 1.0)),
        ({"min_speedup": 0}, False, (0.99, None, 0.0)),
    ],
)
def test_a_limit_that_was_not_applied_is_not_told(
    options: dict[str, Any], has_labels: bool, expected: tuple[float | None, ...]
) -> None:
    parity = labelled(10, right=9, lost=0) if has_labels else unlabelled(10, same=10, confident=9, confident_same=9)
    limits = applied_limits(parity, config_of(**options))
    assert (limits["min_agreement"], limits["max_accuracy_drop"], limits["min_speedup"]) == expected


def test_labels_decide_even_if_unsure_images_change_sides() -> None:
    """As many are gained as lost: the agreement alone would refuse this."""
    judge(labelled(1000, right=700, lost=60, gained=60), "d", config_of())
    with pytest.raises(
        JobFailedError, match=r"120 of 1,000 images .* \(88\.00 % agree, needed are 99\.00 %\); accuracy"
    ):
        judge(labelled(1000, right=700, lost=60, gained=60), "d", config_of(min_agreement=0.99))


@pytest.mark.parametrize(("lost", "gained", "num_images"), [(0, 0, 50), (3, 0, 200), (20, 15, 400)])
def test_the_interval_holds_the_true_difference_19_times_of_20(lost: int, gained: int, num_images: int) -> None:
    chances = [lost / num_images, gained / num_images]
    draws = np.random.default_rng(0).multinomial(num_images, [*chances, 1 - sum(chances)], size=2000)
    ends = np.array([drop_interval(int(one), int(other), num_images) for one, other, _ in draws])
    true = chances[0] - chances[1]
    assert np.mean((ends[:, 0] <= true) & (true <= ends[:, 1])) >= 0.94


def test_a_gain_is_told_as_one() -> None:
    accuracy = accuracy_of(labelled(100, right=90, lost=1, gained=2))
    assert accuracy is not None
    assert "91.00 % after, 1.00 points gained (95 % confidence: " in words_of_accuracy(accuracy)


# Agreement


def answer(best: int, score: float) -> Prediction:
    """That of a network of three classes."""
    others = [label for label in range(3) if label != best]
    scores = np.array([score, *[(1 - score) / 2] * 2], np.float32)
    class_ids = np.array([best, *others], np.int32)
    logits = np.zeros(3, np.float32)
    logits[class_ids] = np.log(scores)
    return Prediction(8, 8, class_ids, scores, logits=logits)


def test_each_image_is_counted_where_it_belongs() -> None:
    parity = Parity()
    no_answer = ImageError(ImageErrorCode.NON_FINITE_OUTPUT)
    parity.add(answer(0, 0.9), answer(0, 0.8), 0)  # right, and stays so
    parity.add(answer(0, 0.5), answer(1, 0.7), 0)  # confident, and lost
    parity.add(answer(1, 0.49), answer(2, 0.6), 2)  # not confident, and gained
    parity.add(answer(1, 0.8), answer(2, 0.6), None)  # confident, changes sides, no label
    parity.add(answer(2, 0.7), no_answer, 2)  # confident, and lost
    assert (parity.num_images, parity.num_same, parity.num_non_finite) == (5, 1, 1)
    assert (parity.num_confident, parity.num_confident_same) == (4, 1)
    assert (parity.num_labelled, parity.num_right_before, parity.num_right_after) == (4, 3, 2)
    assert (parity.num_lost, parity.num_gained) == (2, 1)
    assert parity.max_score_difference == pytest.approx(0.8 - 0.2)
    assert not parity.errors


def test_an_image_that_the_original_cannot_answer_is_not_compared() -> None:
    parity = Parity()
    parity.add(ImageError(ImageErrorCode.EMPTY), answer(0, 0.9), 0)
    assert (parity.num_images, parity.num_labelled, parity.num_confident) == (0, 0, 0)
    assert parity.errors == {ImageErrorCode.EMPTY: 1}


def test_without_labels_the_confident_ones_decide() -> None:
    judge(unlabelled(500, same=420, confident=200, confident_same=198), "d", config_of())
    message = (
        r"3 of 200 images of which the original is confident \(score 0\.5 or more\) get another label \(98\.50 % "
        r"agree, needed are 99\.00 %\)\. Nothing was exported; min_agreement=0\.985 would accept it"
    )
    with pytest.raises(JobFailedError, match=message):
        judge(unlabelled(500, same=497, confident=200, confident_same=197), "d", config_of())


def test_images_of_which_the_original_is_never_confident_prove_nothing() -> None:
    parity = unlabelled(40, same=40, confident=0, confident_same=0)
    with pytest.raises(
        JobFailedError, match=r"confident .* of none of the 40 images.* give images=DATASET with labels"
    ):
        judge(parity, "d", config_of())
    judge(parity, "d", config_of(min_agreement=0))


def test_an_export_in_floating_point_is_judged_by_all_images() -> None:
    with pytest.raises(
        JobFailedError, match=r"10 of 1,000 images get another label \(99\.00 % agree, needed are 99\.50"
    ):
        judge(unlabelled(1000, same=990, confident=10, confident_same=10), "d", config_of(int8=False))


# Speed


def test_a_processor_without_instructions_for_8_bits_is_told_with_the_ratio() -> None:
    with pytest.raises(JobFailedError) as refusal:
        judge_speed(speed(ratio=0.82, fast_int8=False), config_of())
    assert str(refusal.value) == (
        "m: 8 bits do not pay on this processor: 82 images/s with one thread (int8+fp32), the original 100 (fp32), "
        "0.82 times as many, at least 1 is needed; this processor has neither VNNI nor AMX, which compute 8 bits fast. "
        "Nothing was exported; to export for another processor or for the smaller files, give --set min_speedup=0"
    )
    judge_speed(speed(ratio=0.82, fast_int8=False), config_of(min_speedup=0))


def test_8_bits_that_are_no_faster_are_refused_on_any_processor() -> None:
    with pytest.raises(JobFailedError, match="most of this network's time is in what 8 bits do not make faster"):
        judge_speed(speed(ratio=0.97, fast_int8=True), config_of())
    judge_speed(speed(ratio=1.4, fast_int8=True), config_of())
    with pytest.raises(JobFailedError, match=r"1\.40 times as many, at least 1\.5 is needed"):
        judge_speed(speed(ratio=1.4, fast_int8=True), config_of(min_speedup=1.5))


def test_where_the_instructions_are_not_known_the_ratio_alone_decides() -> None:
    with pytest.raises(JobFailedError, match=r"0\.82 times as many, at least 1 is needed\. Nothing was exported"):
        judge_speed(speed(ratio=0.82, fast_int8=None), config_of())
    judge_speed(speed(ratio=1.2, fast_int8=None), config_of())


@pytest.mark.parametrize(
    ("cpuinfo", "is_fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu amx_tile amx_int8\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx2 not_avx_vnni\nvmx flags\t: avx_vnni\n", False),
        ("Features\t: fp asimd asimddp i8mm\n", None),
        ("flags", None),
        ("", None),
    ],
)
def test_the_flags_of_the_processor_tell_whether_8_bits_are_fast(
    tmp_path: Path, cpuinfo: str, is_fast: bool | None
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_fast_int8(tmp_path / "cpuinfo") is is_fast


def test_a_system_without_cpuinfo_does_not_tell_whether_8_bits_are_fast(tmp_path: Path) -> None:
    assert has_fast_int8(tmp_path / "cpuinfo") is None
