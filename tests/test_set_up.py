"""What `make` does before anything else, and what it tells meanwhile."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import scope_of, was_last_with_ray
from tools import pip_install

ROOT = Path(__file__).parent.parent
PIP_SAYS = """\
Collecting torch<3,>=2.10 (from imgcls-ray==0.1.0)
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)
Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (539.1 MB)
Downloading https://example.com/files/nvidia_nccl_cu13-2.29.7-py3-none-manylinux_2_18_x86_64.whl (1.2 GB)
Downloading typer-0.20.0-py3-none-any.whl (47 kB)
Requirement already satisfied: pip in ./.venv/lib
Installing collected packages: torch, nvidia-nccl-cu13, typer
Successfully installed torch-2.15.0
"""


def test_large_downloads_are_told_and_the_rest_of_pip_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = pip_install._Progress(tmp_path)
    for line in PIP_SAYS.splitlines(keepends=True):
        progress.read(line)
    assert capsys.readouterr().out.splitlines() == [
        "  downloading torch 2.15.0 (539 MB)",
        "  downloading nvidia_nccl_cu13 2.29.7 (1,200 MB)",
        "  installing 3 packages",
    ]
    assert progress.state() == "0 s, 1,739 MB downloaded, 0.0 GB on disk"


def test_silence_is_broken_also_where_the_output_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pip_install, "_SILENCE_S", 0.1)
    said = threading.Event()

    class Progress(pip_install._Progress):
        def say(self, text: str) -> None:
            super().say(text)
            said.set()

    progress = Progress(tmp_path)
    threading.Thread(target=progress.tell_of_silence, daemon=True).start()
    assert said.wait(10)
    assert capsys.readouterr().out.startswith("  looking for packages; ")


def test_every_change_must_pass_what_contributors_run_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]


def test_make_test_sets_up_what_its_tests_start() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ntest: $(READY) test-programs\n" in makefile
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "```\nmake demo\nmake test\n```" in readme


@pytest.mark.parametrize(
    "sharing",
    [("predict/test_predict.py", "train/test_workers.py"), ("jobs/test_node_loss.py", "jobs/test_predict_job.py")],
    ids=["the session's Ray", "the cluster of jobs"],
)
def test_all_tests_that_share_a_ray_run_in_one_process(sharing: tuple[str, str]) -> None:
    tests = ROOT / "tests"
    shared = {scope_of(tests / name) for name in sharing}
    others = {scope_of(tests / name) for name in ("store/test_lease.py", "test_own_ray.py")}
    assert (len(shared), len(others), shared & others) == (1, 2, set())


@pytest.mark.parametrize(
    ("this", "next_one", "has_whole_scopes", "ends"),
    [
        ("predict/test_predict.py", "store/test_lease.py", True, True),
        ("predict/test_predict.py", "train/test_workers.py", True, False),
        ("predict/test_predict.py", "store/test_lease.py", False, False),  # later ones may need it
        ("store/test_lease.py", "test_own_ray.py", True, False),
    ],
)
def test_a_process_ends_rays_when_its_tests_are_over(
    this: str, next_one: str, has_whole_scopes: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)
    config = SimpleNamespace(workerinput={"has_whole_scopes": has_whole_scopes})
    item, following = (SimpleNamespace(path=ROOT / "tests" / name, config=config) for name in (this, next_one))
    assert was_last_with_ray(item, following) is ends  # type: ignore[arg-type]
    assert not was_last_with_ray(item, None)  # type: ignore[arg-type]
