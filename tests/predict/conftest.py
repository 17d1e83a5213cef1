"""What tests of bulk labelling share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from imgcls_ray import cli

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def imgcls(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process; returns what it printed."""
    monkeypatch.setattr("imgcls_ray.workers.pool.is_cluster_given", lambda: False)

    def run(*args: str) -> str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["imgcls", *args])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capfd.readouterr()
        assert left.value.code == 0, told.err
        return told.out

    return run
