"""A day of hourly runs, with all that happens to a folder in a day, leaves what one big run leaves."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import StoreInUseError
from imgcls_ray.predict import job
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

_SPOILT = (b"", b"no image", b"\xff\xd8\xff\xe0 cut off", b"GIF89a")


class _Day:
    """A folder in which pictures come, change, break, go and come back; each file has a time of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.kept_away: dict[str, tuple[bytes, int]] = {}
        self._clock = 10**18
        folder.mkdir()

    def write(self, path: Path, data: bytes) -> None:
        self._clock += 10**9
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(self._clock, self._clock))

    def picture(self) -> bytes:
        if self.chance.random() < 0.2:
            return self.chance.choice(_SPOILT)
        pixels = np.random.default_rng(self.chance.getrandbits(32)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = self.folder.parent / "picture.png"
        Image.fromarray(pixels).resize((32, 24), Image.Resampling.BICUBIC).save(path)
        return path.read_bytes()

    def pass_an_hour(self, hour: int) -> None:
        there = sorted(path for path in self.folder.rglob("*") if path.is_file())
        for path in self.chance.sample(there, min(len(there), 4)):
            match self.chance.choice(("change", "go", "go", "break")):
                case "change":
                    self.write(path, self.picture())
                case "break":
                    self.write(path, self.chance.choice(_SPOILT))
                case "go":
                    self.kept_away[str(path)] = path.read_bytes(), path.stat().st_mtime_ns
                    path.unlink()
        for name in self.chance.sample(sorted(self.kept_away), min(len(self.kept_away), self.chance.choice((0, 1, 2)))):
            data, time_ns = self.kept_away.pop(name)
            with open(name, "wb") as file:
                file.write(data)
            os.utime(name, ns=(time_ns, time_ns))
        for number in range(self.chance.choice((0, 3, 6))):
            self.write(self.folder / f"hour-{hour % 3}" / f"{hour:02d}-{number}.png", self.picture())


def run_command(config: PredictConfig, ends: list[str]) -> None:
    try:
        predict(config, Console(stderr=True, force_terminal=False))
        ends.append("done")
    except StoreInUseError:
        ends.append("refused")
    except BaseException as error:
        ends.append(repr(error))


def rows_of(store: str) -> dict[str, dict[str, Any]]:
    rows = [row for table in latest_rows(open_store(open_directory(store))) for row in table.to_pylist()]
    return {row["uri"]: {**row, "image_id": 0} for row in rows}


def simulate(num_hours: int, tmp_path: Path, model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of the folder is part of every row: the big run has the same one.
    day = _Day(tmp_path / "in", seed=num_hours)
    ends: list[str] = []
    seen: set[str] = set()

    def config_of(output: str) -> PredictConfig:
        values = {"input": str(day.folder), "model": str(model.path), "output": str(tmp_path / output)}
        return make_config(PredictConfig, {**values, "device": "cpu", "batch_size": 8})

    for hour in range(num_hours):
        day.pass_an_hour(hour)
        with monkeypatch.context() as patch:
            # Every third hour two start at once; now and then nothing but create-only files keeps them apart.
            num_commands = 2 if hour % 3 == 1 else 1
            if hour % 6 == 4:
                patch.setattr(job, "hold_lease", lambda _: contextlib.nullcontext())
            threads = [
                threading.Thread(target=run_command, args=(config_of("hourly"), ends)) for _ in range(num_commands)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if "done" in ends[-num_commands:]:
            seen |= {str(path) for path in day.folder.rglob("*") if path.is_file()}
    run_command(config_of("hourly"), ends)
    run_command(config_of("big"), ends)

    assert set(ends) <= {"done", "refused"}
    assert ends[-2:] == ["done", "done"]
    there = {str(path) for path in day.folder.rglob("*") if path.is_file()}
    hourly, big = rows_of(str(tmp_path / "hourly")), rows_of(str(tmp_path / "big"))
    assert big.keys() == there
    assert {uri: row for uri, row in hourly.items() if row["present"]} == big
    assert {uri for uri, row in hourly.items() if not row["present"]} == seen - there
    assert seen - there
    assert any(row["error"] for row in big.values())
    report = verify_store(open_store(open_directory(str(tmp_path / "hourly"))))
    assert report.problems == []


def test_six_hourly_runs_leave_what_one_big_run_leaves(
    tmp_path: Path, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(6, tmp_path, small_model, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_four_hourly_runs_leave_what_one_big_run_leaves(
    tmp_path: Path, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(24, tmp_path, small_model, monkeypatch)
