"""Every fault of a dataset is found, and none invented."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.config import CheckConfig
from imgcls_ray.datasets.check import check_dataset
from imgcls_ray.datasets.findings import FindingCode, Severity
from tests.datasets.make_faulty import jpeg, picture, write_clean, write_faulty

if TYPE_CHECKING:
    from imgcls_ray.datasets.check_result import CheckResult
    from imgcls_ray.datasets.findings import Finding
    from tests.s3.server import S3Server

IMGCLS = Path(sys.executable).with_name("imgcls")


def check(dataset: Path | str, *, on: str = "local", **options: object) -> CheckResult:
    return check_dataset(CheckConfig.model_validate({"data": str(dataset), "on": on, **options}))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> CheckResult:
    root = tmp_path_factory.mktemp("faulty") / "data"
    write_faulty(root)
    return check(root, on="ray")


def found(result: CheckResult, code: FindingCode) -> list[Finding]:
    return [finding for finding in result.findings if finding.code is code]


def names(result: CheckResult, code: FindingCode) -> list[str]:
    return sorted(finding.path.removeprefix("images/") for finding in found(result, code))


def test_a_clean_dataset_passes_without_any_finding(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    result = check(tmp_path / "data")
    assert result.findings == []
    assert result.passed
    assert result.num_images == {"train": 24, "val": 9}
    assert result.images_per_class["train"] == Counter({0: 8, 1: 8, 2: 8})
    assert result.class_names == ["cat", "dog", "猫 头鹰"]
    assert result.label_file == "label.txt"
    assert {split: len(samples) for split, samples in result.samples.items()} == {"train": 10, "val": 9}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FindingCode.MISSING_IMAGE, ["missing.jpg"]),
        (FindingCode.UNREADABLE_IMAGE, ["empty.jpg", "text.jpg", "truncated.jpg"]),
        (FindingCode.LABEL_OUT_OF_RANGE, ["negative.jpg", "out_of_range.jpg"]),
        (FindingCode.CONFLICTING_LABELS, ["conflict_b.jpg"]),
        (FindingCode.EXACT_DUPLICATE, ["conflict_b.jpg", "exact_b.jpg"]),
        (FindingCode.NEAR_DUPLICATE, ["near_b.jpg"]),
        (FindingCode.LEAKAGE, ["leak_b.jpg", "near_leak_b.jpg"]),
        (FindingCode.DUPLICATE_LINE, ["twice.jpg"]),
        (FindingCode.DARK, ["dark.jpg"]),
        (FindingCode.BRIGHT, ["bright.jpg"]),
        (FindingCode.UNIFORM, ["uniform.jpg"]),
        (FindingCode.BLURRED, ["blurred.jpg"]),
        (FindingCode.TINY, ["tiny.jpg"]),
        (FindingCode.ODD_SHAPE, ["long.jpg"]),
        (FindingCode.ROTATED, ["rotated.jpg"]),
        (FindingCode.ODD_COLOURS, ["cmyk.jpg", "deep.png", "grey.jpg"]),
        (FindingCode.NAME_TWINS, ["twin.jpg"]),
        (FindingCode.HIDDEN, [".hidden/h.jpg"]),
    ],
)
def test_a_fault_of_an_image_is_found_and_no_other_image_has_it(
    faulty: CheckResult, code: FindingCode, expected: list[str]
) -> None:
    assert names(faulty, code) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FindingCode.BAD_LINE, {("label.txt", 8), ("train.txt", 32), ("train.txt", 81)}),
        (FindingCode.UNKNOWN_DELIMITER, {("train.txt", 33)}),
        (FindingCode.LABEL_NOT_INTEGER, {("train.txt", 29), ("label.txt", 7)}),
        (FindingCode.DUPLICATE_CLASS_ID, {("label.txt", 5)}),
        (FindingCode.DUPLICATE_CLASS_NAME, {("label.txt", 6)}),
        (FindingCode.GAP_IN_IDS, {("label.txt", None)}),
        (FindingCode.IMBALANCE, set()),
    ],
)
def test_a_fault_of_a_line_is_found_with_its_number(
    faulty: CheckResult, code: FindingCode, expected: set[tuple[str, int | None]]
) -> None:
    assert {(finding.file, finding.line) for finding in found(faulty, code)} == expected


def test_the_dataset_fails_and_errors_come_first(faulty: CheckResult) -> None:
    assert not faulty.passed
    severities = [finding.code.severity for finding in faulty.findings]
    assert severities == sorted(severities, key=lambda severity: severity is not Severity.ERROR)


def test_a_finding_says_what_came(faulty: CheckResult) -> None:
    [conflict] = found(faulty, FindingCode.CONFLICTING_LABELS)
    assert conflict.detail == "the same bytes: dog and cat (id 0); the other is images/conflict_a.jpg (train.txt:34)"
    assert conflict.line == 35
    assert conflict.class_name == "dog"
    assert conflict.uri.endswith("/images/conflict_b.jpg")
    assert conflict.other_uri.endswith("/images/conflict_a.jpg")
    [truncated] = [f for f in found(faulty, FindingCode.UNREADABLE_IMAGE) if "truncated" in f.path]
    assert truncated.detail.startswith("truncated")
    [delimiter] = found(faulty, FindingCode.UNKNOWN_DELIMITER)
    assert delimiter.detail == "'images/comma.jpg,1'"


def test_a_class_that_a_split_lacks_is_told_with_the_split(faulty: CheckResult) -> None:
    lacking = {(finding.split, finding.class_name) for finding in found(faulty, FindingCode.CLASS_WITHOUT_IMAGES)}
    assert lacking == {("train", "eel"), ("train", "cat (id 5)"), ("val", "eel"), ("val", "cat (id 5)")}


def test_classes_out_of_balance_are_told(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    assert found(check(tmp_path / "data", imbalance_above=1.0), FindingCode.IMBALANCE) == []
    for seed in range(200, 217):
        (tmp_path / "data" / "images" / f"{seed}.jpg").write_bytes(jpeg(picture(seed)))
    with (tmp_path / "data" / "train.txt").open("a") as file:
        file.writelines(f"\nimages/{seed}.jpg 1" for seed in range(200, 217))
    [finding] = found(check(tmp_path / "data", imbalance_above=3.0), FindingCode.IMBALANCE)
    assert finding.detail == (
        "dog has 25 images to train with, cat has 8; `imgcls train` with --class-weights balanced or with --sampling "
        "balanced counts them alike"
    )


@pytest.mark.parametrize("missing", ["val.txt", "label.txt"])
def test_a_missing_list_fails_the_check_and_the_rest_is_looked_at(tmp_path: Path, missing: str) -> None:
    write_clean(tmp_path / "data")
    (tmp_path / "data" / missing).unlink()
    result = check(tmp_path / "data")
    assert not result.passed
    assert {finding.file for finding in result.findings if finding.code.severity is Severity.ERROR} == {missing}
    assert result.num_images["train"] == 24


def test_an_empty_list_fails_the_check(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    (tmp_path / "data" / "val.txt").write_text("\n\n")
    result = check(tmp_path / "data")
    assert [finding.split for finding in found(result, FindingCode.EMPTY_SPLIT)] == ["val"]


def test_a_grey_dataset_has_no_odd_colours(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(jpeg(picture(hash(path.name) % 10**6).convert("L")))
    assert names(check(tmp_path / "data"), FindingCode.ODD_COLOURS) == []


def test_findings_of_one_kind_are_bounded_and_counted(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    for path in (tmp_path / "data" / "images").iterdir():
        path.unlink()
    result = check(tmp_path / "data", max_findings=5)
    assert len(found(result, FindingCode.MISSING_IMAGE)) == 5
    assert result.num_findings[FindingCode.MISSING_IMAGE] == 33


def write_burst(root: Path, *, num_frames: int, num_leaks: int) -> None:
    """Frames of one scene in train, then pictures that are in both splits."""
    write_clean(root)
    lists = {split: (root / f"{split}.txt").open("a") for split in ("train", "val")}
    for file in lists.values():
        file.write("\n")  # the last line has no end
    scene = picture(1000)
    for number in range(num_frames):
        scene.putpixel((number % 160, number // 160), (255, 0, 0))
        (root / f"images/a_burst{number}.jpg").write_bytes(jpeg(scene))
        lists["train"].write(f"images/a_burst{number}.jpg 0\n")
    for number in range(num_leaks):
        for split, quality in (("train", 92), ("val", 85)):
            (root / f"images/{split}_leak{number}.jpg").write_bytes(jpeg(picture(2000 + number), quality=quality))
            lists[split].write(f"images/{split}_leak{number}.jpg 1\n")
    for file in lists.values():
        file.close()


def test_a_burst_of_frames_hides_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 435 pairs of frames, and not as many comparisons.
    monkeypatch.setattr("imgcls_ray.datasets.pairs._MIN_COMPARED", 40)
    write_burst(tmp_path / "data", num_frames=30, num_leaks=5)
    result = check(tmp_path / "data")
    assert names(result, FindingCode.LEAKAGE) == [f"val_leak{number}.jpg" for number in range(5)]
    assert result.num_findings[FindingCode.NEAR_DUPLICATE] == 29
    assert result.passed


def test_pairs_that_are_not_compared_are_told_and_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.datasets.pairs.max", lambda *_: 2, raising=False)
    write_burst(tmp_path / "data", num_frames=4, num_leaks=5)
    result = check(tmp_path / "data")
    assert result.num_findings[FindingCode.LEAKAGE] == 2
    assert result.num_findings[FindingCode.LEAKAGE_UNKNOWN] == 6
    assert 1 <= result.num_findings[FindingCode.DUPLICATES_UNKNOWN] <= 4
    assert not result.passed


def test_class_folders_are_a_dataset(tmp_path: Path) -> None:
    for seed, (split, name) in enumerate((s, n) for s in ("train", "val") for n in ("cat", "dog") for _ in range(3)):
        path = tmp_path / "data" / split / name / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture(seed)))
    result = check(tmp_path / "data")
    assert result.passed
    assert result.class_names == ["cat", "dog"]
    assert result.num_images == {"train": 6, "val": 6}
    assert result.label_file is None


def test_a_table_is_a_dataset(tmp_path: Path) -> None:
    write_clean(tmp_path / "data")
    rows = ["uri,label,split"]
    for split in ("train", "val"):
        for line in (tmp_path / "data" / f"{split}.txt").read_text().splitlines():
            path, label = line.rsplit(maxsplit=1)
            rows.append(f"{path},{['cat', 'dog', 'owl'][int(label)]},{split}")
    (tmp_path / "data" / "all.csv").write_text("\n".join(rows))
    result = check(tmp_path / "data" / "all.csv")
    assert result.findings == []
    assert result.class_names == ["cat", "dog", "owl"]


@pytest.mark.slow
def test_a_dataset_on_s3_is_checked_like_a_local_one(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    write_clean(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.*"):
        key = f"set/{path.relative_to(tmp_path / 'data')}"
        s3.client().put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    # Credentials come from the environment of the workers: processes of its own have them.
    command = [str(IMGCLS), "check", f"s3://{bucket}/set", "--output", str(tmp_path / "out")]
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": s3.endpoint_url, "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 classes, 24 to train, 9 to val" in done.stdout
    assert done.stdout.splitlines()[-1] == "Check dataset passed !"
