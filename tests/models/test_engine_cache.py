"""Actors that start together on a new node."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

from imgcls_ray.models import openvino_engine

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from imgcls_ray.models.folder import ModelFolder


def _load(folder: ModelFolder, log: Path) -> None:
    convert = openvino_engine._convert

    def counted(*args: object, **kwargs: object) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        convert(*args, **kwargs)  # type: ignore[arg-type]

    openvino_engine._convert = counted
    assert openvino_engine.converted_network(folder, embedding=False).is_file()


def test_processes_that_start_together_convert_the_network_once(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_load, args=(small_model, tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
