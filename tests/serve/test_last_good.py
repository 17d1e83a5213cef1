"""What replicas leave for those that start later."""

from __future__ import annotations

import uuid

import pytest

from imgcls_ray.config import ModelsConfig, make_config
from imgcls_ray.serve.last_good import LastGood

pytestmark = pytest.mark.usefixtures("ray_session")


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def models(name: str) -> ModelsConfig:
    return make_config(ModelsConfig, {"model": name, "canary": {"model": f"{name}-next", "share": 0.25}})


def test_a_replica_that_starts_later_finds_the_models_that_others_accepted() -> None:
    clock, application = Clock(), uuid.uuid4().hex
    first, later = (LastGood(application, "Classifier", clock) for _ in range(2))
    assert later.read() is None
    first.write(models("a"))
    first.write(models("b"))
    clock.now += 60
    assert later.read() == models("b")
    assert LastGood(application, "Other", clock).read() is None


def test_models_that_no_replica_answers_with_any_more_are_not_taken() -> None:
    clock, application = Clock(), uuid.uuid4().hex
    LastGood(application, "Classifier", clock).write(models("a"))
    clock.now += 3600
    assert LastGood(application, "Classifier", clock).read() is None
