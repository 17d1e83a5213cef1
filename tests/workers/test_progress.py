"""What a bar says before, while and after there is something to count."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from imgcls_ray.workers.progress import label_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now = [100.0]
    monkeypatch.setattr("imgcls_ray.workers.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_says_what_it_waits_for_instead_of_a_count(terminal: Console) -> None:
    with label_progress(200, 0, terminal, doing="evaluating"):
        pass
    assert "waiting for the first images: workers start" in written(terminal)
    assert "0/200" not in written(terminal)
    assert "evaluating" not in written(terminal)


def test_a_bar_says_what_is_done_once_there_are_images(terminal: Console) -> None:
    with label_progress(2000, 0, terminal, doing="evaluating") as progress:
        progress.add(1500, 3)
    last = written(terminal).rpartition("evaluating")[2]
    assert "1,500/2,000" in last
    assert "3 errors" in last


def test_a_rate_is_none_until_it_means_something(terminal: Console, clock: list[float]) -> None:
    with label_progress(200, 0, terminal, doing="labelling") as progress:
        assert progress.images_per_s is None
        progress.add(50, 0)
        clock[0] += 1
        progress.add(50, 0)
        assert progress.images_per_s is None
        clock[0] += 4
        progress.add(50, 0)
        assert progress.images_per_s == 100 / 5


def test_without_a_terminal_lines_of_the_log_say_what_is_done(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="imgcls_ray")
    with label_progress(2000, 0, Console(file=io.StringIO()), doing="evaluating") as progress:
        progress.add(500, 0)
        clock[0] += 10
        progress.add(500, 1)
    assert caplog.messages == ["evaluating: 1,000 of 2,000 images, 50.0 images/s, 1 error, 20 s left"]
