"""What workers tell the command."""

from __future__ import annotations

import json
import math

from imgcls_ray.train.events import Doing, EpochDone, Event, StepsDone, WorkersLost, WorkersReady, read_event, send
from tests.train.conftest import LocalBoard


def test_events_arrive_in_order_as_they_were_sent() -> None:
    board = LocalBoard()
    events: list[Event] = [
        WorkersReady(step=4, steps_per_epoch=4, epochs=2, num_workers=1, device="cpu", amp="off"),
        Doing("saving", 6),
        StepsDone(step=6, epoch=2, loss=0.1, learning_rate=1e-3, images_per_s=12.5),
        WorkersLost({"0": "it was killed"}),
        EpochDone({"epoch": 2, "step": 8, "train.loss": 1 / 3}, is_best=True, num_bad=0),
    ]
    for event in events:
        send(board, event)
    assert [read_event(message) for message in board.messages] == events


def test_a_loss_that_is_no_number_arrives_too() -> None:
    board = LocalBoard()
    send(board, StepsDone(1, 1, math.nan, 1e-3, 1.0))
    event = read_event(board.messages[0])
    assert isinstance(event, StepsDone)
    assert math.isnan(event.loss)


def test_events_travel_as_json() -> None:
    board = LocalBoard()
    send(board, WorkersLost({"3": "gone"}))
    assert json.loads(board.messages[0]) == ["WorkersLost", {"reasons": {"3": "gone"}}]
