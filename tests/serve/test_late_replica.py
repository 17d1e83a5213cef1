"""A replica at its start and at a change: which models it takes where the configuration names one that is refused."""

from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray import serve

from imgcls_ray.errors import ImgclsError
from imgcls_ray.serve import deployment
from imgcls_ray.serve.admission import proxy
from imgcls_ray.serve.metrics import NoMetrics
from tests.conftest import SMALL_CLASSES
from tests.serve.conftest import believe_engines, chunks, exchange, picture, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.config import ModelsConfig
    from imgcls_ray.models.folder import ModelFolder
    from tests.serve.conftest import Answer, EventLoop


class Replica:
    """One replica without Ray Serve around it."""

    def __init__(self, events: EventLoop, model: Path) -> None:
        async def make() -> Any:
            classifier: Any = deployment.Classifier
            # The class itself: the one around it, of Ray Serve's decorator, starts what only Serve needs.
            return classifier.func_or_class.__mro__[1]({"model": str(model), "precision": "fp32"})

        self._events = events
        self._replica = events.run(make())

    def reconfigure(self, **user_config: Any) -> None:
        """Ray Serve's call, at the start and at each change."""
        self._events.run(self._replica.reconfigure(user_config))

    def ask(self, *args: Any) -> Answer:
        return self._events.run(exchange(self._replica.__serve_build_asgi_app__(), *args))

    def model(self) -> dict[str, Any]:
        told: dict[str, Any] = self.ask("GET", "/v1/model").json()
        return told

    def labels_with(self) -> str:
        """Fingerprint of the model that labels a picture."""
        headers = ((b"content-type", b"image/jpeg"),)
        answer = self.ask("POST", "/v1/classify", headers, chunks(picture(0)))
        assert answer.status == 200
        fingerprint: str = answer.json()["model"]["fingerprint"]
        return fingerprint


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica asks of Ray, and what it sets for the whole of its process."""
    notes: dict[tuple[str, str], ModelsConfig] = {}

    class Notes:
        """Stands for the table of Ray's head node."""

        def __init__(self, application: str, name: str) -> None:
            self._key = (application, name)

        def write(self, models: ModelsConfig) -> None:
            notes[self._key] = models

        def read(self) -> ModelsConfig | None:
            return notes.get(self._key)

    monkeypatch.setattr(deployment, "LastGood", Notes)
    monkeypatch.setattr(deployment, "RayMetrics", NoMetrics)
    context = SimpleNamespace(app_name="imgcls", deployment="Classifier")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    runtime = SimpleNamespace(get_assigned_resources=lambda: {"CPU": 1.0})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: runtime)
    monkeypatch.setattr(deployment, "_log_with_serve", lambda: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _seconds: None)
    monkeypatch.setattr(proxy.LOCAL_REPLICA, "room", None)
    monkeypatch.delenv("IMGCLS_API_KEYS", raising=False)
    believe_engines(monkeypatch)


@pytest.fixture
def broken(other_folder: ModelFolder, tmp_path: Path) -> Path:
    """A folder with weights that are not those it describes."""
    weights = shutil.copytree(other_folder.path, tmp_path / "broken") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    return tmp_path / "broken"


def test_a_late_replica_takes_what_its_siblings_accepted(
    events: EventLoop, small_model: ModelFolder, other_folder: ModelFolder, broken: Path
) -> None:
    first = Replica(events, small_model.path)
    first.reconfigure(model=str(small_model.path))
    first.reconfigure(model=str(other_folder.path))
    wait_until(lambda: first.labels_with() == other_folder.spec.fingerprint)
    # The file names the broken folder now, and a replica starts.
    late = Replica(events, broken)
    late.reconfigure(model=str(broken))
    assert late.labels_with() == other_folder.spec.fingerprint
    assert (late.model()["fingerprint"], late.model()["refused"]) == (other_folder.spec.fingerprint, True)


def test_a_late_replica_takes_a_model_that_is_good_whatever_its_siblings_have(
    events: EventLoop, small_model: ModelFolder, other_folder: ModelFolder
) -> None:
    first = Replica(events, small_model.path)
    first.reconfigure(model=str(small_model.path))
    late = Replica(events, other_folder.path)
    late.reconfigure(model=str(other_folder.path))
    assert late.labels_with() == other_folder.spec.fingerprint
    assert late.model()["refused"] is False


def test_a_replica_without_siblings_does_not_start_with_a_broken_model(events: EventLoop, broken: Path) -> None:
    with pytest.raises(ImgclsError, match=r"is not the file that model\.json describes"):
        Replica(events, broken).reconfigure(model=str(broken))


@pytest.mark.parametrize("change", ["broken", "golden", "no-config"])
def test_a_replica_that_answers_keeps_its_model_when_a_change_is_refused(
    change: str, events: EventLoop, small_model: ModelFolder, other_folder: ModelFolder, broken: Path, tmp_path: Path
) -> None:
    golden = tmp_path / "golden.jpg"
    golden.write_bytes(picture(0))
    changes: dict[str, dict[str, Any]] = {
        "broken": {"model": str(broken)},
        # It cannot be of every class.
        "golden": {
            "model": str(other_folder.path),
            "golden": [{"image": str(golden), "label": name} for name in SMALL_CLASSES],
        },
        "no-config": {"model": str(other_folder.path), "no_such_key": 1},
    }
    replica = Replica(events, small_model.path)
    replica.reconfigure(model=str(small_model.path))
    replica.reconfigure(**changes[change])
    wait_until(lambda: replica.model()["refused"] is True)
    assert replica.labels_with() == small_model.spec.fingerprint
    replica.reconfigure(model=str(other_folder.path))
    wait_until(lambda: replica.model()["refused"] is False)
    assert replica.labels_with() == other_folder.spec.fingerprint
