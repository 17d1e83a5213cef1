"""Models side by side, and models that change while requests are answered."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.config import ModelsConfig, ServeConfig, make_config
from imgcls_ray.errors import ImgclsError, ModelFolderError
from imgcls_ray.models.api import create_model
from imgcls_ray.serve import fleet as serve_fleet
from imgcls_ray.serve.errors import no_room
from imgcls_ray.serve.fleet import Fleet, Lineup
from imgcls_ray.serve.metrics import NoMetrics
from imgcls_ray.serve.model import ModelOptions
from tests.conftest import SMALL_CLASSES
from tests.serve.conftest import (
    believe_engines,
    check_labels,
    fake_model,
    in_base64,
    load_quickly,
    picture,
    say,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from imgcls_ray.config import ModelChoice
    from imgcls_ray.models.api import Model
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.serve.model import ServedModel
    from tests.serve.conftest import EventLoop, FakeModel, Live

PICTURES = [picture(seed) for seed in range(16)]
Labels = dict[tuple[str, int], str]


class Recorder(NoMetrics):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.compared_to: list[bool | None] = []
        self.roles: Counter[str] = Counter()
        self.fingerprints: Mapping[str, str] = {}
        self.is_refused: bool | None = None

    def compared(self, model: ServedModel, *, agrees: bool | None) -> None:
        self.compared_to.append(agrees)

    def image(self, model: ServedModel, role: str, status: str, label: str) -> None:
        self.roles[role] += 1

    def loaded(self, fingerprints: Mapping[str, str], *, is_refused: bool) -> None:
        self.fingerprints, self.is_refused = fingerprints, is_refused


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def line_up(live: Live, stable: ServedModel, **others: tuple[ServedModel, float]) -> None:
    """Put models in their places without loading any."""
    shares = {role: {"model": model.uri, "share": share} for role, (model, share) in others.items()}
    config = make_config(ModelsConfig, {"model": stable.uri, **shares})
    live.service.fleet.lineup = Lineup(config, stable, **{role: model for role, (model, _) in others.items()})


# --- canary ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_a_canary_answers_its_share(share: float, live_of_fakes: Live, stable: FakeModel, other: FakeModel) -> None:
    line_up(live_of_fakes, stable, canary=(other, share))
    chosen = [live_of_fakes.service.choose() for _ in range(20_000)]
    found = sum(choice.role == "canary" for choice in chosen) / len(chosen)
    # Five standard deviations.
    assert found == pytest.approx(share, abs=5 * (share * (1 - share) / len(chosen)) ** 0.5 + 1e-9)
    assert {(choice.role, choice.model) for choice in chosen} <= {("stable", stable), ("canary", other)}


@pytest.fixture
def stable(small_model: ModelFolder) -> FakeModel:
    return fake_model(small_model, lambda images: say(images, 1))


@pytest.fixture
def other(other_folder: ModelFolder) -> FakeModel:
    """Names the classes backwards: its class 5 is the other's class 1."""
    return fake_model(other_folder, lambda images: say(images, 5))


@pytest.fixture
def live_of_fakes(start: Callable[..., Live], stable: FakeModel, recorder: Recorder) -> Live:
    return start(stable, metrics=recorder)


def test_an_answer_says_that_the_canary_gave_it(
    live_of_fakes: Live, stable: FakeModel, other: FakeModel, recorder: Recorder
) -> None:
    line_up(live_of_fakes, stable, canary=(other, 0.5))
    answers = [live_of_fakes.classify(PICTURES[0]).json()["model"] for _ in range(60)]
    assert {(answer["role"], answer["fingerprint"]) for answer in answers} == {
        ("stable", stable.fingerprint),
        ("canary", other.fingerprint),
    }
    assert recorder.roles == Counter(answer["role"] for answer in answers)
    assert len(stable.batches) + len(other.batches) == 60


def test_all_images_of_a_request_go_to_one_model(live_of_fakes: Live, stable: FakeModel, other: FakeModel) -> None:
    line_up(live_of_fakes, stable, canary=(other, 0.5))
    for _ in range(20):
        answer = live_of_fakes.classify_files(*PICTURES).json()
        class_ids = {result["predictions"][0]["class_id"] for result in answer["results"]}
        assert class_ids == ({5} if answer["model"]["role"] == "canary" else {1})


def test_models_beside_are_described(live_of_fakes: Live, stable: FakeModel, other: FakeModel) -> None:
    line_up(live_of_fakes, stable, canary=(other, 0.25), shadow=(stable, 1.0))
    described = live_of_fakes.ask("GET", "/v1/model").json()
    assert (described["canary"]["fingerprint"], described["canary"]["share"]) == (other.fingerprint, 0.25)
    assert (described["shadow"]["fingerprint"], described["shadow"]["share"]) == (stable.fingerprint, 1.0)


# --- shadow ----------------------------------------------------------------------------------------------------------


def test_a_shadow_that_says_the_same_is_counted_so(
    live_of_fakes: Live, stable: FakeModel, other: FakeModel, recorder: Recorder
) -> None:
    line_up(live_of_fakes, stable, shadow=(other, 1.0))
    for content in PICTURES[:5]:
        assert live_of_fakes.classify(content).json()["model"]["role"] == "stable"
    wait_until(lambda: recorder.compared_to == [True] * 5)
    assert sum(len(batch) for batch in other.batches) == 5
    assert recorder.roles == {"stable": 5}


def test_a_shadow_that_says_something_else_is_counted_so(
    live_of_fakes: Live, stable: FakeModel, other_folder: ModelFolder, recorder: Recorder
) -> None:
    line_up(live_of_fakes, stable, shadow=(fake_model(other_folder, lambda images: say(images, 1)), 1.0))
    live_of_fakes.classify(PICTURES[0])
    wait_until(lambda: recorder.compared_to == [False])


def test_a_shadow_sees_its_share_and_no_bad_images(
    live_of_fakes: Live, stable: FakeModel, other: FakeModel, recorder: Recorder
) -> None:
    line_up(live_of_fakes, stable, shadow=(other, 0.5))
    for _ in range(100):
        live_of_fakes.classify_files(PICTURES[0], b"no image")
    wait_until(lambda: live_of_fakes.service.pipeline.num_shadows == 0)
    assert 20 < len(recorder.compared_to) < 80


def test_a_shadow_that_there_was_no_time_for_says_nothing(
    live_of_fakes: Live, stable: FakeModel, other_folder: ModelFolder, recorder: Recorder
) -> None:
    def give_up(_images: Any) -> Any:
        raise no_room()

    line_up(live_of_fakes, stable, shadow=(fake_model(other_folder, give_up), 1.0))
    live_of_fakes.classify(PICTURES[0])
    wait_until(lambda: recorder.compared_to == [None])


def test_a_shadow_that_fails_harms_nobody(
    live_of_fakes: Live,
    stable: FakeModel,
    other_folder: ModelFolder,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_images: Any) -> Any:
        raise RuntimeError("broken")

    line_up(live_of_fakes, stable, shadow=(fake_model(other_folder, fail), 1.0))
    for _ in range(3):
        assert live_of_fakes.classify(PICTURES[0]).status_code == 200
    wait_until(lambda: recorder.compared_to == [False] * 3)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_shadows_wait_in_bounded_number(
    live_of_fakes: Live, stable: FakeModel, other_folder: ModelFolder, recorder: Recorder
) -> None:
    opened = threading.Event()

    def wait(images: Sequence[ModelInput]) -> Any:
        assert opened.wait(60)
        return say(images)

    line_up(live_of_fakes, stable, shadow=(fake_model(other_folder, wait), 1.0))
    # Both engines end up in the shadow: what has its answer already has it, the rest of the shadows' work is bounded.
    assert live_of_fakes.classify_files(*PICTURES * 4).status_code == 200
    assert live_of_fakes.service.pipeline.num_shadows == 16
    assert recorder.compared_to == [None] * 48
    opened.set()
    wait_until(lambda: live_of_fakes.service.pipeline.num_shadows == 0)


def test_a_shadow_with_another_input_decodes_for_itself(
    live_of_fakes: Live, stable: FakeModel, other_folder: ModelFolder, recorder: Recorder
) -> None:
    spec = other_folder.spec
    smaller = spec.model_copy(update={"preprocess": replace(spec.preprocess, crop_size=32, resize_size=40)})
    shadow = fake_model(replace(other_folder, spec=smaller))
    line_up(live_of_fakes, stable, shadow=(shadow, 1.0))
    live_of_fakes.classify(PICTURES[0])
    wait_until(lambda: len(recorder.compared_to) == 1)
    [[image]] = shadow.batches
    assert image.pixels.shape == (32, 32, 3)
    assert (image.width, image.height) == (96, 80)


def test_pixels_that_a_shadow_cannot_use_are_dropped(
    live_of_fakes: Live, stable: FakeModel, other_folder: ModelFolder, recorder: Recorder
) -> None:
    spec = other_folder.spec
    smaller = spec.model_copy(update={"preprocess": replace(spec.preprocess, crop_size=32, resize_size=40)})
    line_up(live_of_fakes, stable, shadow=(fake_model(replace(other_folder, spec=smaller)), 1.0))
    pixels = {"name": "pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": [0] * (64 * 64 * 3)}
    response = live_of_fakes.ask_in_json({"inputs": [pixels]}, "/v2/models/small/infer")
    assert response.status_code == 200
    assert recorder.compared_to == [None]


# --- change ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def engines_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    believe_engines(monkeypatch)


@pytest.fixture(scope="module")
def expected(python_model: Model, small_model: ModelFolder, other_folder: ModelFolder) -> dict[str, list[Any]]:
    """What each of two models says of the pictures, by fingerprint."""
    other = create_model(other_folder.path, precision="fp32")
    models = {small_model.spec.fingerprint: python_model, other_folder.spec.fingerprint: other}
    return {name: list(model.predict(PICTURES, top_k=7)) for name, model in models.items()}


def test_the_two_models_label_every_picture_differently(expected: dict[str, list[Any]]) -> None:
    one, other = expected.values()
    labels = [(a.label, b.label) for a, b in zip(one, other, strict=True)]
    assert sum(a != b for a, b in labels) >= 10


@pytest.mark.usefixtures("engines_are_believed")
def test_models_change_while_requests_run_and_each_is_answered_by_one_of_them(
    start: Callable[..., Live], other_folder: ModelFolder, expected: dict[str, list[Any]], small_model: ModelFolder
) -> None:
    live = start(max_queued_images=500)
    models = [str(other_folder.path), str(small_model.path)] * 2

    async def ask(stopped: asyncio.Event, answered: Counter[str], first: int) -> None:
        number = first
        while not stopped.is_set():
            number = (number + 1) % 16
            several = [number, (number + 5) % 16, (number + 11) % 16]
            files = [("files", (str(i), PICTURES[i])) for i in several]
            answer = (await live.client.post("/v1/classify", files=files)).json()
            for i, result in zip(several, answer["results"], strict=True):
                check_labels(result, expected[answer["model"]["fingerprint"]][i])
            answered[answer["model"]["fingerprint"]] += 1

    async def change() -> Counter[str]:
        stopped, answered = asyncio.Event(), Counter[str]()
        asking = [asyncio.create_task(ask(stopped, answered, i)) for i in range(6)]
        for model in models:
            await live.service.fleet.change(make_config(ModelsConfig, {"model": model}))
            await asyncio.sleep(0.05)
        stopped.set()
        await asyncio.gather(*asking)
        return answered

    answered = live.run(change())
    assert set(answered) == set(expected)
    assert min(answered.values()) >= 5


@pytest.mark.usefixtures("engines_are_believed")
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"fingerprint": "00000000"}, "is another model than the one asked for"),
        ({"model": "damaged"}, "is not the file that model.json describes"),
        ({"model": "missing"}, "missing"),
        ({"golden": [{"image": "golden.jpg", "label": "unicorn"}]}, "has no class 'unicorn'"),
        ({"golden": [{"image": "golden.jpg", "label": name} for name in SMALL_CLASSES]}, "takes the golden picture"),
        ({"golden": [{"image": "missing.jpg", "label": "ant"}]}, "cannot be read"),
    ],
    ids=["another", "damaged", "missing", "no-such-class", "another-label", "no-picture"],
)
def test_a_model_that_is_refused_leaves_the_old_one_serving(
    config: dict[str, Any],
    reason: str,
    start: Callable[..., Live],
    recorder: Recorder,
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "golden.jpg").write_bytes(PICTURES[0])
    damaged = shutil.copytree(small_model.path, tmp_path / "damaged") / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    live = start(metrics=recorder)
    before = live.service.fleet.lineup
    with pytest.raises(ImgclsError):
        live.run(live.service.fleet.change(make_config(ModelsConfig, {"model": str(small_model.path), **config})))
    assert live.service.fleet.lineup is before
    assert reason in (live.service.fleet.refused or "")
    assert (recorder.fingerprints, recorder.is_refused) == ({"stable": small_model.spec.fingerprint}, True)
    described = live.ask("GET", "/v1/model").json()
    assert described["refused"] is True
    assert str(small_model.path) not in str(described)
    assert live.classify(PICTURES[0]).json()["model"]["fingerprint"] == small_model.spec.fingerprint
    live.run(live.service.fleet.change(make_config(ModelsConfig, {"model": str(small_model.path)})))
    assert live.ask("GET", "/v1/model").json()["refused"] is False
    assert recorder.is_refused is False


@pytest.mark.usefixtures("engines_are_believed")
def test_models_are_replaced_all_or_none(start: Callable[..., Live], other_folder: ModelFolder) -> None:
    live = start()
    before = live.service.fleet.lineup
    config = {"model": str(other_folder.path), "canary": {"model": "/nowhere", "share": 0.5}}
    with pytest.raises(ModelFolderError, match="/nowhere"):
        live.run(live.service.fleet.change(make_config(ModelsConfig, config)))
    assert live.service.fleet.lineup is before


class Loader:
    """Stands for loading: keeps what was loaded, waits where it is told to."""

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.loaded: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, choice: ModelChoice, _options: ModelOptions) -> ServedModel:
        self.loaded.append(choice.model)
        assert self.go_on.wait(60)
        return replace(fake_model(self.folder), uri=choice.model) if choice.model != "bad" else self._refuse()

    def _refuse(self) -> ServedModel:
        raise ModelFolderError("bad: is broken")


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, small_model: ModelFolder) -> Loader:
    loader = Loader(small_model)
    monkeypatch.setattr(serve_fleet, "load_model", loader)
    return loader


@pytest.fixture
def fleet(events: EventLoop, recorder: Recorder) -> Fleet:
    async def make() -> Fleet:
        return Fleet(ModelOptions(), recorder)

    return events.run(make())


def models(**config: Any) -> ModelsConfig:
    return make_config(ModelsConfig, config)


@pytest.mark.parametrize("model", ["first", "bad"])
def test_the_garbage_collector_leaves_alone_what_a_model_brings_of_torch(
    fleet: Fleet, loader: Loader, events: EventLoop, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """As a model in ``torch_export`` does on CPUs, where nothing else imports torch."""
    torch, frozen = sys.modules["torch"], []

    def load(choice: ModelChoice, options: ModelOptions) -> ServedModel:
        sys.modules["torch"] = torch
        return loader(choice, options)

    monkeypatch.setattr(serve_fleet, "load_model", load)
    monkeypatch.setattr("imgcls_ray.serve.garbage.gc.freeze", lambda: frozen.append("torch" in sys.modules))
    monkeypatch.delitem(sys.modules, "torch")
    with suppress(ModelFolderError):
        events.run(fleet.change(models(model=model)))
    assert frozen == [True]
    events.run(fleet.change(models(model="next")))
    assert frozen == [True]


def test_of_changes_that_come_at_once_the_last_counts(fleet: Fleet, loader: Loader, events: EventLoop) -> None:
    loader.go_on.clear()

    async def change() -> None:
        first = asyncio.create_task(fleet.change(models(model="one")))
        while not loader.loaded:
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(fleet.change(models(model=name))) for name in ("two", "bad", "four")]
        await asyncio.sleep(0)
        loader.go_on.set()
        await asyncio.gather(first, *others)

    events.run(change())
    assert fleet.lineup is not None
    assert fleet.lineup.stable.uri == "four"
    assert loader.loaded == ["one", "four"]
    assert fleet.refused is None


def test_a_model_that_is_there_is_not_loaded_again(fleet: Fleet, loader: Loader, events: EventLoop) -> None:
    events.run(fleet.change(models(model="one", canary={"model": "two", "share": 0.1})))
    assert fleet.lineup is not None
    before = fleet.lineup
    events.run(fleet.change(models(model="one", canary={"model": "two", "share": 0.9})))
    assert fleet.lineup.config.canary is not None
    assert (fleet.lineup.canary, fleet.lineup.config.canary.share) == (before.canary, 0.9)
    events.run(fleet.change(models(model="two")))
    assert (fleet.lineup.stable, fleet.lineup.canary) == (before.canary, None)
    assert loader.loaded == ["one", "two"]


def test_what_it_must_be_and_say_makes_it_load_again(fleet: Fleet, loader: Loader, events: EventLoop) -> None:
    events.run(fleet.change(models(model="one")))
    events.run(fleet.change(models(model="one", fingerprint="12345678")))
    golden = [{"image": "a.jpg", "label": "ant"}]
    events.run(fleet.change(models(model="one", fingerprint="12345678", golden=golden)))
    assert loader.loaded == ["one"] * 3


def test_another_revision_loads_everything_again(fleet: Fleet, loader: Loader, events: EventLoop) -> None:
    events.run(fleet.change(models(model="one", revision=1)))
    events.run(fleet.change(models(model="one", revision="1")))
    assert loader.loaded == ["one"]
    events.run(fleet.change(models(model="one", revision="2026-02-03")))
    assert loader.loaded == ["one", "one"]


def test_every_change_that_took_place_is_told(fleet: Fleet, loader: Loader, events: EventLoop) -> None:
    told: list[ModelsConfig] = []
    fleet.on_change = told.append
    events.run(fleet.change(models(model="one")))
    with pytest.raises(ModelFolderError, match="bad: is broken"):
        events.run(fleet.change(models(model="bad")))
    events.run(fleet.change(models(model="two")))
    assert [config.model for config in told] == ["one", "two"]


def test_a_failure_that_is_none_of_ours_is_refused_too(
    fleet: Fleet, events: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_choice: ModelChoice, _options: ModelOptions) -> ServedModel:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(serve_fleet, "load_model", fail)
    with pytest.raises(ZeroDivisionError):
        events.run(fleet.change(models(model="one")))
    assert fleet.refused == "ZeroDivisionError: a bug"
    assert fleet.choose() is None


def test_a_change_to_other_classes_is_told_apart_by_its_answers(
    start: Callable[..., Live], small_model: ModelFolder, other_folder: ModelFolder
) -> None:
    """Requests that came before a change are answered by the old model, with the old names."""
    opened = threading.Event()

    def wait(images: Sequence[ModelInput]) -> Any:
        assert opened.wait(60)
        return say(images, 0)

    old, new = fake_model(small_model, wait), load_quickly(other_folder)
    live = start(old)

    async def ask() -> list[Any]:
        asked = asyncio.gather(*(live.classifying(content) for content in PICTURES[:4]))
        while live.num_images < 4:
            await asyncio.sleep(0.005)
        live.service.fleet.lineup = Lineup(make_config(ServeConfig, {"model": new.uri}).models(), new)
        opened.set()
        return await asked

    answers = [response.json() for response in live.run(ask())]
    assert {answer["model"]["fingerprint"] for answer in answers} == {old.fingerprint}
    assert {answer["results"][0]["predictions"][0]["label"] for answer in answers} == {"ant"}
    after = live.classify(PICTURES[0]).json()
    assert after["model"]["fingerprint"] == new.fingerprint


def test_the_names_of_classes_are_those_of_the_model_that_answered(
    start: Callable[..., Live], other_folder: ModelFolder, expected: dict[str, list[Any]]
) -> None:
    live = start(load_quickly(other_folder))
    response = live.ask_in_json({"images": [{"base64": in_base64(content)} for content in PICTURES]})
    for result, wanted in zip(response.json()["results"], expected[other_folder.spec.fingerprint], strict=True):
        check_labels(result, wanted)
    assert np.unique([result["predictions"][0]["label"] for result in response.json()["results"]]).size >= 4
