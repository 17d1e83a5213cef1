"""Label units: the work of one actor, from plan rows to a durable part file.

Three callables for Ray Data, which also run without Ray: ``UnitLabeller`` does all of a unit on one core;
``UnitDecoder`` and ``UnitClassifier`` share it between CPUs and a GPU. Each takes a table of unit descriptors; what
comes back is one row of counts per unit. Pixels stay in the process, or cross once as uint8.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.data.fetching import NUM_FETCH_THREADS, fetch_inputs
from imgcls_ray.data.schema import STATUS_ERROR, STATUS_OK, Unit
from imgcls_ray.data.store import open_store
from imgcls_ray.errors import ImageError, ImageErrorCode, ModelFolderError
from imgcls_ray.images.jpeg import load_fast_decoder
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import ImageClassifier, ModelInput, StageSeconds, decode_model_inputs
from imgcls_ray.models.new import open_model
from imgcls_ray.storage import FetchLimits, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.data.store import LabelStore
    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.models.engines import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder


@dataclass(frozen=True)
class LabelTask:
    """What every worker of a run is told. Crosses process boundaries, so it holds plain values only."""

    model: str
    """Path or ``s3://`` URI of the model folder."""
    fingerprint: str
    """What the folder must hold: a worker never labels with another model than was planned."""
    store: str
    top_k: int
    embedding: bool = False
    logits: bool = False
    engine: EngineName = "auto"
    precision: Precision = "auto"
    batch_size: int = 32
    decode_limits: DecodeLimits = field(default_factory=DecodeLimits)
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)

    def open_model(self) -> ModelFolder:
        """The task's model folder.

        Raises:
            ModelFolderError: it is unreadable, or not the planned one any more.
        """
        folder = open_model(self.model, self.fetch_limits.s3)
        if folder.spec.fingerprint != self.fingerprint:
            raise ModelFolderError(f"{self.model}: was replaced while the run was starting; run the command again")
        return folder

    def load_classifier(self, folder: ModelFolder, *, device: str, num_threads: int) -> ImageClassifier:
        return ImageClassifier.load(
            folder,
            engine=self.engine,
            device=device,
            precision=self.precision,
            batch_size=self.batch_size,
            num_threads=num_threads,
            top_k=self.top_k,
            embedding=self.embedding,
            logits=self.logits,
            limits=self.decode_limits,
        )


def describe_units(units: Sequence[Unit]) -> pa.Table:
    """Unit descriptors as the table that Ray Data carries."""
    return pa.table({name: [getattr(unit, name) for unit in units] for name in Unit._fields})


def units_of(table: pa.Table) -> list[Unit]:
    return [Unit(**row) for row in table.select(Unit._fields).to_pylist()]


class UnitLabeller:
    """Fetches, decodes, classifies and commits units on one core."""

    def __init__(self, task: LabelTask, num_threads: int = 1) -> None:
        _warm_up_decoder()
        self._task = task
        self._store = open_store(open_directory(task.store, task.fetch_limits.s3))
        self._classifier = task.load_classifier(task.open_model(), device="cpu", num_threads=num_threads)
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")

    def __call__(self, units: pa.Table) -> pa.Table:
        return pa.concat_tables([self._label(unit) for unit in units_of(units)])

    def _label(self, unit: Unit) -> pa.Table:
        if self._store.directory.exists(unit.part_name):
            return _counts(unit, Counter(), StageSeconds(), committed=False)
        seconds = StageSeconds()
        rows = self._store.read_unit(unit)
        encoded = _timed_fetch(rows, self._task.fetch_limits, self._executor, seconds)
        results = list(self._classifier.classify_encoded(encoded, seconds))
        return commit_unit(self._store, self._classifier, unit, rows, results, seconds)


class UnitDecoder:
    """Fetches and decodes units on one core, for a classifier elsewhere: one row per unit, pixels as one value.

    A unit is one row so that no batching between the stages can cut it.
    """

    def __init__(self, task: LabelTask) -> None:
        _warm_up_decoder()
        self._task = task
        self._store = open_store(open_directory(task.store, task.fetch_limits.s3))
        self._preprocess = task.open_model().spec.preprocess
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")

    def __call__(self, units: pa.Table) -> pa.Table:
        return pa.concat_tables([self._decode(unit) for unit in units_of(units)])

    def _decode(self, unit: Unit) -> pa.Table:
        seconds = StageSeconds()
        size = self._preprocess.crop_size
        done = self._store.directory.exists(unit.part_name)
        rows = self._store.read_unit(unit)
        pixels = np.empty((0 if done else unit.num_rows, size, size, 3), dtype=np.uint8)
        about: list[dict[str, Any]] = []
        num_good = 0
        encoded = _timed_fetch(rows, self._task.fetch_limits, self._executor, seconds) if not done else iter(())
        for item in decode_model_inputs(encoded, self._preprocess, self._task.decode_limits, seconds):
            if isinstance(item, ImageError):
                about.append({"code": item.code, "detail": item.detail})
            else:
                pixels[num_good] = item.pixels
                num_good += 1
                about.append({"width": item.width, "height": item.height})
        blob = pa.array([pixels[:num_good].reshape(-1).data if num_good else b""], pa.large_binary())
        columns = {"done": [done], "about": [json.dumps(about)], "seconds": [json.dumps(asdict(seconds))]}
        table = pa.table({**describe_units([unit]).to_pydict(), **columns})
        return table.append_column("pixels", blob)


class UnitClassifier:
    """Classifies and commits decoded units on one GPU."""

    def __init__(self, task: LabelTask, device: str = "cuda") -> None:
        self._store = open_store(open_directory(task.store, task.fetch_limits.s3))
        self._classifier = task.load_classifier(task.open_model(), device=device, num_threads=1)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return pa.concat_tables([self._classify(decoded.slice(i, 1)) for i in range(decoded.num_rows)])

    def _classify(self, row: pa.Table) -> pa.Table:
        [unit] = units_of(row)
        if row["done"][0].as_py():
            return _counts(unit, Counter(), StageSeconds(), committed=False)
        seconds = StageSeconds(**json.loads(row["seconds"][0].as_py()))
        size = self._classifier.folder.spec.preprocess.crop_size
        pixels = np.frombuffer(row["pixels"][0].as_buffer(), dtype=np.uint8).reshape(-1, size, size, 3)
        inputs = _model_inputs(json.loads(row["about"][0].as_py()), pixels)
        results = list(self._classifier.classify_inputs(inputs, seconds))
        rows = self._store.read_unit(unit)
        return commit_unit(self._store, self._classifier, unit, rows, results, seconds)


def _model_inputs(about: list[dict[str, Any]], pixels: np.ndarray) -> Iterable[ModelInput | ImageError]:
    good = iter(pixels)
    for item in about:
        if "code" in item:
            yield ImageError(ImageErrorCode(item["code"]), item["detail"])
        else:
            yield ModelInput(next(good), width=item["width"], height=item["height"])


def commit_unit(
    store: LabelStore,
    classifier: ImageClassifier,
    unit: Unit,
    rows: pa.Table,
    results: Sequence[Prediction | ImageError],
    seconds: StageSeconds,
) -> pa.Table:
    """Write a unit's part file in one create-only step. Returns its counts.

    A part that is there already is as good: it holds the same rows, by another worker.
    """
    start = time.perf_counter()
    table = part_table(store.schema, classifier.folder.spec.class_names, rows, results)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    committed = store.directory.create(unit.part_name, buffer.getvalue())
    codes = Counter(result.code.value if isinstance(result, ImageError) else STATUS_OK for result in results)
    seconds.write += time.perf_counter() - start
    return _counts(unit, codes, seconds, committed=committed)


def part_table(
    schema: pa.Schema, class_names: Sequence[str], rows: pa.Table, results: Sequence[Prediction | ImageError]
) -> pa.Table:
    """The rows of a part file: one per planned row, in the plan's order."""
    if len(results) != rows.num_rows:
        raise AssertionError(f"{len(results)} results for {rows.num_rows} planned rows")
    columns: dict[str, Any] = {name: rows.column(name) for name in ("image_id", "uri", "etag")}
    good = [None if isinstance(result, ImageError) else result for result in results]
    columns["status"] = [STATUS_ERROR if result is None else STATUS_OK for result in good]
    columns["error"] = [result.code.value if isinstance(result, ImageError) else None for result in results]
    columns["label"] = [result and class_names[result.class_ids[0]] for result in good]
    columns["label_id"] = [result and int(result.class_ids[0]) for result in good]
    columns["score"] = [result and float(result.scores[0]) for result in good]
    columns["labels"] = [result and [class_names[i] for i in result.class_ids] for result in good]
    columns["scores"] = [result and result.scores for result in good]
    columns["width"] = [result and result.width for result in good]
    columns["height"] = [result and result.height for result in good]
    if "embedding" in schema.names:
        columns["embedding"] = [result and result.embedding for result in good]
    if "logits" in schema.names:
        columns["logits"] = [result and result.logits for result in good]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _timed_fetch(
    rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor, seconds: StageSeconds
) -> Iterable[bytes | ImageError]:
    contents = fetch_inputs(rows, limits, executor)
    while True:
        start = time.perf_counter()
        data = next(contents, None)
        seconds.fetch += time.perf_counter() - start
        if data is None:
            return
        yield data


def _counts(unit: Unit, codes: Counter[str], seconds: StageSeconds, *, committed: bool) -> pa.Table:
    return pa.table(
        {
            "number": [unit.number],
            "num_images": [unit.num_rows],
            "committed": [committed],
            "codes": [json.dumps(codes)],
            **{name: [value] for name, value in asdict(seconds).items()},
        }
    )


def _warm_up_decoder() -> None:
    import torch

    load_fast_decoder()  # belongs to the start, not to the first image

    # One actor is one core: torch's resize would otherwise start a thread per core in every actor.
    torch.set_num_threads(1)
