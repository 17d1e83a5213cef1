"""What tests share: a cache and a home of their own, one small model, one Ray instance."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

# Ray would otherwise write a token into the home folder of whoever runs the tests.
os.environ["RAY_AUTH_MODE"] = "disabled"

SMALL_CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted networks go to the test session's own cache, also in child processes."""
    before = os.environ.get("IMGCLS_CACHE")
    cache = tmp_path_factory.mktemp("cache")
    os.environ["IMGCLS_CACHE"] = str(cache)
    yield cache
    if before is None:
        del os.environ["IMGCLS_CACHE"]
    else:
        os.environ["IMGCLS_CACHE"] = before


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A random network at 64 pixels whose scores tell images apart."""
    return make_small_model(tmp_path_factory.mktemp("model") / "small", seed=0)


def make_small_model(path: Path, *, seed: int, class_names: tuple[str, ...] = SMALL_CLASSES) -> ModelFolder:
    import torch

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.folder import save_model_folder
    from imgcls_ray.models.zoo import build_network, find_model

    model = find_model("PP-LCNet_x0_25")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(model.timm_name, dict(model.timm_args), num_classes=len(class_names))
        # A fresh network says nearly the same of everything. Statistics of pictures like the tests' own and a loud,
        # centred head make it tell images apart, so that a mixed-up row shows.
        pictures = torch.nn.functional.interpolate(torch.randn(64, 3, 6, 8), size=(64, 64), mode="bicubic")
        with torch.no_grad():
            network.train()
            for _ in range(30):
                network(pictures)
            network.eval()
            features = network.forward_head(network.forward_features(pictures), pre_logits=True)  # type: ignore[operator]
            weight = network.get_parameter("classifier.weight").mul_(40)
            network.get_parameter("classifier.bias").copy_(-weight @ features.mean(0))
        network.eval()
    return save_model_folder(
        path,
        network,
        name="small",
        timm_name=model.timm_name,
        timm_args=dict(model.timm_args),
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
    """The one Ray of the test session: two CPUs and one GPU that is only a number."""
    import ray

    ray.init(
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=300 * 2**20,
    )
    yield
    ray.shutdown()
