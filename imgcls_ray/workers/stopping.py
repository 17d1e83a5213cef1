"""Stop on request: the first signal lets the work in hand end, the second one, or the end of the grace, does not."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from imgcls_ray.errors import JobFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NUDGE_S = 2.0


class GracefulStop:
    """While this is entered, SIGINT and SIGTERM ask for a stop instead of raising ``KeyboardInterrupt``.

    That is raised in the main thread by a second signal and at the end of the grace. Entered in another thread, where
    no signal arrives, it does nothing.

    Args:
        grace_s: time for the work in hand after the first signal, seconds.
        tell_workers: called once, in a thread of its own, at the first signal. It may hang or fail, as it will where
            the workers got the signal too.
    """

    def __init__(self, grace_s: float, tell_workers: Callable[[], None]) -> None:
        self.requested = False
        self._grace_s, self._tell_workers = grace_s, tell_workers
        # The only queue that a signal handler may use: it may have interrupted its own put.
        self._events: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
            threading.Thread(target=self._watch, name="graceful-stop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.put(False)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._events.put(True)

    def _watch(self) -> None:
        if not self._events.get():
            return
        logger.info(
            "stopping: running work has %g s to finish; a second signal (Ctrl-C) stops it at once", self._grace_s
        )
        threading.Thread(target=self._tell, name="tell-workers", daemon=True).start()
        wait_s = self._grace_s
        while True:
            try:
                self._events.get(timeout=wait_s)
                return
            except queue.Empty:
                # Sent to that very thread, so that whatever it waits in is interrupted; and again, because one that
                # comes just before a wait interrupts nothing.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                wait_s = _NUDGE_S

    def _tell(self) -> None:
        with suppress(Exception):
            self._tell_workers()


@contextmanager
def interrupt_on_stop(grace_s: float, tell_workers: Callable[[], None]) -> Iterator[None]:
    """A ``GracefulStop`` for work that a stop leaves incomplete, however far it came.

    Raises:
        KeyboardInterrupt: a stop was asked for.
    """
    stop = GracefulStop(grace_s, tell_workers)
    try:
        with stop:
            yield
    except JobFailedError as error:
        # A Ctrl-C at a terminal, and a service manager, stop Ray's processes too: what breaks then is the stop.
        if not stop.requested:
            raise
        raise KeyboardInterrupt from error
    if stop.requested:
        raise KeyboardInterrupt
