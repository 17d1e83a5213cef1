"""What a check finds does not depend on the order in which blocks of images come back."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.config import CheckConfig
from imgcls_ray.datasets import check as check_module
from imgcls_ray.datasets import collecting
from imgcls_ray.datasets.check import check_dataset
from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.datasets.inspecting import _facts_table, measure_in_time
from imgcls_ray.errors import ImageError
from imgcls_ray.storage import fetch
from imgcls_ray.workers.local_pool import LocalPool
from tests.datasets.make_faulty import jpeg, picture, write_faulty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from imgcls_ray.datasets.check_result import CheckResult
    from imgcls_ray.datasets.inspecting import InspectTask


@pytest.fixture
def check_in_order(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CheckResult]:
    """Check in this process; blocks of seven images come back in an order that ``seed`` gives."""

    def check(dataset: Path, seed: int, **options: Any) -> CheckResult:
        def inspect(entries: Iterable[pa.Table], task: InspectTask, *_: object) -> Iterator[pa.Table]:
            measure = measure_in_time(task.decode_limits)

            def one(uri: str) -> Any:
                try:
                    return measure(fetch(uri, None, task.fetch_limits))
                except ImageError as error:
                    return error

            blocks = list(entries)
            random.Random(seed).shuffle(blocks)
            for block in blocks:
                yield _facts_table(block, [one(uri) for uri in block["uri"].to_pylist()])

        monkeypatch.setattr(check_module, "inspect_entries", inspect)
        monkeypatch.setattr(collecting, "ROWS_PER_BLOCK", 7)
        monkeypatch.setattr(LocalPool, "load", lambda _: None)
        return check_dataset(CheckConfig.model_validate({"data": str(dataset), **options}))

    return check


@pytest.mark.parametrize("max_findings", [1, 2, 10_000])
def test_the_result_is_the_same_in_any_order(
    tmp_path: Path, check_in_order: Callable[..., CheckResult], max_findings: int
) -> None:
    write_faulty(tmp_path / "data")
    first, *others = (
        replace(check_in_order(tmp_path / "data", seed, max_findings=max_findings), seconds=0) for seed in range(4)
    )
    for other in others:
        assert other == first
        assert list(other.formats) == list(first.formats)
        assert list(other.sizes) == list(first.sizes)
        assert list(other.frequent_sizes) == list(first.frequent_sizes)


def test_sizes_that_many_images_have_are_counted_exactly(
    tmp_path: Path, check_in_order: Callable[..., CheckResult]
) -> None:
    sides = [*[50] * 25, *range(100, 115)]
    for number, side in enumerate(sides):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(picture(number, (side, 40))))
    (tmp_path / "train.txt").write_text("".join(f"{number}.jpg 0\n" for number in range(len(sides))))
    (tmp_path / "val.txt").write_text("")
    (tmp_path / "label.txt").write_text("0 cat")
    result = check_in_order(tmp_path, 1)
    assert result.frequent_sizes == {(50, 40): 25}
    assert result.sizes == {(32, 32): 25, (96, 32): 15}


def test_of_too_many_findings_those_of_the_first_images_are_kept(
    tmp_path: Path, check_in_order: Callable[..., CheckResult]
) -> None:
    lines = [f"missing_{number:02d}.jpg 0" for number in range(40)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "val.txt").write_text("")
    (tmp_path / "label.txt").write_text("0 cat")
    result = check_in_order(tmp_path, 1, max_findings=3)
    missing = [finding.line for finding in result.findings if finding.code is FindingCode.MISSING_IMAGE]
    assert missing == [1, 2, 3]
    assert result.num_findings[FindingCode.MISSING_IMAGE] == 40


def test_an_image_that_is_listed_by_two_spellings_is_listed_twice(
    tmp_path: Path, check_in_order: Callable[..., CheckResult]
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(1)))
    (tmp_path / "train.txt").write_text("a.jpg 0\n./a.jpg 0\n")
    (tmp_path / "val.txt").write_text("sub/../a.jpg 0\n")
    (tmp_path / "label.txt").write_text("0 cat")
    result = check_in_order(tmp_path, 0)
    assert [(finding.code, finding.file, finding.line) for finding in result.findings] == [
        (FindingCode.ONE_CLASS, "train.txt", None),
        (FindingCode.DUPLICATE_LINE, "train.txt", 2),
        (FindingCode.DUPLICATE_LINE, "val.txt", 1),
        (FindingCode.LEAKAGE, "val.txt", 1),
    ]


def test_names_that_are_not_utf8_are_checked(tmp_path: Path, check_in_order: Callable[..., CheckResult]) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        (tmp_path / split / "caf\udce9").mkdir(parents=True)
        (tmp_path / split / "caf\udce9" / "\udcff.jpg").write_bytes(jpeg(picture(seed)))
    result = check_in_order(tmp_path, 0)
    assert [finding.code for finding in result.findings] == [FindingCode.ONE_CLASS]
    assert result.samples["train"][0].class_name == r"caf\udce9"
