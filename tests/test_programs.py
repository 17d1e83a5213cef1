"""Tests on a machine without the S3 server, the Azure server and the browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import summary

ROOT = Path(__file__).parent.parent
NEED_PROGRAMS = (
    "tests/storage/test_s3_requests.py::test_an_empty_object_is_no_bytes",
    "tests/storage/test_s3_requests.py::test_what_may_pass_is_tried_again",  # asks through the proxy
    "tests/storage/test_every_storage.py::test_an_account_that_is_not_named_is_told",
    "tests/serve/test_page.py::test_page_says_which_model_answers",
)
NEEDS_NONE = "tests/test_config.py::test_a_missing_file_is_refused"


def run_tests(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest where no program is found."""
    without = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, *NEED_PROGRAMS, NEEDS_NONE],
        cwd=ROOT,
        env={**without, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# As `make test-all` runs them, and as `make test` does.
@pytest.mark.parametrize("processes", [pytest.param((), marks=pytest.mark.slow), ("-n", "2", "--dist", "loadfile")])
def test_what_needs_a_program_that_is_missing_is_skipped_and_the_last_line_says_what_to_install(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    done = run_tests(tmp_path, *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.endswith(
        "skipped for want of the Azure server (`make azure-server` as root installs it) and the S3 server (`make "
        "s3-server` as root installs it) and the browser (`make browser` as root installs it)"
    )
    num_skipped = int(last.partition(" ")[0])
    assert f"1 passed, {num_skipped} skipped" in done.stdout
    assert num_skipped > done.stdout.count("SKIPPED [") == 3


def test_a_program_that_is_missing_is_a_failure_in_ci(tmp_path: Path) -> None:
    done = run_tests(tmp_path, CI="true")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    assert "needs the S3 server (`make s3-server` as root installs it): there is no ceph-authtool" in done.stdout
    assert "needs the Azure server (`make azure-server` as root installs it): there is no node" in done.stdout
    assert "needs the browser (`make browser` as root installs it): there is no chromium" in done.stdout


def test_other_skipped_tests_are_not_told_of() -> None:
    assert summary(["Skipped: this kernel has no user namespaces", "needs root"]) is None
    reason = "Skipped: needs the browser (`make browser` as root installs it): there is no chromium"
    assert (
        summary([reason, "other"]) == "1 test was skipped for want of the browser (`make browser` as root installs it)"
    )
