"""Label a single unit without Ray, whose start would take longer, in a process that it may end without harm."""

from __future__ import annotations

import json
import pickle
import traceback
from functools import partial
from typing import TYPE_CHECKING

from imgcls_ray import errors
from imgcls_ray.errors import ImgclsError, JobFailedError
from imgcls_ray.workers.child import ChildDiedError, ChildProcess, answer_messages

if TYPE_CHECKING:
    import pyarrow as pa

    from imgcls_ray.predict.label import LabelTask
    from imgcls_ray.store.schema import Unit


def label_alone(task: LabelTask, unit: Unit, *, num_threads: int) -> pa.Table:
    """Label one unit in a process of its own. Returns its counts.

    Raises:
        ImgclsError: what the process said of its end; ``JobFailedError`` if it died again and again.
    """
    from imgcls_ray.predict.label import block_of_unit
    from imgcls_ray.workers.worker import MAX_DEATHS_OF_BLOCK, too_many_deaths

    deaths: list[ChildDiedError] = []
    while len(deaths) < MAX_DEATHS_OF_BLOCK:
        with ChildProcess(__name__, "serve_labelling") as child:
            try:
                answer = child.ask(pickle.dumps((task, unit, num_threads, len(deaths))))
            except ChildDiedError as death:
                deaths.append(death)
                continue
        return _read_answer(json.loads(answer))
    raise JobFailedError(f"{too_many_deaths(block_of_unit(unit).title, len(deaths))}; the last one: {deaths[-1]}")


def serve_labelling() -> None:
    """The process: one message, one unit."""
    answer_messages(_label)


def _label(message: bytes) -> bytes:
    from imgcls_ray.predict.label import LabelWork, block_of_unit
    from imgcls_ray.workers.worker import BlockWorker, NoBoard

    task, unit, num_threads, num_deaths = pickle.loads(message)
    try:
        make_work = partial(LabelWork, task, num_threads=num_threads)
        done = BlockWorker(make_work, NoBoard(num_deaths), lambda: "alone").run(block_of_unit(unit))
        return json.dumps({"counts": done.content.to_pylist()}).encode()
    except ImgclsError as error:
        return json.dumps({"error": type(error).__name__, "text": str(error)}).encode()
    except Exception:  # of which nobody thought: the parent shows it whole
        return json.dumps({"error": "", "text": traceback.format_exc()}).encode()


def _read_answer(answer: dict[str, object]) -> pa.Table:
    import pyarrow as pa

    if "counts" in answer:
        return pa.Table.from_pylist(answer["counts"])
    text = str(answer["text"])
    kind = getattr(errors, str(answer["error"]), None)
    raise kind(text) if isinstance(kind, type) and issubclass(kind, ImgclsError) else RuntimeError(text)
