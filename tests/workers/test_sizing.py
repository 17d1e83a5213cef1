"""How many workers of how many cores have room, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from imgcls_ray.errors import ResourceError
from imgcls_ray.models.engines.memory import NetworkMemory
from imgcls_ray.workers.plan import WorkerPlan, choose_plan, within
from imgcls_ray.workers.sizing import Room, WorkerMemory, check_fits, choose_cores, num_fitting

GB = 10**9
SMALL = WorkerMemory(NetworkMemory(once=GB // 20, per_core=GB // 10), rest=GB // 4)
LARGE = WorkerMemory(NetworkMemory(once=2 * GB, per_core=GB), rest=GB // 4)
NODE = Room(16, 32 * GB)


def test_a_small_network_is_in_memory_once_for_each_core() -> None:
    assert choose_cores([NODE], SMALL) == 1
    assert num_fitting([NODE], SMALL, 1) == 16


def test_a_large_network_is_shared_by_as_few_cores_as_keep_all_at_work() -> None:
    # Sixteen copies would take 52 GB, eight for two cores 34 GB, and five for three cores leave a core idle.
    assert choose_cores([NODE], LARGE) == 4
    assert num_fitting([NODE], LARGE, 4) == 4


def test_cores_stay_idle_where_not_even_one_worker_has_room_for_all() -> None:
    room = Room(16, 10 * GB)
    cores = choose_cores([room], LARGE)
    assert (cores, num_fitting([room], LARGE, cores)) == (7, 1)


def test_nodes_are_filled_one_by_one() -> None:
    rooms = [Room(4, 5 * GB), Room(4, 50 * GB)]
    # One worker of one core beside four of them would be five cores, and three workers of two cores are six.
    assert choose_cores(rooms, LARGE) == 2
    assert num_fitting(rooms, LARGE, 2) == 1 + 2


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(ResourceError) as refused:
        check_fits([Room(16, 3 * GB)], LARGE, 1, 1, place="this machine")
    assert str(refused.value) == (
        "1 worker of 1 core needs 3.2 GB of memory (2.2 GB for each worker and 1.0 GB for each of its cores), this "
        "machine has 3.0 GB left; give a smaller batch_size or a smaller network, or use a machine with more memory"
    )
    with pytest.raises(ResourceError, match="smaller cores_per_worker, or a smaller batch_size"):
        check_fits([Room(16, 4 * GB)], LARGE, 1, 4, place="this machine")
    with pytest.raises(ResourceError, match="leave their number and cores_per_worker out, so that workers of several"):
        check_fits([NODE], LARGE, 16, 1, place="this machine")
    with pytest.raises(ResourceError, match=r"has 32\.0 GB left, and at most 16\.0 GB on one node"):
        check_fits([Room(8, 16 * GB)] * 2, LARGE, 2, 16, place="the Ray cluster")


def plan(*rooms: Room, memory: WorkerMemory | None = LARGE, **asked: Any) -> WorkerPlan:
    return choose_plan(rooms, memory, place="this machine", **asked)


def test_what_is_asked_for_is_planned_or_refused() -> None:
    assert plan(NODE) == WorkerPlan(4, cores_per_worker=4, bytes_per_worker=LARGE.of(4))
    assert plan(NODE, cores_per_worker=8) == WorkerPlan(2, cores_per_worker=8, bytes_per_worker=LARGE.of(8))
    assert plan(NODE, num_workers=3) == WorkerPlan(3, cores_per_worker=1, bytes_per_worker=LARGE.of(1))
    with pytest.raises(ResourceError, match=r"16 workers of 1 core need 48\.0 GB"):
        plan(NODE, num_workers=16)


def test_margins_choose_the_number_and_refuse_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # 100 MB of network in a container of 1 GiB, in which it worked before anybody estimated anything.
    container = Room(4, 900_000_000, kept_bytes=GB // 2)
    network = SMALL.network
    roomy = plan(Room(4, 2 * GB, kept_bytes=GB // 2), memory=SMALL)
    assert roomy == WorkerPlan(2, cores_per_worker=2, bytes_per_worker=SMALL.of(2))
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, logger="imgcls_ray"):
        small = SMALL._replace(rest=3 * GB // 4)
        assert plan(container, memory=small) == WorkerPlan(1, bytes_per_worker=network.of_worker(1))
        assert plan(container, memory=small, num_workers=4) == WorkerPlan(4, bytes_per_worker=network.of_worker(1))
    assert caplog.messages == [
        "this machine may run out of memory: it has 0.9 GB left, of which 0.5 GB should stay free, "
        "and 1 worker of 1 core should have 0.9 GB",
        "this machine may run out of memory: it has 0.9 GB left, of which 0.5 GB should stay free, "
        "and 4 workers of 1 core should have 3.6 GB",
    ]


def test_only_what_the_networks_alone_exceed_is_refused() -> None:
    room = Room(4, 3 * GB, kept_bytes=2 * GB)
    assert plan(room) == WorkerPlan(1, bytes_per_worker=3 * GB)
    with pytest.raises(ResourceError, match=r"1 worker of 1 core needs 3\.0 GB .*, this machine has 3\.0 GB left"):
        plan(room._replace(num_bytes=3 * GB - 1))


def test_the_smallest_number_of_workers_is_checked_as_if_it_were_asked_for() -> None:
    # Room for two workers of one core; workers of two cores would be four on eight of four cores.
    room = Room(4, 7 * GB)
    assert choose_cores([room], LARGE) == 4
    assert plan(room, limits=(2, None)) == WorkerPlan(2, cores_per_worker=1, bytes_per_worker=LARGE.of(1))
    with pytest.raises(ResourceError, match=r"4 workers of 1 core need 12\.0 GB"):
        plan(room, limits=(4, None))
    assert plan(NODE, limits=(5, 6)).num_cpu_workers == 5
    assert plan(NODE, limits=(None, 2)).num_cpu_workers == 2


def test_without_known_memory_cores_and_limits_choose() -> None:
    nodes = [Room(3, 0)] * 4
    assert plan(*nodes, memory=None, cores_per_worker=2) == WorkerPlan(4, cores_per_worker=2)
    assert plan(Room(16, 0), memory=None, cores_per_worker=4, limits=(None, 2)) == WorkerPlan(2, cores_per_worker=4)
    assert plan(Room(16, 0), memory=None) == WorkerPlan(16)


def test_where_machines_may_come_nothing_is_refused() -> None:
    waiting: dict[str, Any] = {"num_workers": 64, "cores_per_worker": 16, "may_wait": True}
    expected = WorkerPlan(64, cores_per_worker=16, bytes_per_worker=LARGE.of(16))
    assert plan(**waiting) == plan(Room(2, GB), **waiting) == expected
    # Those that can run as they should do so. Where none can, what worked before still does.
    assert plan(Room(1, 3 * GB), num_workers=4, may_wait=True).bytes_per_worker == LARGE.network.of_worker(1)
    assert plan(Room(1, 4 * GB), num_workers=4, may_wait=True).bytes_per_worker == LARGE.of(1)


def test_a_number_of_workers_is_held_between_its_limits() -> None:
    assert [within(4, *limits) for limits in [(None, None), (6, None), (None, 2), (6, 8), (1, 4)]] == [4, 6, 2, 6, 4]
