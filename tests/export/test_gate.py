"""What an export in 8 bits must not lose and must gain, and how that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.config import ExportConfig, make_config
from imgcls_ray.errors import JobFailedError
from imgcls_ray.export.gate import accuracy_of, drop_interval, judge, judge_speed, words_of_accuracy
from imgcls_ray.export.parity import Parity
from imgcls_ray.machine import has_fast_int8

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


def speed(*, ratio: float, fast_int8: bool) -> Speed:
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
        "points lost (95 % confidence: -0.08 to 1.28 lost), allowed are 0.50. Nothing was exported; calibrate on more "
        "images (num_calibration_images, now 300), or max_accuracy_drop=0.006 would accept it"
    )
    judge(labelled(1000, right=900, lost=8, gained=2), "d", config_of(max_accuracy_drop=0.006))


def test_labels_decide_even_if_unsure_images_change_sides() -> None:
    """As many are gained as lost: the agreement alone would refuse this."""
    judge(labelled(1000, right=700, lost=60, gained=60), "d", config_of())
    with pytest.raises(
        JobFailedError, match=r"120 of 1,000 images .* \(88\.00 % agree, needed are 99\.00 %\); accuracy"
    ):
        judge(labelled(1000, right=700, lost=60, gained=60), "d", config_of(min_agreement=0.99))


@pytest.mark.parametrize(("lost", "gained", "num_images"), [(0, 0, 50), (3, 0, 200), (20, 15, 400)])
def test_the_interval_holds_the_true_difference_19_times_of_20(lost: int, gained: int, num_images: int) -> None:
    import numpy as np

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
        "0.82 times as many, needed are 1 times; this processor has neither VNNI nor AMX, which compute 8 bits fast. "
        "Nothing was exported; to export for another processor or for the smaller files, give --set min_speedup=0"
    )
    judge_speed(speed(ratio=0.82, fast_int8=False), config_of(min_speedup=0))


def test_8_bits_that_are_no_faster_are_refused_on_any_processor() -> None:
    with pytest.raises(JobFailedError, match="most of this network's time is in what 8 bits do not make faster"):
        judge_speed(speed(ratio=0.97, fast_int8=True), config_of())
    judge_speed(speed(ratio=1.4, fast_int8=True), config_of())
    with pytest.raises(JobFailedError, match=r"1\.40 times as many, needed are 1\.5 times"):
        judge_speed(speed(ratio=1.4, fast_int8=True), config_of(min_speedup=1.5))


@pytest.mark.parametrize(
    ("cpuinfo", "is_fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu amx_tile amx_int8\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx2 not_avx_vnni\nvmx flags\t: avx_vnni\n", False),
        ("Features\t: fp asimd\n", False),
        ("flags", False),
        ("", False),
    ],
)
def test_the_flags_of_the_processor_tell_whether_8_bits_are_fast(tmp_path: Path, cpuinfo: str, is_fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_fast_int8(tmp_path / "cpuinfo") == is_fast


def test_a_system_without_cpuinfo_has_no_fast_8_bits(tmp_path: Path) -> None:
    assert not has_fast_int8(tmp_path / "cpuinfo")
