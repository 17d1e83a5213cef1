"""``imgcls check`` leaves with a code that a script can act on, and refuses what cannot end well before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.commands import check as command
from imgcls_ray.datasets import check as check_module
from imgcls_ray.datasets.check_result import CheckResult
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.errors import CheckFailedError, InputError, StoppedError, UsageError
from imgcls_ray.report import check_report as report_module

if TYPE_CHECKING:
    from pathlib import Path


def run(dataset: Path | str, output: Path | str) -> None:
    command.run(None, [], {"data": str(dataset), "output": str(output)})


def answer(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    """Let the check find these, without looking at any image."""
    result = CheckResult("data", "label.txt", ["cat"], {"train": 1, "val": 1}, findings=list(findings))
    result.num_findings.update(finding.code for finding in findings)
    monkeypatch.setattr(check_module, "check_dataset", lambda *_: result)
    monkeypatch.setattr(report_module, "write_report", lambda *_, **__: None)


def test_a_clean_dataset_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch)
    run(tmp_path, tmp_path / "out")
    assert capsys.readouterr().out.endswith("Check dataset passed !\n")


def test_warnings_do_not_fail_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Finding(FindingCode.DARK))
    run(tmp_path, tmp_path / "out")


def test_an_error_of_the_dataset_leaves_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Finding(FindingCode.MISSING_IMAGE), Finding(FindingCode.DARK))
    with pytest.raises(CheckFailedError, match=r"check failed, 1 error; all are in .*/findings\.parquet") as caught:
        run(tmp_path, tmp_path / "out")
    assert caught.value.exit_code == 1


def test_a_missing_dataset_leaves_with_two(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder") as caught:
        run(tmp_path / "none", tmp_path / "out")
    assert caught.value.exit_code == 2


def test_someone_who_stops_it_is_told_that_there_is_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_module, "check_dataset", stop)
    with pytest.raises(StoppedError, match="stopped before the check was complete; there is no report") as caught:
        run(tmp_path, tmp_path / "out")
    assert caught.value.exit_code == 130


def test_a_file_for_the_report_is_refused_before_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch)
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file; give a folder for the report"):
        run(tmp_path, tmp_path / "out")


def test_a_place_of_no_known_kind_for_the_report_is_refused_before_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch)
    with pytest.raises(InputError, match="hdfs://bucket/out"):
        run(tmp_path, "hdfs://bucket/out")
