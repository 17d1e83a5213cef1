"""One dataset, every job that runs on the one worker, and what each must find in it whatever happens to it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from imgcls_ray.workers.local_worker import TITLE
from tests.conftest import SMALL_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgcls_ray.models.folder import ModelFolder

T = TypeVar("T")
Job = Literal["predict", "evaluate", "check"]
Place = Literal["local", "ray"]
"""Where a job's workers run: the key ``on``."""
Poison = Literal["CRASH", "LOOP"]
IMGCLS = Path(sys.executable).with_name("imgcls")
POISON = Path(__file__).parent.parent / "predict" / "poison"
# What the tests import, the command imports too.
POISONOUS = {"PYTHONPATH": os.pathsep.join(filter(None, (str(POISON), os.environ.get("PYTHONPATH"))))}
"""Environment of a command to which poisoned images are poisonous."""
# Every so many files is empty: each block has some that must be told, once.
_BAD_EVERY = 50


def poison(image: Path, kind: Poison) -> None:
    """Make a picture end the process that decodes it, or hold it for ever (``tests/predict/poison``)."""
    content = image.read_bytes() + f"POISON:{kind}".encode()
    image.unlink()  # it may be a link to another picture
    image.write_bytes(content)


class Dataset:
    """Pictures in ``images``, the same for every job; ``val.txt`` names them all."""

    def __init__(self, root: Path, count: int, *, size: tuple[int, int]) -> None:
        self.root, self.images = root, [root / "images" / f"{i:05d}.jpg" for i in range(count)]
        (root / "images").mkdir(parents=True)
        coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(size).save(buffer, "JPEG", quality=90)
        good = root / "good"
        good.write_bytes(buffer.getvalue())
        self.codes: dict[str, str] = {}
        for image in self.images[::_BAD_EVERY]:
            image.write_bytes(b"")
            self.codes[str(image)] = "empty"
        for image in self.images:
            if not image.exists():
                os.link(good, image)
        names = SMALL_CLASSES
        (root / "label.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(names)))
        lines = (f"images/{image.name} {i % len(names)}\n" for i, image in enumerate(self.images))
        (root / "val.txt").write_text("".join(lines))

    def poison(self, place: int, kind: Poison) -> None:
        poison(self.images[place], kind)
        self.codes[str(self.images[place])] = {"CRASH": "decoder_crashed", "LOOP": "decode_timeout"}[kind]


def command_of(
    job: Job, data: Dataset, model: ModelFolder, output: Path, *options: str, on: Place = "local"
) -> list[str]:
    source = data.root / "images" if job == "predict" else data.root
    words: Sequence[object] = (IMGCLS, job, source, "--output", output, "--on", on)
    if job != "check":
        words = (*words, "--model", model.path, "--batch-size", "16")
    if job == "predict":
        # Of a size that every worker has several of: what these images take would be two units, or one for all cores.
        words = (*words, "-s", "unit_size=16")
    if job == "evaluate":
        words = (*words, "-s", "max_error_rate=0.2")
    return [str(word) for word in (*words, *options)]


def exit_code_of(job: Job) -> int:
    """Of a job that has found everything: for a check, bad images are errors."""
    return 1 if job == "check" else 0


def assert_all_found(job: Job, data: Dataset, output: Path) -> None:
    """Every image has its one answer, and the bad ones their codes."""
    if job == "predict":
        store = open_store(open_directory(str(output)))
        report = verify_store(store)
        assert (report.problems, report.num_rows) == ([], len(data.images))
        rows = [row for table in latest_rows(store) for row in table.to_pylist()]
        _assert_rows(rows, data)
    elif job == "evaluate":
        rows = pq.read_table(output / "evaluate" / "predictions.parquet").to_pylist()
        _assert_rows(rows, data)
    else:
        found = pq.read_table(output / "check_dataset" / "findings.parquet").to_pylist()
        codes = {row["uri"]: row["detail"].split(":")[0] for row in found if row["code"] == "unreadable_image"}
        assert codes == data.codes
        # All good ones are one file: each but the first is told once.
        doubles = sorted(row["uri"] for row in found if row["code"] == "exact_duplicate")
        good = sorted(str(image) for image in data.images if str(image) not in data.codes)
        assert doubles == good[1:]


def _assert_rows(rows: list[dict[str, Any]], data: Dataset) -> None:
    assert sorted(row["uri"] for row in rows) == sorted(map(str, data.images))
    assert {row["uri"]: row["error"] for row in rows if row["error"]} == data.codes
    # One picture, one answer.
    assert len({tuple(row["scores"]) for row in rows if not row["error"]}) == 1


def name_of(pid: int) -> str:
    """What ``ps`` shows; empty for a process that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def wait_until(look: Callable[[], T], seconds: float = 10.0) -> T:
    """Look again and again until there is something, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class Running:
    """A command in a session of its own."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def workers(self) -> list[int]:
        """Processes that have blocks in hand: by the title that Ray gives them for so long, or their own name.

        Between two blocks a worker on Ray has no such title: look with ``wait_until``.
        """
        return [
            pid for pid, title in self.processes().items() if "BlockWorker)).submit" in title or name_of(pid) == TITLE
        ]

    def processes(self) -> dict[int, str]:
        """Ids and titles of all that descends from the command and runs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getsid(pid := int(folder.name)) == self.process.pid:
                    found[pid] = (folder / "cmdline").read_bytes().decode(errors="replace")
        return {pid: title for pid, title in found.items() if title}

    def wait_for_work(self, num_workers: int = 2) -> None:
        """Wait until so many workers are in the middle of a block."""
        wait_until(lambda: self.process.poll() is not None or len(self.workers()) >= num_workers, 120)
        time.sleep(1)
        assert self.process.poll() is None, self.process.communicate()

    def wait(self, timeout_s: float) -> tuple[int, str]:
        """Exit code and what stderr was told."""
        _, words = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, words

    def end(self) -> None:
        for pid in {*self.processes(), self.process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
