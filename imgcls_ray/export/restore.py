"""Quantize with accuracy control, in a process of its own.

Accuracy control compiles hundreds of networks that NNCF has put together, which no other user of OpenVINO does: a crash
in there must cost the attempt, and not the command.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.export.quantize import Control, quantize_network
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.workers.child import ChildDiedError, ChildProcess, answer_messages, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence


class NotRestoredError(Exception):
    """Accuracy control failed; the network's files are no good."""


def quantize_with_control(
    path: Path, images: Sequence[np.ndarray], preprocess: Preprocess, *, has_attention: bool, control: Control
) -> None:
    """``quantize_network`` in another process.

    Raises:
        NotRestoredError: it failed there, or died.
    """
    with scratch_folder("quantize") as scratch, ChildProcess(__name__, "serve_quantizing") as child:
        pixels = Path(scratch) / "images.npy"
        np.save(pixels, np.stack(images))
        request = {
            "path": str(path),
            "images": str(pixels),
            "preprocess": asdict(preprocess),
            "has_attention": has_attention,
            "control": control._asdict(),
        }
        try:
            failure = child.ask(json.dumps(request).encode()).decode()
        except ChildDiedError as error:
            raise NotRestoredError(f"the process that compiled its networks died: {error}") from error
    if failure:
        raise NotRestoredError(failure)


def serve_quantizing() -> None:
    """The other process. It ends with the command: in the middle of its work it would not see that nobody waits."""
    end_with_parent(signal.SIGKILL)
    answer_messages(_quantize)


def _quantize(message: bytes) -> bytes:
    """The reason why it failed; nothing if it did not."""
    from imgcls_ray.export.network import quietly

    request = json.loads(message)
    try:
        with quietly():
            quantize_network(
                Path(request["path"]),
                list(np.load(request["images"], mmap_mode="r")),
                Preprocess(**request["preprocess"]),
                has_attention=request["has_attention"],
                control=Control(**request["control"]),
            )
    # NNCF fails with anything.
    except Exception as error:
        return (str(error).strip().partition("\n")[0][:300] or type(error).__name__).encode()
    return b""
