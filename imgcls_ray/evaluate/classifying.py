"""Classify every image of a split: the work of the actors, and how it is handed out.

The same fetching, decoding and classifying as in bulk labelling, and the same treatment of deaths; but what comes back
is the answer, which for an image is some sixty bytes, and one small table of sums for each block.
"""

from __future__ import annotations

import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from imgcls_ray.errors import ImageError, JobFailedError
from imgcls_ray.evaluate.calibration import calibration_table, empty_table
from imgcls_ray.models.classifier import StageSeconds, decode_model_inputs
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.classifier_task import ClassifierTask
from imgcls_ray.workers.decoding import MAX_DEATHS_OF_UNIT, load_decoders
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, any_version, fetch_inputs
from imgcls_ray.workers.packing import pack_inputs, pixel_column, unpack_inputs
from imgcls_ray.workers.ray_failures import with_causes
from imgcls_ray.workers.ray_pool import dataset_of, map_units, outlive_deaths, quiet_ray_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.errors import ImageErrorCode
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.classifier import ImageClassifier, ModelInput, Prediction
    from imgcls_ray.workers.board import Stage
    from imgcls_ray.workers.ray_cluster import WorkerPlan

TOP_K = 5
MAX_ROWS_PER_BLOCK = 512
# Pixels of a block cross Ray's object store as one value on the way to a GPU.
_MAX_BLOCK_BYTES = 128 * 2**20
# A block of Ray Data costs the driver some kilobytes: a large dataset goes in waves.
_BLOCKS_PER_WAVE = 1024
# Logits of 21,000 classes are 5 MB for so many images.
_ROWS_PER_TABLE = 64

ENTRY_SCHEMA = pa.schema([("number", pa.int64()), ("uri", pa.string()), ("label_id", pa.int32())])
"""What a worker gets: ``number`` is the place in the split, ``label_id`` the true class in the model's ids."""

ANSWER_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("label_id", pa.int32()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("class_ids", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""What comes back: of an image that cannot be classified, ``code`` and ``detail`` instead of classes."""


class Block(NamedTuple):
    """Consecutive entries: what one worker classifies in one go."""

    number: int
    entries: pa.Table
    """By ``ENTRY_SCHEMA``."""


class BlockAnswer(NamedTuple):
    """What became of a block."""

    number: int
    answers: pa.Table
    """By ``ANSWER_SCHEMA``, one row for each entry, in their order."""
    calibration: np.ndarray
    """As ``calibration_table`` gives it."""


@dataclass(frozen=True)
class EvaluateTask(ClassifierTask):
    """What every worker of an evaluation is told."""

    temperatures: tuple[float, ...]


def rows_per_block(num_images: int, *, num_workers: int, batch_size: int, crop_size: int) -> int:
    """Whole batches, some blocks for each worker, so that all end together; bounded by what a block may weigh."""
    for_all = -(-num_images // (4 * num_workers * batch_size)) * batch_size
    return max(1, min(for_all, MAX_ROWS_PER_BLOCK, _MAX_BLOCK_BYTES // (3 * crop_size**2)))


def classify_blocks(
    blocks: Iterable[Block], task: EvaluateTask, workers: WorkerPlan, *, gpu_device: str = "cuda"
) -> Iterator[BlockAnswer]:
    """Classify blocks on the running Ray; answers come back in any order.

    Args:
        blocks: what to classify.
        task: how.
        workers: on how many actors.
        gpu_device: of a GPU actor: tests use Ray's logical GPUs with ``cpu``.

    Raises:
        ImgclsError: a worker failed for good.
    """
    quiet_ray_data()
    board = Board()
    blocks = iter(blocks)
    while wave := list(itertools.islice(blocks, _BLOCKS_PER_WAVE)):
        attempts = outlive_deaths(wave, lambda left: _attempt(left, task, workers, board, gpu_device))
        yield from with_causes(attempts)
    board.clear()


def _attempt(
    blocks: Sequence[Block], task: EvaluateTask, workers: WorkerPlan, board: Board, gpu_device: str
) -> Iterator[BlockAnswer]:
    dataset = dataset_of(pack_block(block) for block in blocks)
    num_cpu_actors = min(workers.num_cpu_workers, len(blocks))
    if num_gpu_actors := workers.num_gpu_workers:
        alone: dict[str, Any] = {"outlives_deaths": False}
        dataset = map_units(dataset, BlockDecoder, (task, board), num_actors=num_cpu_actors, **alone)
        arguments = (task, board, gpu_device)
        dataset = map_units(dataset, BlockClassifier, arguments, num_actors=num_gpu_actors, on_gpu=True, **alone)
    else:
        dataset = map_units(dataset, BlockEvaluator, (task, board), num_actors=num_cpu_actors)
    batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for rows in batches:
        yield from read_answers(rows, task)


def read_answers(rows: pa.Table, task: EvaluateTask) -> Iterator[BlockAnswer]:
    """Read what a worker sent back."""
    for row in rows.to_pylist():
        table = np.frombuffer(row["calibration"]).reshape(len(task.temperatures), -1)
        yield BlockAnswer(row["number"], _from_ipc(row["answers"]), table)


class BlockEvaluator:
    """Fetches, decodes and classifies blocks on one core. Two threads may call it at once: one computes."""

    def __init__(self, task: EvaluateTask, board: Board) -> None:
        load_decoders()
        self._task, self._turns = task, _Turns("label", board)
        self._classifier = task.load_classifier(task.open_model(), device="cpu", num_threads=1)
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")

    def __call__(self, packed: pa.Table) -> pa.Table:
        block, seconds = _unpacked(packed), StageSeconds()
        encoded = fetch_inputs(any_version(block.entries["uri"]), self._task.fetch_limits, self._executor)
        with self._turns.computing:
            num_deaths = self._turns.begin(block)
            with self._task.decoder(self._classifier.folder.spec.preprocess, num_deaths) as decode:
                answer = _answer(block, decode_model_inputs(encoded, decode, seconds), self._classifier, self._task)
        self._turns.end(block)
        return answer


class BlockDecoder:
    """Fetches and decodes blocks on one core, for a classifier elsewhere: a block stays one row."""

    def __init__(self, task: EvaluateTask, board: Board) -> None:
        load_decoders()
        self._task, self._turns = task, _Turns("decode", board)
        self._preprocess: Preprocess = task.open_model().spec.preprocess
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")

    def __call__(self, packed: pa.Table) -> pa.Table:
        block = _unpacked(packed)
        encoded = fetch_inputs(any_version(block.entries["uri"]), self._task.fetch_limits, self._executor)
        with self._turns.computing, self._task.decoder(self._preprocess, self._turns.begin(block)) as decode:
            inputs = decode_model_inputs(encoded, decode, StageSeconds())
            pixels, about = pack_inputs(inputs, len(block.entries), self._preprocess.crop_size)
        self._turns.end(block)
        return packed.append_column("about", [[json.dumps(about)]]).append_column("pixels", pixel_column(pixels))


class BlockClassifier:
    """Classifies decoded blocks on one GPU. Two threads may call it at once: one computes."""

    def __init__(self, task: EvaluateTask, board: Board, device: str) -> None:
        self._task, self._turns = task, _Turns("classify", board)
        self._classifier = task.load_classifier(task.open_model(), device=device, num_threads=1)

    def __call__(self, packed: pa.Table) -> pa.Table:
        return pa.concat_tables([self._classify(packed.slice(place, 1)) for place in range(len(packed))])

    def _classify(self, packed: pa.Table) -> pa.Table:
        block = _unpacked(packed)
        size = self._classifier.folder.spec.preprocess.crop_size
        inputs = unpack_inputs(json.loads(packed["about"][0].as_py()), packed["pixels"], size)
        with self._turns.computing:
            self._turns.begin(block)
            answer = _answer(block, inputs, self._classifier, self._task)
        self._turns.end(block)
        return answer


class _Turns:
    """Lets a worker have two blocks in hand, of which one computes; and notes on the board what that is."""

    def __init__(self, stage: Stage, board: Board) -> None:
        self._stage, self._board = stage, board
        self.computing = threading.Lock()

    def begin(self, block: Block) -> int:
        """Note that computing begins; says how many workers have died over the block."""
        num_deaths = self._board.begin(self._stage, f"block-{block.number}")
        if num_deaths >= MAX_DEATHS_OF_UNIT:
            first = block.entries["uri"][0].as_py()
            raise JobFailedError(
                f"{first} and the {len(block.entries) - 1} images after it have ended their worker {num_deaths} times, "
                "also when they were decoded in a process of their own"
            )
        return num_deaths

    def end(self, block: Block) -> None:
        self._board.end(self._stage, f"block-{block.number}")


def _answer(
    block: Block, inputs: Iterable[ModelInput | ImageError], classifier: ImageClassifier, task: EvaluateTask
) -> pa.Table:
    """Classify a block: its answers and the sums of its logits, as one row."""
    labels = block.entries["label_id"].to_numpy()
    temperatures = np.array(task.temperatures)
    table = empty_table(len(temperatures))
    results: list[_Result] = []
    waiting: list[tuple[np.ndarray, int]] = []
    for label, result in zip(labels, classifier.classify_inputs(inputs), strict=True):
        results.append(_Result.of(result))
        if not isinstance(result, ImageError):
            assert result.logits is not None
            waiting.append((result.logits, int(label)))
        if len(waiting) == _ROWS_PER_TABLE:
            table += _table_of(waiting, temperatures)
            waiting = []
    if waiting:
        table += _table_of(waiting, temperatures)
    columns = {
        "number": block.entries["number"],
        "label_id": block.entries["label_id"],
        **{name: [getattr(result, name) for result in results] for name in _Result._fields},
    }
    answers = pa.table({name: columns[name] for name in ANSWER_SCHEMA.names}, schema=ANSWER_SCHEMA)
    return pa.table(
        {
            "number": [block.number],
            "answers": pa.array([_to_ipc(answers)], pa.large_binary()),
            "calibration": pa.array([table.tobytes()], pa.large_binary()),
        }
    )


def _table_of(waiting: list[tuple[np.ndarray, int]], temperatures: np.ndarray) -> np.ndarray:
    logits, labels = zip(*waiting, strict=True)
    return calibration_table(np.stack(logits), np.array(labels), temperatures)


class _Result(NamedTuple):
    """A prediction without its logits, or why there is none."""

    code: ImageErrorCode | None = None
    detail: str | None = None
    class_ids: np.ndarray | None = None
    scores: np.ndarray | None = None
    width: int | None = None
    height: int | None = None

    @classmethod
    def of(cls, result: Prediction | ImageError) -> _Result:
        if isinstance(result, ImageError):
            return cls(code=result.code, detail=result.detail)
        return cls(class_ids=result.class_ids, scores=result.scores, width=result.width, height=result.height)


def pack_block(block: Block) -> pa.Table:
    """A block as one row, so that nothing can cut it."""
    entries = pa.array([_to_ipc(block.entries)], pa.large_binary())
    return pa.table({"number": [block.number], "entries": entries})


def _unpacked(packed: pa.Table) -> Block:
    return Block(packed["number"][0].as_py(), _from_ipc(packed["entries"][0].as_py()))


def _to_ipc(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
