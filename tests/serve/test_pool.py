"""Decoder processes: an image that ends one, or never lets it go, costs itself and nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from benchmarks import hostile_images as hostile
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.cost import HEAVY_COST, DecodeCost, decode_cost
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.classifier import decode_model_input
from imgcls_ray.serve import decoders, pipeline, pool
from imgcls_ray.serve.decoders import Decoding, Drawing
from imgcls_ray.serve.lanes import Work
from imgcls_ray.serve.pool import DecoderPool
from imgcls_ray.serve.priority import NICENESS
from imgcls_ray.workers import child, forks
from imgcls_ray.workers.child import ChildDiedError
from tests.images import bad_images as make
from tests.images import bombs
from tests.serve import bad_decoders
from tests.serve.bad_decoders import SERVER, order
from tests.serve.conftest import NUM_ENGINES, picture, wait_until
from tests.timing import TRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.classifier import ModelInput
    from tests.serve.conftest import Live

JPEG = picture(0)
TIFF = make.encode(make.slopes(60, 40), "TIFF")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders that obey ``order``."""
    monkeypatch.setattr(pool, "_SERVER", SERVER)


def ready(live: Live) -> Live:
    """When every process is there."""
    wait_until(lambda: len(forks_of(live)) == NUM_ENGINES + 1)
    assert live.classify(TIFF).status_code == 200
    return live


def server_of(live: Live) -> psutil.Process:
    pid = live.service.pipeline.pool.server_pid
    assert pid is not None
    return psutil.Process(pid)


def forks_of(live: Live) -> list[psutil.Process]:
    pid = live.service.pipeline.pool.server_pid
    return psutil.Process(pid).children() if pid is not None else []


def code_of(response: Any) -> str:
    return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])


# --- what an image does to its process -------------------------------------------------------------------------------


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize(("what", "code"), [("spin", "decode_timeout"), ("sleep", "overloaded")])
def test_a_decoder_that_is_stuck_is_ended_and_the_next_image_decoded(
    what: str, code: str, start: Callable[..., Live]
) -> None:
    """One that takes no time of a core may be kept from it: its image is not blamed."""
    live = ready(start(decode_timeout_s=0.3))
    server = server_of(live)
    started = time.monotonic()
    assert code_of(live.classify(order(what))) == code
    assert time.monotonic() - started >= (2.9 if what == "sleep" else 0.25)
    for _ in range(2 * NUM_ENGINES):
        assert code_of(live.classify(TIFF)) == "ok"
    assert server_of(live) == server


@pytest.mark.usefixtures("bad")
def test_while_a_decoder_holds_its_interpreter_others_are_answered(start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=3))

    async def ask() -> int:
        stuck = asyncio.gather(*(live.classifying(order("spin")) for _ in range(NUM_ENGINES)))
        num_answered = 0
        while not stuck.done():
            assert (await live.classifying(JPEG)).status_code == 200
            num_answered += 1
        assert {code_of(response) for response in await stuck} <= {"decode_timeout", "deadline_exceeded"}
        return num_answered

    assert live.run(ask()) > 30


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize("what", ["abort", "segfault", "exit", "hog", "promise", "nonsense"])
def test_a_decoder_that_ends_or_lies_costs_its_image_alone(what: str, start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=60))
    statuses = [
        result["status"] for result in live.classify_files(JPEG, TIFF, order(what), TIFF, JPEG).json()["results"]
    ]
    assert statuses == ["ok", "ok", "decoder_crashed", "ok", "ok"]
    assert code_of(live.classify(order(what))) == "decoder_crashed"
    assert code_of(live.classify(TIFF)) == "ok"


@pytest.mark.usefixtures("bad")
def test_a_decoder_that_takes_its_timer_away_is_ended_from_outside(start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=0.5))
    assert code_of(live.classify(order("disarm"))) == "overloaded"
    assert code_of(live.classify(TIFF)) == "ok"


@pytest.mark.usefixtures("bad")
def test_an_image_is_not_blamed_for_the_time_that_others_took(start: Callable[..., Live]) -> None:
    """What counts is CPU time: this one needs none for longer than its limit, and is decoded then."""
    live = ready(start(decode_timeout_s=0.5))
    assert code_of(live.classify(order("nap", TIFF))) == "ok"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="a class of scheduling of Linux")
def test_only_large_pictures_are_decoded_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a session of its own, or Linux gives the whole session of the service turns of up to a second."""
    monkeypatch.setattr(forks, "start_python", child.start_python)
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        asked.do(TIFF)
        wait_until(lambda: len(asked.server.children()) == 2)
        pids = [process.pid for process in asked.server.children()]
        # What gets ready is waited for: it gives way from its first image on.
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_OTHER}
        asked.wait(asked.put(TIFF, is_heavy=True))
        background = [pid for pid in pids if os.sched_getscheduler(pid) == os.SCHED_IDLE]
        assert len(background) == 1
        assert [pid for pid in pids if os.getsid(pid) != os.getsid(0)] == background
        autogroup = Path(f"/proc/{background[0]}/autogroup")
        if autogroup.exists():
            assert autogroup.read_text().split()[-1] == "19"


def test_the_system_is_asked_again_where_it_takes_an_order_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ordinary users Linux takes one such order in 100 ms, whoever gave the last one: EAGAIN."""
    answers: list[type[OSError] | None] = [BlockingIOError, BlockingIOError, None]
    written = []

    def write(_path: Path, text: str) -> None:
        if (error := answers.pop(0)) is not None:
            raise error
        written.append(text)

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    decoders._set_autogroup(19)
    assert (written, answers) == (["19"], [])


def test_a_picture_that_takes_more_memory_than_its_lane_has_is_refused_alone() -> None:
    """The process holds what the largest picture of its lane takes, whatever a file makes of it."""
    bomb = hostile.tiff_giant_tile(24_000)  # 1.7 GB of one tile, 1.7 MB of file
    assert not decode_cost(bomb).is_ordinary
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        assert asked.do(bomb).code in (
            ImageErrorCode.DECODER_CRASHED,
            ImageErrorCode.CORRUPT,
            ImageErrorCode.TOO_MANY_PIXELS,
        )
        assert not isinstance(asked.do(TIFF), ImageError)


@pytest.mark.parametrize(
    "content",
    [
        hostile.tiff_strips(20_000),
        hostile.tiff_tiles(800, 800),
        hostile.tiff_giant_tile(2000),
        hostile.tiff_tags(200, 1000),
        hostile.bmp_runs(300, 300),
        hostile.gif_comments(20_000),
        hostile.gif_sub_blocks(20_000),
        bombs.box_file("AVIF") + bombs.boxes(5000),
    ],
    ids=["strips", "tiles", "large tile", "tags", "runs", "comments", "blocks", "boxes"],
)
def test_a_hostile_file_goes_to_a_process(content: bytes, monkeypatch: pytest.MonkeyPatch, live: Live) -> None:
    def never(*_args: object) -> None:
        pytest.fail("it was decoded in a thread")

    monkeypatch.setattr(decoders, "decode_model_input", never)
    assert live.classify(content).status_code in (200, 422)


def test_the_pixels_are_those_of_a_thread() -> None:
    limits, task = DecodeLimits(), Decoding(Preprocess())
    with Decoders(limits) as asked:
        for image_format in ("TIFF", "GIF", "AVIF", "BMP", "PNG", "JPEG"):
            content = make.encode(make.slopes(300, 200), image_format)
            here, there = decode_model_input(content, task.preprocess, limits), asked.do(content)
            assert not isinstance(here, ImageError)
            assert (there.width, there.height) == (here.width, here.height) == (300, 200)
            assert np.array_equal(there.pixels, here.pixels)
        drawing = Drawing(("a cat 0.98", "\u732b 0.01"))
        assert asked.do(TIFF, drawing) == drawing(TIFF, limits)
        assert asked.do(b"II*\0", drawing).code is ImageErrorCode.TRUNCATED


# --- the processes themselves ----------------------------------------------------------------------------------------


class Decoders:
    """A pool without a service around it, which obeys ``order``."""

    def __init__(self, limits: DecodeLimits, **options: Any) -> None:
        self.results: list[tuple[Work, Any]] = []
        told = {"num_processes": 1, "max_images": 64, "max_bytes": 2**30, **options}
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(pool, "_SERVER", SERVER)
        self.pool = DecoderPool(limits=limits, finish=lambda *result: self.results.append(result[:2]), **told)
        wait_until(lambda: self.pool.server_pid is not None)
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.loop.close()
        self._patch.undo()

    def put(self, data: bytes, task: Decoding | Drawing | None = None, *, is_heavy: bool = False) -> Work:
        work = Work(data, task or Decoding(Preprocess()), self.loop.create_future(), object())
        assert self.pool.put(work, is_heavy=is_heavy)
        return work

    def wait(self, work: Work) -> Any:
        wait_until(lambda: any(done is work for done, _ in self.results))
        return next(result for done, result in self.results if done is work)

    def do(self, data: bytes, task: Decoding | Drawing | None = None) -> Any:
        return self.wait(self.put(data, task))

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(self.pool.server_pid)

    def decoders(self) -> list[psutil.Process]:
        processes: list[psutil.Process] = self.server.children()
        return processes


def _private_bytes(process: psutil.Process) -> int:
    """What it does not share with its parent."""
    return int(process.memory_full_info().uss)


def test_after_many_deaths_there_are_as_many_processes_and_files_as_before() -> None:
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        assert asked.do(order("exit")).code is ImageErrorCode.DECODER_CRASHED
        asked.do(TIFF)
        wait_until(lambda: len(asked.server.children()) == 2)
        before = psutil.Process().num_fds(), asked.server.num_fds()
        for _ in range(100):
            assert asked.do(order("exit")).code is ImageErrorCode.DECODER_CRASHED
        asked.do(TIFF)
        wait_until(lambda: len(asked.server.children()) == 2)
        assert (psutil.Process().num_fds(), asked.server.num_fds()) == before
        assert psutil.STATUS_ZOMBIE not in {child.status() for child in asked.server.children()}


def test_a_process_that_is_slow_to_end_keeps_nobody_from_the_server() -> None:
    """One that has gigabytes to give back, and gives way to everybody, takes seconds on a busy machine."""
    server = forks.ForkServer(bad_decoders.__name__, bad_decoders.serve_slow_deaths.__name__)
    try:
        slow = server.fork()
        ends = threading.Thread(target=slow.end, daemon=True)
        ends.start()
        time.sleep(0.2)
        started = time.monotonic()
        server.fork()
        assert time.monotonic() - started < bad_decoders.SLOW_DEATH_S / 2
        assert ends.is_alive()
        ends.join(30)
        assert not ends.is_alive()
        assert slow.pid not in [child.pid for child in psutil.Process(server.pid).children()]
    finally:
        server.close()


def test_a_decoder_keeps_its_memory_for_the_next_image_until_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other process of the machine waits while a gigabyte is given back and taken again."""
    monkeypatch.setattr(pool, "_KEEPS_MEMORY_S", 1.0)
    large = make.encode(np.zeros((3000, 4000, 3), np.uint8), "TIFF")
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        wait_until(lambda: len(asked.decoders()) == 2)
        unused = asked.decoders()
        # Longer than a process without work that has done some may stay.
        time.sleep(1.5)
        assert asked.decoders() == unused

        def decode_large() -> psutil.Process | None:
            asked.do(large)
            asked.do(TIFF)
            return next((it for it in asked.decoders() if _private_bytes(it) > 2 * len(large)), None)

        # On a busy machine a second may pass before it is looked at.
        used = next(found for _ in range(TRIES) if (found := decode_large()))
        wait_until(lambda: len(asked.decoders()) == 2 and used not in asked.decoders())
        assert max(map(_private_bytes, asked.decoders())) < len(large) / 2
        assert asked.do(large).width == 4000


def test_the_server_has_one_thread_and_gives_way() -> None:
    """One of more threads must not fork."""
    with Decoders(DecodeLimits()) as asked:
        asked.do(TIFF)
        assert asked.server.num_threads() == 1
        assert {process.nice() for process in (asked.server, *asked.server.children())} == {NICENESS}


def test_a_server_that_ends_is_replaced_and_no_image_is_blamed() -> None:
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        asked.do(TIFF)
        first = asked.server
        work = asked.put(order("nap", TIFF))
        wait_until(lambda: any(done is work for done in asked.pool.light.running))
        first.kill()
        assert asked.wait(work).width == 60
        assert asked.server != first


def test_a_decoder_that_ends_while_it_waits_is_nobodys_fault() -> None:
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        asked.do(TIFF)
        wait_until(lambda: len(asked.server.children()) == 2)
        for process in asked.server.children():
            process.kill()
        wait_until(lambda: all(p.status() == psutil.STATUS_ZOMBIE for p in asked.server.children()))
        assert asked.do(TIFF).width == 60


def test_an_image_whose_decoder_was_killed_from_outside_gets_another_one() -> None:
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        asked.do(TIFF)
        wait_until(lambda: len(asked.server.children()) == 2)
        decoders = asked.server.children()
        work = asked.put(order("nap", TIFF))
        wait_until(lambda: any(done is work for done in asked.pool.light.running))
        for process in decoders:
            process.kill()
        assert asked.wait(work).width == 60


def test_a_pool_that_is_closed_leaves_no_process_and_no_thread() -> None:
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        asked.do(TIFF)
        asked.put(order("spin"))
        asked.put(order("spin"), is_heavy=True)
        processes = [asked.server, *asked.server.children()]
    wait_until(lambda: not any(_runs(process) for process in processes))
    wait_until(lambda: not any(thread.is_alive() for thread in asked.pool.threads))


def test_a_pool_that_is_closed_at_once_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    with Decoders(DecodeLimits()) as asked:
        pass
    assert set(psutil.Process().children()) == before
    wait_until(lambda: not any(thread.is_alive() for thread in asked.pool.threads))


_REPLICA = """if True:
    import asyncio, time
    import psutil
    from tests.serve.test_pool import DecodeLimits, Decoders, TIFF, order
    asked = Decoders(DecodeLimits(timeout_s=3600))
    asked.do(TIFF)
    asked.put(order("spin"))
    asked.put(order("spin"), is_heavy=True)
    while len(asked.pool.light.running) + len(asked.pool.heavy.running) < 2: time.sleep(0.01)
    time.sleep(0.2)
    print(*(p.pid for p in (asked.server, *asked.server.children())), flush=True)
    time.sleep(3600)
    """


@pytest.mark.parametrize("victim", ["replica", "server"])
def test_a_killed_replica_or_server_leaves_no_process(victim: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", _REPLICA], stdout=subprocess.PIPE, env=environment) as replica:
        assert replica.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in replica.stdout.readline().split()]
        assert len(processes) == 3
        if victim == "server":
            processes[0].kill()
            wait_until(lambda: not any(_runs(process) for process in processes))
        replica.kill()
    wait_until(lambda: not any(_runs(process) for process in processes))


def _runs(process: psutil.Process) -> bool:
    """A container's first process may not wait for orphans."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_fork_that_is_interrupted_is_ended() -> None:
    server = forks.ForkServer(*SERVER)
    try:
        fork = server.fork()
        fork.interrupt()
        with pytest.raises(ChildDiedError) as raised:
            fork.ask(b"", timeout_s=60, max_bytes=10)
        assert raised.value.return_code in (0, -signal.SIGKILL)
        assert not fork.is_waiting()
    finally:
        server.close()
    with pytest.raises(forks.ForkServerDiedError):
        server.fork()


# --- whose turn it is ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bad")
def test_an_image_that_nobody_waits_for_is_ended_in_the_middle(start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=600, request_timeout_s=600))

    async def ask() -> None:
        asked = [asyncio.create_task(live.classifying(order("spin"))) for _ in range(NUM_ENGINES)]
        while len(live.service.pipeline.pool.light.running) < NUM_ENGINES:
            await asyncio.sleep(0.01)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    live.run(ask())
    assert code_of(live.classify(TIFF)) == "ok"
    live.wait_until_empty()


@pytest.mark.usefixtures("bad")
def test_who_waits_too_long_for_his_turn_is_not_blamed(start: Callable[..., Live]) -> None:
    """Others' files take the processes: those behind get 503 at once or 504 at their deadline, whole requests."""
    live = ready(start(decode_timeout_s=1, request_timeout_s=3))

    async def ask() -> list[Any]:
        bad = [asyncio.create_task(live.classifying(order("sleep"))) for _ in range(12)]
        await asyncio.sleep(0)
        good = []
        while not all(task.done() for task in bad):
            files = [("files", ("a.jpg", JPEG)), ("files", ("b.tif", TIFF))]
            good.append(await live.client.post("/v1/classify", files=files))
            await asyncio.sleep(0.05)
        assert {code_of(await task) for task in bad} <= {"decode_timeout", "overloaded", "deadline_exceeded"}
        return good

    answers = live.run(ask())
    assert {code_of(response) for response in answers} <= {"ok", "overloaded", "deadline_exceeded"}
    assert "deadline_exceeded" in {code_of(response) for response in answers}
    for response in answers:
        if response.status_code == 200:
            assert [result["status"] for result in response.json()["results"]] == ["ok", "ok"]
        elif response.status_code == 503:
            assert response.headers["retry-after"] == "1"
    live.wait_until_empty()
    assert code_of(live.classify(TIFF)) == "ok"


@pytest.mark.usefixtures("bad")
def test_images_that_wait_for_processes_take_no_room_from_ordinary_ones(start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=600, request_timeout_s=600, max_queued_images=8, max_images_per_request=8))

    async def ask() -> None:
        flood = [asyncio.create_task(live.classifying(order("sleep"))) for _ in range(40)]
        while len(live.service.pipeline.pool.light) < 8:
            await asyncio.sleep(0.01)
        for _ in range(10):
            assert (await live.classifying(JPEG)).status_code == 200
        refused = [task for task in flood if task.done()]
        assert len(refused) >= 20
        assert {code_of(await task) for task in refused} == {"overloaded"}
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    live.run(ask())
    live.wait_until_empty()
    assert code_of(live.classify_files(*[TIFF] * 8)) == "ok"


@pytest.mark.usefixtures("bad")
def test_bytes_that_wait_for_processes_are_at_most_a_quarter_of_all(start: Callable[..., Live]) -> None:
    live = ready(start(decode_timeout_s=600, request_timeout_s=600, max_request_bytes=60_000, max_queued_bytes=200_000))

    async def ask() -> None:
        first = asyncio.create_task(live.classifying(order("sleep", bytes(40_000))))
        while not live.service.pipeline.pool.num_images:
            await asyncio.sleep(0.01)
        assert code_of(await live.classifying(order("sleep", bytes(20_000)))) == "overloaded"
        assert code_of(await live.classifying(TIFF[:5000])) != "overloaded"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    live.run(ask())
    assert code_of(live.classify(TIFF + bytes(50_000))) == "ok"


@pytest.mark.usefixtures("bad")
def test_large_pictures_do_not_keep_others_waiting(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Live]) -> None:
    def cost(data: bytes) -> DecodeCost:
        return DecodeCost(HEAVY_COST + 1 if b"sleep" in data[:20] else 1, is_ordinary=False)

    monkeypatch.setattr(pipeline, "decode_cost", cost)
    live = ready(start(decode_timeout_s=600, request_timeout_s=600))

    async def ask() -> None:
        flood = [asyncio.create_task(live.classifying(order("sleep"))) for _ in range(20)]
        while len(live.service.pipeline.pool.heavy) < 20:
            await asyncio.sleep(0.01)
        for _ in range(10):
            assert (await live.classifying(TIFF)).status_code == 200
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    live.run(ask())
    live.wait_until_empty()


def test_bytes_of_large_pictures_take_no_room_from_the_others() -> None:
    with Decoders(DecodeLimits(timeout_s=600), max_bytes=100_000) as asked:
        asked.put(order("sleep", bytes(45_000)), is_heavy=True)
        too_many = Work(bytes(10_000), Decoding(Preprocess()), asked.loop.create_future(), object())
        assert not asked.pool.put(too_many, is_heavy=True)
        assert asked.do(TIFF).width == 60


# --- threads, which cannot be ended ----------------------------------------------------------------------------------


def test_a_replica_whose_threads_are_all_stuck_answers_and_is_healthy(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Live]
) -> None:
    from imgcls_ray.serve.deployment import Classifier

    stuck = [picture(20 + i) for i in range(2 * NUM_ENGINES)]
    go_on = threading.Event()

    def decode(data: bytes, preprocess: Preprocess, limits: DecodeLimits) -> ModelInput | ImageError:
        if data in stuck:
            go_on.wait(60)
        return decode_model_input(data, preprocess, limits)

    monkeypatch.setattr(decoders, "decode_model_input", decode)
    live = ready(start(decode_timeout_s=1))
    line = live.service.pipeline
    try:
        for content in stuck[:NUM_ENGINES]:
            assert code_of(live.classify(content)) == "decode_timeout"
        assert line.num_stuck == NUM_ENGINES
        # From here on processes decode all.
        for content in (*stuck[NUM_ENGINES:], JPEG, TIFF):
            assert code_of(live.classify(content)) == "ok"
        assert line.num_stuck == NUM_ENGINES
        told: list[int] = []
        monkeypatch.setattr(live.service.metrics, "stuck", told.append)
        replica = SimpleNamespace(
            _service=live.service, _app=live.app, _last_good=SimpleNamespace(write=lambda _: None)
        )
        deployment: Any = Classifier
        deployment.func_or_class.check_health(replica)
        assert told == [NUM_ENGINES]
    finally:
        go_on.set()
    wait_until(lambda: line.num_stuck == 0)
    assert code_of(live.classify(JPEG)) == "ok"


def test_large_messages_leave_nothing_of_the_one_before() -> None:
    """They lie in memory that is used again: a smaller file gets none of a larger one's bytes."""
    sizes = [(600, 500), (200, 150), (2400, 1500), (600, 500), (61, 40)]
    contents = [make.encode(make.slopes(*size), "BMP") for size in sizes]
    with Decoders(DecodeLimits(timeout_s=60)) as asked:
        results = [asked.do(content) for content in contents]
    assert [(result.width, result.height) for result in results] == sizes
    for content, result in zip(contents, results, strict=True):
        expected = decode_model_input(content, Preprocess(), DecodeLimits())
        assert not isinstance(expected, ImageError)
        assert np.array_equal(result.pixels, expected.pixels)
