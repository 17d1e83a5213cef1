"""What tests share: a cache and a home of their own, one small model, one Ray instance, one S3 server."""

from __future__ import annotations

import functools
import gc
import logging
import os
import random
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.azure.server import ACCOUNT as AZURE_ACCOUNT
from tests.azure.server import KEY as AZURE_KEY
from tests.azure.server import AzureServer, azure_server
from tests.azure.server import missing_programs as missing_of_azure
from tests.gcs.server import TOKEN as GCS_TOKEN
from tests.gcs.server import GcsServer, gcs_server
from tests.hub.server import TOKEN as HUB_TOKEN
from tests.hub.server import HubServer, hub_server
from tests.programs import leave_out, summary, wanted_program
from tests.s3.proxy import Faults, S3Proxy, s3_proxy
from tests.s3.server import S3Server, missing_programs, s3_server
from tests.templates import forked_from, is_job, job_templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

# Ray would otherwise write a token into the home folder of whoever runs the tests.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Threads of torch that wait for each other would spin. Where two test processes share two cores, the one that is waited
# for gets no core meanwhile: a third of the processor time of tests that compute went there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tests that are skipped for want of a program are one line of pytest's summary, not one each."""
    if report.skipped and isinstance(report.longrepr, tuple | list) and wanted_program(report.longrepr[2]):
        report.longrepr = ("tests/programs.py", 1, report.longrepr[2])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say what to install in the last line of all, behind what pytest says at its end."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):  # of pytest-xdist's processes the first one reports
        return
    skipped = (report.longrepr for report in reporter.stats.get("skipped", ()))
    if line := summary(reason[2] for reason in skipped if isinstance(reason, tuple | list)):
        reporter.write_line(line, yellow=True)


# Their tests start Ray and services, and wait. Begun first, and spread over the processes, they end with the others;
# left to the end, they keep one process busy for minutes.
_WAITING = ("test_own_ray.py", "workers", "predict", "jobs", "train", "serve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of tests that wait come first; pytest-xdist keeps the order with ``--no-loadscope-reorder``."""
    root = Path(__file__).parent
    rank = {name: i for i, name in enumerate(_WAITING)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(root).parts[0], len(rank)))


@functools.cache
def scope_of(file: Path) -> str:
    """Of the tests of a file: of pytest-xdist's processes, one runs all tests of a scope."""
    if file.parent.name == "jobs":
        return "cluster"
    return "ray" if "ray_session" in file.read_text(encoding="utf-8") else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Only one process starts the session's Ray, whose own processes cost time until the session ends.

    Only one, too, starts the cluster of the tests of jobs.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class OneRay(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(config.rootpath / super()._split_scope(nodeid))

    return OneRay(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each of pytest-xdist's processes how tests are shared out, which it does not know."""
    node.workerinput["has_whole_scopes"] = node.config.getvalue("dist") == "loadfile"


def was_last_with_ray(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Whether a process of pytest-xdist has come to the end of the one scope whose tests share a Ray."""
    has_whole_scopes: bool = getattr(item.config, "workerinput", {}).get("has_whole_scopes", False)
    if not has_whole_scopes or nextitem is None:
        return False
    return scope_of(item.path) == "ray" != scope_of(nextitem.path) and "ray" in sys.modules


# Modules, tests and what they keep are millions of objects. Each collection of garbage would walk through all of them
# again: half a second or more, many times, in the middle of whatever runs just then.
@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is None or nextitem.path != item.path:
        if was_last_with_ray(item, nextitem):
            # What is left for this process needs none, and Ray's own processes take a sixteenth of a core.
            sys.modules["ray"].shutdown()
        gc.collect()
        gc.freeze()


SMALL_CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted networks go to the test session's own cache: of all of pytest-xdist's processes, and their children."""
    before = os.environ.get("IMGCLS_CACHE")
    folder = tmp_path_factory.getbasetemp()
    cache = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    os.environ["IMGCLS_CACHE"] = str(cache)
    yield cache
    if before is None:
        del os.environ["IMGCLS_CACHE"]
    else:
        os.environ["IMGCLS_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def worker_templates() -> Iterator[None]:
    """Workers of jobs on this machine without a new Python for each job that a test runs in its own process."""
    with forked_from(job_templates(), is_job):
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A random network at 64 pixels whose scores tell images apart."""
    return make_small_model(tmp_path_factory.mktemp("model") / "small", seed=0)


def make_small_model(
    path: Path, *, seed: int, class_names: tuple[str, ...] = SMALL_CLASSES, loudness: float = 40
) -> ModelFolder:
    """As ``small_model``; with a ``loudness`` of some thousand it is also confident of what it says."""
    import torch

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.architecture import build_network
    from imgcls_ray.models.folder import save_model_folder
    from imgcls_ray.models.zoo import find_model

    model = find_model("PP-LCNet_x0_25")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(model.architecture, num_classes=len(class_names))
        # A fresh network says nearly the same of everything. Statistics of pictures like the tests' own and a loud,
        # centred head make it tell images apart, so that a mixed-up row shows.
        pictures = torch.nn.functional.interpolate(torch.randn(64, 3, 6, 8), size=(64, 64), mode="bicubic")
        with torch.no_grad():
            network.train()
            for _ in range(30):
                network(pictures)
            network.eval()
            features = network.forward_head(network.forward_features(pictures), pre_logits=True)  # type: ignore[operator]
            weight = network.get_parameter("classifier.weight").mul_(loudness)
            network.get_parameter("classifier.bias").copy_(-weight @ features.mean(0))
        network.eval()
    return save_model_folder(
        path,
        network,
        name="small",
        architecture=model.architecture,
        class_names=class_names,
        preprocess=Preprocess(resize_size=72, crop_size=64),
    )


@pytest.fixture
def draw_images(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write distinct JPEG files and return their paths."""

    def draw(count: int, folder: str = "images", *, size: tuple[int, int] = (96, 80), seed: int = 0) -> list[Path]:
        target = tmp_path / folder
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for i in range(count):
            rng = np.random.default_rng((seed, i))
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            paths.append(target / f"{i:05d}.jpg")
            coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=92)
        return paths

    return draw


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray of the test session: two CPUs and one GPU that is only a number. Poisoned images are poisonous."""
    import ray

    from tests.workers.survival import POISONOUS

    with pytest.MonkeyPatch.context() as patch:
        for name, value in POISONOUS.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=300 * 2**20,
            # Ray's default is ten seconds, which the test of the metrics would wait for.
            _system_config={"metrics_report_interval_ms": 2000},
        )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_ray_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that needs Ray asks for the session's: one that it started itself would be in that one's way later."""

    def is_initialized() -> bool:
        ray: Any = sys.modules.get("ray")  # importing it takes longer than most tests
        return ray is not None and ray.is_initialized()

    before = is_initialized()
    yield
    if is_initialized() and not before and "ray_session" not in request.fixturenames:
        sys.modules["ray"].shutdown()
        pytest.fail("this test started a Ray of its own: let it use the fixture ray_session")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The one S3 server of the test session; a test that needs it is skipped where it is not installed."""
    if missing := missing_programs():
        leave_out("the S3 server", "s3-server", missing)

    from botocore import loaders

    with pytest.MonkeyPatch.context() as patch:
        # Every client reads a megabyte of JSON anew, which takes longer than most of the tests that need one.
        patch.setattr(loaders, "create_loader", functools.cache(loaders.create_loader))
        with s3_server(tmp_path_factory.mktemp("s3")) as server:
            yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh bucket; its server and the keys to it are in the environment, also of child processes."""
    from imgcls_ray.storage.object_client import forget_clients

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=name)
    # Clients are kept by their options, which do not tell one environment from another.
    forget_clients()
    yield name
    forget_clients()


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """The one Azure server of the test session; a test that needs it is skipped where it is not installed."""
    if missing := missing_of_azure():
        leave_out("the Azure server", "azure-server", missing)
    with azure_server(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsServer]:
    """The one fake of Google Cloud Storage of the test session."""
    with gcs_server() as server:
        yield server


@pytest.fixture
def container(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a fresh container of Azure's; its server and the key to it are in the environment."""
    from imgcls_ray.storage.object_client import forget_clients

    name = f"test-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{azure.url}/{AZURE_ACCOUNT}")
    azure.create_container(name)
    forget_clients()
    yield f"az://{name}"
    forget_clients()


@pytest.fixture
def gcs_bucket(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a fresh bucket of Google's; its server and the token for it are in the environment."""
    from imgcls_ray.storage.object_client import forget_clients

    name = f"test-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("GOOGLE_BASE_URL", gcs.url)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", GCS_TOKEN)
    gcs.buckets[name] = {}
    forget_clients()
    yield f"gs://{name}"
    forget_clients()


@pytest.fixture(scope="session")
def hub_of_session() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def hub(hub_of_session: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A fake of the Hugging Face Hub with nothing in it; it and a token for it are in the environment."""
    from imgcls_ray.storage.object_client import forget_clients

    hub_of_session.forget()
    monkeypatch.setenv("HF_ENDPOINT", hub_of_session.url)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    # Attempts follow one another at once.
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)
    forget_clients()
    yield hub_of_session
    forget_clients()


OBJECT_STORAGES = {"s3": "bucket", "gs": "gcs_bucket", "az": "container"}
"""Kinds of object storage, and the fixtures with a fresh bucket of each."""


@pytest.fixture(params=["local", *OBJECT_STORAGES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty place on each storage."""
    return str(tmp_path / "place") if request.param == "local" else _address(request)


@pytest.fixture(params=list(OBJECT_STORAGES))
def far_place(request: pytest.FixtureRequest) -> str:
    """The address of an empty bucket on each object storage."""
    return _address(request)


def _address(request: pytest.FixtureRequest) -> str:
    name: str = request.getfixturevalue(OBJECT_STORAGES[request.param])
    return name if "://" in name else f"s3://{name}"


@pytest.fixture(scope="session")
def proxy_of_session(s3: S3Server) -> Iterator[S3Proxy]:
    with s3_proxy(s3.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_session: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """What the environment leads to instead of the server itself; nothing goes wrong until the test says so."""
    proxy_of_session.set_faults(Faults())
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy_of_session.endpoint_url)
    yield proxy_of_session
    proxy_of_session.set_faults(Faults())
