"""Decoder processes of one replica, for every image that is not certain to be done in milliseconds.

An image cannot harm more than the process that decodes it: one that takes too long or crashes gets its code, and the
next image another process, forked in some 20 ms. What its caller no longer waits for is ended in the middle.

Two lanes. Large pictures share one process, which may take the memory of the largest picture, and decodes when nobody
else needs the cores; the others may take that of a picture at ``HEAVY_COST``. In both lanes requests take turns, so
that one of many images does not keep another waiting; a request that would wait too long is refused when it comes.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.cost import HEAVY_COST
from imgcls_ray.serve.decoders import serve_decoders, write_request, write_setup
from imgcls_ray.serve.errors import no_room
from imgcls_ray.serve.lanes import Lane, Work
from imgcls_ray.workers.child import ChildDiedError
from imgcls_ray.workers.decoding import error_of_death
from imgcls_ray.workers.forks import ForkServer, ForkServerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.workers.forks import Fork

logger = logging.getLogger(__name__)

_SERVER = (serve_decoders.__module__, serve_decoders.__name__)
# A decoder ends itself when an image has had its CPU time. This is for one that got no core for so many times as long,
# waits for something, or took its timer away.
_MAX_SLOWDOWN = 10
_SETUP_TIMEOUT_S = 60.0
# A decoder keeps its memory for the next image. After so long without one it gives way to a new process.
_KEEPS_MEMORY_S = 60.0
_RETRY_S = 1.0


class DecoderPool:
    """The decoder processes of a replica, and one thread for each that waits for its answers."""

    def __init__(
        self,
        *,
        num_processes: int,
        limits: DecodeLimits,
        max_images: int,
        max_bytes: int,
        finish: Callable[[Work, Any, float], None],
    ) -> None:
        """Start them, which takes seconds and delays nobody.

        Args:
            num_processes: for pictures that are not large; there is one more for those.
            limits: of every image; a process ends when one has taken ``timeout_s`` of CPU time.
            max_images: in a lane.
            max_bytes: encoded, in both together; a lane has half of them.
            finish: gets work, its result and how long it took, in a thread of the pool. The result is an ``ApiError``
                where the image is not to blame.
        """
        self.limits = limits
        self._max_images, self._max_bytes = max_images, max_bytes
        self._finish = finish
        self.light = Lane(num_processes, min(HEAVY_COST, limits.max_pixels))
        self.heavy = Lane(1, limits.max_pixels, is_background=True)
        self._condition = threading.Condition()
        self._server: ForkServer | None = None
        self._server_lock = threading.Lock()
        self._closed = threading.Event()
        lanes = [self.light] * num_processes + [self.heavy]
        self.threads = [
            threading.Thread(target=_Slot(self, lane).run, name=f"decoder-{i}", daemon=True)
            for i, lane in enumerate(lanes)
        ]
        self._asked: dict[Work, Fork] = {}
        for thread in self.threads:
            thread.start()

    @property
    def num_images(self) -> int:
        """Waiting or in work, without shadows."""
        with self._condition:
            return len(self.light) + len(self.heavy)

    @property
    def server_pid(self) -> int | None:
        """Of the process that the others are forked from; None before there is one."""
        return self._server.pid if self._server is not None else None

    def put(self, work: Work, *, is_heavy: bool) -> bool:
        """Take work in; False where there is no room, or it would wait for longer than one image may take."""
        lane = self.heavy if is_heavy else self.light
        with self._condition:
            # Large pictures may stand still for long: they take no room from the others.
            num_bytes = lane.num_bytes()
            has_room = len(lane) < self._max_images and (
                not num_bytes or num_bytes + len(work.data or b"") <= self._max_bytes // 2
            )
            # What one image may take is also what a request is willing to wait for its turn.
            if not work.is_shadow and not (has_room and lane.expected_wait_s(work.request) <= self.limits.timeout_s):
                return False
            lane.add(work)
            self._condition.notify_all()
        return True

    def give_up(self, work: Work) -> None:
        """Stop with work whose future is done, in the middle if need be. Never waits."""
        with self._condition:
            for lane in (self.light, self.heavy):
                lane.remove(work)
            if (fork := self._asked.get(work)) is not None:
                fork.interrupt()

    def close(self) -> None:
        """End the threads and all processes; what waits is not answered."""
        self._closed.set()
        with self._condition:
            self._condition.notify_all()
        # Without its lock: a thread that holds it may wait until the server has loaded everything.
        server = self._server
        if server is not None:
            server.close()
        with self._server_lock:
            if self._server is not None and self._server is not server:
                self._server.close()

    @property
    def is_open(self) -> bool:
        return not self._closed.is_set()

    def take(self, lane: Lane, timeout_s: float | None = None) -> Work | None:
        """The next work of a lane; None when the pool is closed, or nothing came in time."""
        with self._condition:
            work = self._condition.wait_for(lambda: not self.is_open or lane.take(), timeout_s)
        return work if isinstance(work, Work) else None

    def leave(self, lane: Lane, work: Work, result: object, seconds: float) -> None:
        with self._condition:
            lane.leave(work, seconds)
        self._finish(work, result, seconds)

    @contextmanager
    def asking(self, work: Work, fork: Fork) -> Iterator[None]:
        """While this lasts the caller's going away interrupts the process."""
        with self._condition:
            self._asked[work] = fork
        try:
            if work.future.done():
                fork.interrupt()
            yield
        finally:
            with self._condition:
                del self._asked[work]

    def new_decoder(self, lane: Lane) -> Fork | None:
        """A process that is ready to decode; None when the pool is closed."""
        while self.is_open:
            try:
                fork = self._running_server().fork()
                setup = write_setup(self.limits, max_pixels=lane.max_pixels, is_background=lane.is_background)
                fork.ask(setup, timeout_s=_SETUP_TIMEOUT_S, max_bytes=len(b"ready"))
            except (ChildDiedError, ForkServerDiedError, OSError) as error:
                if self.is_open:
                    logger.error("no decoder process came up: %s %s", type(error).__name__, error)
                    self._closed.wait(_RETRY_S)
            else:
                return fork
        return None

    def _running_server(self) -> ForkServer:
        with self._server_lock:
            if not self.is_open:
                raise ForkServerDiedError
            if self._server is not None and self._server.is_gone:
                logger.error("the process that decoder processes are forked from ended; another one is started")
                self._server.close()
                self._server = None
            if self._server is None:
                self._server = ForkServer(*_SERVER)
            return self._server


class _Slot:
    """One place for a process, whose thread sees to it that there is always one."""

    def __init__(self, pool: DecoderPool, lane: Lane) -> None:
        self._pool = pool
        self._lane = lane
        self._fork: Fork | None = None
        self._is_used = False

    def run(self) -> None:
        self._renew()
        while self._pool.is_open:
            work = self._pool.take(self._lane, _KEEPS_MEMORY_S if self._is_used else None)
            if work is None:
                self._drop()
            else:
                self._finish(work)
            self._renew()

    def _finish(self, work: Work) -> None:
        start = time.monotonic()
        try:
            result = self._do(work)
        except Exception:  # of which nobody thought: this image, and not the thread that others need
            logger.exception("decoding failed")
            result = ImageError(ImageErrorCode.DECODER_CRASHED)
            self._drop()
        if self._pool.is_open:
            self._pool.leave(self._lane, work, result, time.monotonic() - start)

    def _do(self, work: Work) -> object:
        limits = self._pool.limits
        for is_last in (False, True):
            # One that ended while it waited was not ended by the image that comes next.
            if self._fork is None or not self._fork.is_waiting():
                self._drop()
                self._renew()
            fork = self._fork
            if fork is None or work.data is None:
                break
            try:
                self._is_used = True
                with self._pool.asking(work, fork):
                    answer = fork.ask(
                        write_request(work.task),
                        work.data,
                        timeout_s=limits.timeout_s * (1 if work.is_shadow else _MAX_SLOWDOWN),
                        max_bytes=work.task.max_answer_bytes,
                    )
                return work.task.read_answer(answer)
            except ForkServerDiedError:
                self._fork = None
                continue
            except ChildDiedError as death:
                self._fork = None
                # From outside: the system that was short of memory, say. The image is not to blame if another process
                # can decode it.
                if death.return_code == -signal.SIGKILL and not is_last and not work.future.done():
                    continue
                return error_of_death(death, limits)
            except TimeoutError:
                self._fork = None
                return no_room()
        return ImageError(ImageErrorCode.DECODER_CRASHED)

    def _renew(self) -> None:
        if self._fork is None:
            self._fork = self._pool.new_decoder(self._lane)
            self._is_used = False

    def _drop(self) -> None:
        if self._fork is not None:
            with suppress(ForkServerDiedError, OSError):
                self._fork.end()
            self._fork = None
