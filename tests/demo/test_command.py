"""The commands that a demonstration names can be typed as they stand there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgcls_ray.commands.demo import _program

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_program_that_is_not_on_the_path_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "imgcls"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert _program() == str(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _program() == "imgcls"


def test_a_module_that_runs_it_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/imgcls_ray/cli.py", "demo"])
    assert _program() == "imgcls"
