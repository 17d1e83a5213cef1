"""What the bar of a training says: where it is from the first step on, and what happens in silent seconds."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console

from imgcls_ray.storage import open_directory
from imgcls_ray.train.events import Doing, StepsDone, WorkersLost, WorkersReady
from imgcls_ray.train.reporter import report_to

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.train.events import Event


class NewState:
    """What the reporter reads of a state: a run that has not begun."""

    step, best_epoch = 0, 0
    history: tuple[()] = ()
    class_counts: ClassVar[dict[int, Any]] = {}
    model = SimpleNamespace(class_names=("a", "b"))


def shown(tmp_path: Path, *events: Event) -> str:
    """The last line of the bar after these events."""
    state: Any = NewState()
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with report_to(open_directory(str(tmp_path)), state, console) as reporter:
        for event in events:
            reporter.take(event)
        assert reporter._bar is not None
        [task] = reporter._bar.tasks
        reporter.close()
    return f"{task.description} {task.fields['count']} {task.fields['words']}".strip()


READY = WorkersReady(0, steps_per_epoch=50, epochs=2, num_workers=1, device="cpu", amp="off")


def test_the_bar_says_what_it_waits_for_before_there_are_workers(tmp_path: Path) -> None:
    assert shown(tmp_path) == "starting workers"


def test_the_bar_moves_from_the_first_step_on(tmp_path: Path) -> None:
    assert shown(tmp_path, READY) == "training step 0/100"
    assert shown(tmp_path, READY, Doing("training", 1)) == "training step 1/100"


def test_the_bar_says_what_happens_in_silent_seconds(tmp_path: Path) -> None:
    steps = StepsDone(step=50, epoch=1, loss=0.5, learning_rate=0.1, images_per_s=20)
    assert shown(tmp_path, READY, steps, Doing("evaluating", 50)).startswith("evaluating step 50/100 epoch 1  loss 0.5")
    assert shown(tmp_path, READY, steps, Doing("saving", 50)).startswith("saving step 50/100")


def test_a_lost_worker_is_told_in_one_line_with_the_beginning_and_the_end_of_its_reason(tmp_path: Path) -> None:
    trace = "\n".join(f"  File 'loader.py', line {number}" for number in range(200))
    reason = f"RuntimeError: Caught in DataLoader worker process 0.\n{trace}\nMemoryError: 4 GiB"
    shown(tmp_path, WorkersLost({"0": reason}))
    [line] = [line for line in (tmp_path / "train.log").read_text().splitlines() if "was lost" in line]
    assert "worker 0 was lost (RuntimeError: Caught in DataLoader worker process 0. File " in line
    assert line.endswith("MemoryError: 4 GiB); the run continues from the last saved state")
    assert len(line) < 450
