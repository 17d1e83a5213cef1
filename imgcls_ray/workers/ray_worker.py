"""The worker as an actor on Ray: it notes which blocks it has in hand, and computes a second copy of a slow one.

At the end of a run, actors that have nothing left are given copies of the blocks that are not done yet. The first
result counts, from whichever actor it comes, so the run does not wait for an actor that is slow or lost. A part file is
created only once, so a unit that two actors label still has one row for each input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.images.resize import load_resizer
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.workers.ray_table import node_id
from imgcls_ray.workers.worker import Block, BlockClassifier, BlockDecoder, BlockWorker, D, R

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.classifier import StageSeconds
    from imgcls_ray.workers.board import Board
    from imgcls_ray.workers.worker import Work

NEEDLESS = "needless copy"
"""In ``Block.skipped_by``: the block was done already when its copy was to begin."""
_IS_COPY = "is_copy"


def name_of_copy(name: str) -> str:
    """The name on the board of a block's copy.

    Under the block's own, the copy's start would be counted as a death of the other worker, and one of the two would
    not be known to be in hand.
    """
    return f"{name}, copy"


def as_task(*blocks: Block, is_copy: bool) -> pa.Table:
    """Blocks for an actor, as one row each; only copies come several at once."""
    tasks = pa.concat_tables([block.to_table() for block in blocks])
    return tasks.append_column(_IS_COPY, pa.array([is_copy] * len(blocks)))


def from_task(table: pa.Table) -> Iterator[tuple[Block, bool]]:
    """The blocks that an actor gets, or gives back, and whether they are copies."""
    for row in range(table.num_rows):
        task = table.slice(row, 1)
        yield Block.from_table(task.drop_columns([_IS_COPY])), task[_IS_COPY][0].as_py()


class RayBlockWorker(BlockWorker[D, R]):
    """Does blocks and copies of blocks. Two threads may call it at once."""

    _board: Board

    def __init__(self, make_work: Callable[[], Work[D, R]], board: Board, name: Callable[[], str]) -> None:
        load_resizer()
        super().__init__(make_work, board, name)
        self._node = node_id()
        self._own: set[str] = set()
        """Names of blocks that this worker has done."""
        board.join(self.stage, name())

    def __call__(self, table: pa.Table) -> pa.Table:
        tasks = [
            as_task(self._run_copy(block) if is_copy else self._run_noted(block), is_copy=is_copy)
            for block, is_copy in from_task(table)
        ]
        return pa.concat_tables(tasks)

    def _run_noted(self, block: Block) -> Block:
        # Noted before ``run`` looks for a stop: once the stop flag is set, a block without a note is never begun.
        self._board.take(block.name, self._node)
        return self.run(block)

    def _commit(self, block: Block, rows: pa.Table, result: Any, seconds: StageSeconds) -> Block:
        done = super()._commit(block, rows, result, seconds)
        self._own.add(block.name)
        return done

    def _run_copy(self, block: Block) -> Block:
        """Do a block that another actor has in hand, unless it is done when this one has nothing else to do."""
        if block.skipped_by:
            return block
        with self._computing:
            # The block itself may be in this worker's hand: nothing is computed or committed here now.
            with self._committing:
                is_own = block.name in self._own
            if is_own or self._board.is_done(self.stage, block.name):
                return replace(block, skipped_by=(NEEDLESS,), decoded=None)
            done = self._run_noted(replace(block, name=name_of_copy(block.name)))
        return replace(done, name=block.name)


class RayBlockDecoder(RayBlockWorker[ModelInput, Any], BlockDecoder):
    """Decodes blocks for a ``RayBlockClassifier``, and says so: its copies are needless long before a block is back."""

    def _commit(self, block: Block, rows: pa.Table, result: Any, seconds: StageSeconds) -> Block:
        done = super()._commit(block, rows, result, seconds)
        self._board.note_done(self.stage, block.name)
        return done


class RayBlockClassifier(RayBlockWorker[ModelInput, R], BlockClassifier[R]):
    """Classifies and commits decoded blocks."""
