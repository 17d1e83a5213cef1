"""Which number format a run on Ray has, from the nodes that are there."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from imgcls_ray.workers.ray_precision import precision_of_nodes


class Question:
    """A function on Ray; each node answers for its own processor."""

    def __init__(self, has_bf16: dict[str, bool], asked: list[str]) -> None:
        self._has_bf16, self._asked, self._node = has_bf16, asked, ""

    def options(self, *, num_cpus: int, scheduling_strategy: Any) -> Question:
        assert num_cpus == 0
        asked = Question(self._has_bf16, self._asked)
        asked._node = scheduling_strategy.node_id
        return asked

    def remote(self) -> bool:
        self._asked.append(self._node)
        return self._has_bf16[self._node]


def ask(monkeypatch: pytest.MonkeyPatch, *has_bf16: bool, is_cluster: bool) -> tuple[str, int]:
    """The answer of a Ray of such nodes, and how many were asked."""
    # As long as Ray's own, which are checked.
    nodes = {f"{number:056d}": has for number, has in enumerate(has_bf16)}
    asked: list[str] = []
    alive = [{"NodeID": node, "Alive": True, "Resources": {"CPU": 4.0}} for node in nodes]
    head = {"NodeID": "head", "Alive": True, "Resources": {"memory": 1e9}}
    dead = {"NodeID": "dead", "Alive": False, "Resources": {"CPU": 4.0}}
    monkeypatch.setattr("ray.nodes", lambda: [head, dead, *alive])
    monkeypatch.setattr("ray.remote", lambda _: Question(nodes, asked))
    monkeypatch.setattr("ray.get", lambda answers: answers)
    if is_cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return precision_of_nodes(lambda: True), len(asked)


def test_the_own_ray_of_a_machine_decides_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, True, is_cluster=False) == ("auto", 0)


@pytest.mark.parametrize(
    ("has_bf16", "precision"),
    [
        ([True], "bf16"),
        ([False], "fp32"),
        ([True, True], "bf16"),
        ([True, False, True], "fp32"),
        ([False, False], "fp32"),
    ],
)
def test_a_cluster_that_may_grow_has_one_format_from_the_beginning(
    has_bf16: list[bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(monkeypatch, *has_bf16, is_cluster=True) == (precision, len(has_bf16))


def test_several_nodes_are_asked_also_where_no_address_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, True, False, is_cluster=False) == ("fp32", 2)


def test_a_cluster_without_nodes_computes_what_every_node_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        assert ask(monkeypatch, is_cluster=True) == ("fp32", 0)
    [line] = caplog.messages
    assert "no node with CPUs yet" in line
    assert "--precision bf16 is faster" in line
