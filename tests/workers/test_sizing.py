"""How many workers of how many cores have room, and what is refused."""

from __future__ import annotations

import pytest

from imgcls_ray.errors import ResourceError
from imgcls_ray.models.engines.memory import NetworkMemory
from imgcls_ray.workers.ray_cluster import WorkerPlan, fit_plan
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
    with pytest.raises(ResourceError, match="leave num_workers and cores_per_worker out, so that workers of several"):
        check_fits([NODE], LARGE, 16, 1, place="this machine")
    with pytest.raises(ResourceError, match=r"has 32\.0 GB left, and at most 16\.0 GB on one node"):
        check_fits([Room(8, 16 * GB)] * 2, LARGE, 2, 16, place="the Ray cluster")


def test_what_is_asked_for_is_planned_or_refused() -> None:
    def plan(num_workers: int | None, cores: int | None) -> WorkerPlan:
        return fit_plan(WorkerPlan(num_workers or 16), [NODE], LARGE, num_workers, cores, place="this machine")

    assert plan(None, None) == WorkerPlan(4, cores_per_worker=4, bytes_per_worker=LARGE.of(4))
    assert plan(None, 8) == WorkerPlan(2, cores_per_worker=8, bytes_per_worker=LARGE.of(8))
    assert plan(3, None) == WorkerPlan(3, cores_per_worker=1, bytes_per_worker=LARGE.of(1))
    with pytest.raises(ResourceError, match=r"16 workers of 1 core need 52\.0 GB"):
        plan(16, None)


def test_of_nodes_that_do_not_run_yet_nothing_is_refused() -> None:
    plan = fit_plan(WorkerPlan(64), None, LARGE, 64, 16, place="the Ray cluster")
    assert plan == WorkerPlan(64, cores_per_worker=16, bytes_per_worker=LARGE.of(16))
