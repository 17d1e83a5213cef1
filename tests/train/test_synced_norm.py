"""Batch norm over the images of two workers is that of one worker with all of them."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from imgcls_ray.train.synced_norm import synced
from tests.train.conftest import NUM_TRAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult

CHANNELS, NUM_IMAGES = 3, 6


def make_network() -> nn.Sequential:
    network = nn.Sequential(BatchNormAct2d(CHANNELS), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return network


def images() -> torch.Tensor:
    # Far from 0, where a difference of squares would have no digits left.
    return 1000 + torch.rand(NUM_IMAGES, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(1))


def learnt(network: nn.Module, part: torch.Tensor) -> dict[str, torch.Tensor]:
    """Statistics and gradients after a forward and a backward pass, and the outputs in use afterwards."""
    part.requires_grad_(True)
    torch.autograd.backward((network(part) ** 3).sum())
    assert part.grad is not None
    gradients = {f"d {name}": parameter.grad for name, parameter in network.named_parameters()}
    with torch.no_grad():
        in_use = network.eval()(part)
    return {**network.state_dict(), **gradients, "in use": in_use.detach(), "d images": part.grad}


def work(rank: int, counts: tuple[int, int], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = images()[: counts[0]] if rank == 0 else images()[counts[0] :]
    found = learnt(synced(make_network()).train(), part)
    for name in found:
        # As DistributedDataParallel does it, but for the mean.
        if name.startswith("d ") and name != "d images":
            distributed.all_reduce(found[name])
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("counts", [(3, 3), (6, 0)])
def test_two_workers_are_one(counts: tuple[int, int], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(rank, counts, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    expected = learnt(make_network().train(), images())
    ours = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, value in expected.items():
        if name in ("in use", "d images"):
            got = torch.cat([one[name] for one in ours])
        else:
            got = ours[0][name]
            assert got.equal(ours[1][name]), name
        assert torch.allclose(got.double(), value.double(), rtol=2e-3, atol=2e-3), name


def test_a_pass_without_any_image_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where all images of a step cannot be read; of one worker, the sum is its own.
    monkeypatch.setattr("imgcls_ray.train.synced_norm._added_up", lambda tensor: tensor.detach().clone())
    network = synced(make_network()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.autograd.backward(network(images()[:0]).sum())
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_names_of_weights_stay_and_what_is_in_use_is_the_same() -> None:
    network = make_network().eval()
    before = network(images())
    assert network.state_dict().keys() == synced(make_network()).state_dict().keys()
    assert synced(network)(images()).equal(before)


@pytest.mark.slow
def test_a_run_of_two_workers_learns_what_one_does(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imgcls_ray.train.job.check_resources", lambda *_, **__: None)
    # One step of all images: small differences grow from step to step, as far as that of another order of sums.
    settings: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "batch_size": NUM_TRAIN, "epochs": 1}
    losses, weights = {}, {}
    for name, extra in {
        "one": {},
        "synced": {"num_workers": 2, "sync_batch_norm": True},
        "apart": {"num_workers": 2},
    }.items():
        config = make_train_config(output=str(tmp_path / name), **settings, **extra)
        losses[name] = train_here(config).last_metrics["train.loss"]
        weights[name] = load_file(tmp_path / name / "latest" / "model.safetensors")
    assert losses["synced"] == pytest.approx(losses["one"], rel=1e-4)
    assert losses["apart"] != pytest.approx(losses["one"], rel=1e-4)
    for name, value in weights["one"].items():
        assert torch.allclose(value.float(), weights["synced"][name].float(), rtol=1e-3, atol=1e-4), name
