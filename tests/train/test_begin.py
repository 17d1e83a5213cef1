"""A run goes on with what was chosen when it began, also where another version would choose otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import UsageError
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train import choices
from imgcls_ray.train.begin import continued, given_keys, new_state
from imgcls_ray.train.entries import read_entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.entries import Entries

OPEN = {"epochs": None, "batch_size": None, "learning_rate": None, "crop_scale": None, "optimizer": None}


@pytest.fixture
def entries(colours: Path) -> Entries:
    return read_entries(str(colours), delimiter=None, storage=DEFAULT_STORAGE)


@pytest.fixture
def other_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version chooses."""
    monkeypatch.setattr(choices, "_EPOCHS", dict.fromkeys(choices._EPOCHS, (3, 7)))
    monkeypatch.setattr(choices, "_CROP_SCALE", 0.33)
    monkeypatch.setattr(choices, "_BATCHES", ((4_000, 12),))


def test_what_was_chosen_stays(
    make_train_config: Callable[..., TrainConfig], entries: Entries, request: pytest.FixtureRequest
) -> None:
    config = make_train_config(**{**OPEN, "learning_rate": 0.02})
    state = new_state(config, entries)
    before = continued(config, entries, state)[1]
    assert given_keys(config, state) == {"learning_rate"}
    request.getfixturevalue("other_choices")
    assert new_state(config, entries).identity != state.identity
    config, recipe = continued(config, entries, state)
    assert recipe == before
    assert (config.batch_size, config.epochs) == (16, 200)
    # Given, it is the same run.
    assert continued(make_train_config(**{**OPEN, "learning_rate": 0.02, "epochs": 200}), entries, state)[1] == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": 9}, "epochs=200, this command has epochs=9"),
        ({"learning_rate": None}, "learning_rate=0.02, this command has learning_rate=0.05"),
        ({"batch_size": 8}, "batch_size=16, this command has batch_size=8"),
    ],
)
def test_other_values_are_of_another_run(
    make_train_config: Callable[..., TrainConfig], entries: Entries, change: dict[str, float], told: str
) -> None:
    state = new_state(make_train_config(**{**OPEN, "learning_rate": 0.02}), entries)
    with pytest.raises(UsageError, match=told):
        continued(make_train_config(**{**OPEN, "learning_rate": 0.02, **change}), entries, state)


def test_a_run_of_an_earlier_version_goes_on_with_what_it_recorded(
    make_train_config: Callable[..., TrainConfig], entries: Entries
) -> None:
    """There, 20 epochs and batches of 64 were the defaults, and the families' recipes alone."""
    config = make_train_config(**OPEN)
    state = new_state(config, entries)
    settings = {**state.identity.settings, "epochs": 20, "learning_rate": 0.01875, "crop_scale": 0.08}
    del settings["chosen"]
    state.identity = replace(state.identity, batch_size=48, settings=settings)
    config, recipe = continued(config, entries, state)
    assert (recipe.epochs, recipe.learning_rate, recipe.crop_scale) == (20, 0.01875, 0.08)
    assert config.batch_size == 48


def test_named_gpus_are_workers_of_the_batch(make_train_config: Callable[..., TrainConfig], entries: Entries) -> None:
    def batch_size(**changes: object) -> int:
        return new_state(make_train_config(**{**OPEN, **changes}), entries).identity.batch_size

    assert batch_size(device="gpu:0,1,2,3") == batch_size(device="gpu", num_workers=4) == 24
    assert batch_size(device="gpu:0") == batch_size() == 16
