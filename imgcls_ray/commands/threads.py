"""How threads of torch wait for each other."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Let torch's threads sleep while they wait for each other, and not spin, where the environment does not say.

    A step on a few images is hundreds of short waits. With loading processes on the same cores, the thread that is
    waited for gets no core while the others spin.

    To be called before torch is imported. Processes that are started from this one do so, too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
