"""How many cores a process may use: affinity and the quotas of control groups, versions 1 and 2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import available_cores, available_memory, cores_in_words, cpu_quota
from imgcls_ray.workers.ray_cluster import check_local

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def cores_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.fixture
def process(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


def version_2(process: Path, path: str, quotas: dict[str, str], *, root: str = "/") -> None:
    """A cgroup2 hierarchy that shows ``root`` of the machine's; ``quotas`` by folder below the mount."""
    mount = process.parent / "cgroup"
    (process / "cgroup").write_text(f"0::{path}\n")
    (process / "mountinfo").write_text(
        f"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        f"30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    for folder, quota in quotas.items():
        (mount / folder).mkdir(parents=True, exist_ok=True)
        (mount / folder / "cpu.max").write_text(f"{quota}\n")


def version_1(process: Path, path: str, quotas: dict[str, tuple[int, int]], *, root: str, controllers: str) -> None:
    mount = process.parent / "cgroup" / controllers
    (process / "cgroup").write_text(f"4:memory:/elsewhere\n3:{controllers}:{path}\n1:cpuset:/\n0::/\n")
    (process / "mountinfo").write_text(
        f"31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        f"32 30 0:28 {root} {mount} rw master:9 - cgroup cgroup rw,{controllers}\n"
    )
    for folder, (quota, period) in quotas.items():
        (mount / folder).mkdir(parents=True, exist_ok=True)
        (mount / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (mount / folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("100000 100000", 1),
        ("400000 100000", 4),
        ("350000 100000", 3),  # cut, as Ray does
        ("20000 100000", 1),
        ("50000 10000", 5),
        ("9900000 100000", 64),
        ("max 100000", 64),
        ("", 64),
        ("nonsense", 64),
    ],
)
def test_the_quota_of_a_container_counts(process: Path, quota: str, cores: int) -> None:
    version_2(process, "/", {".": quota})
    assert available_cores(process) == cores


def test_the_lowest_quota_of_nested_groups_counts(process: Path) -> None:
    version_2(process, "/pod/job", {".": "max 100000", "pod": "300000 100000", "pod/job": "800000 100000"})
    assert available_cores(process) == 3
    version_2(process, "/pod/job", {"pod": "max 100000", "pod/job": "200000 100000"})
    assert available_cores(process) == 2


def test_a_group_that_is_named_from_outside_the_container_is_found(process: Path) -> None:
    version_2(process, "/docker/abc/job", {"job": "500000 100000", ".": "700000 100000"}, root="/docker/abc")
    assert available_cores(process) == 5


@pytest.mark.parametrize("path", ["/../other", "/docker/abcdef", "/elsewhere"])
def test_a_group_that_is_not_mounted_here_leaves_what_is(process: Path, path: str) -> None:
    version_2(process, path, {".": "700000 100000"}, root="/docker/abc")
    assert available_cores(process) == 7


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_version_1_counts_with_its_groups_around(process: Path, controllers: str) -> None:
    quotas = {".": (-1, 100_000), "docker": (-1, 100_000), "docker/abc": (150_000, 50_000)}
    version_1(process, "/docker/abc", quotas, root="/", controllers=controllers)
    assert available_cores(process) == 3


def test_version_1_without_a_namespace_is_found(process: Path) -> None:
    version_1(process, "/docker/abc", {".": (200_000, 100_000)}, root="/docker/abc", controllers="cpu,cpuacct")
    assert available_cores(process) == 2


def test_lines_that_cannot_be_read_cost_nothing(process: Path) -> None:
    """A mount without a source (``mount -t tmpfs "" x``), names that are not UTF-8, and whatever else comes."""
    version_2(process, "/pod", {"pod": "300000 100000"})
    odd = [b"36 35 0:30 / /a rw -  tmpfs  rw", b"37 35 0:31 / /b\xff rw - tmpfs tmpfs rw", b"nonsense", b"1 2 - x", b""]
    odd.append(b"38 35 0:32 / /c rw - tmpfs  rw")
    mounts = (process / "mountinfo").read_bytes()
    (process / "mountinfo").write_bytes(b"\n".join(odd) + b"\n" + mounts)
    (process / "cgroup").write_bytes(b"no colons\n5:pids:/\xff\n" + (process / "cgroup").read_bytes())
    assert available_cores(process) == 3


def test_affinity_counts_beside_the_quota(process: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_2(process, "/", {".": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert available_cores(process) == 2
    assert cores_in_words(process) == "this machine has 2"


def test_without_control_groups_affinity_is_all(process: Path) -> None:
    assert cpu_quota(process) is None
    assert available_cores(process) == 64


def test_the_quota_is_named_where_more_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls_ray.machine.cpu_quota", lambda _process: 4.5)
    with pytest.raises(
        ResourceError,
        match=r"num_workers=8 needs 8 CPUs, this container may use 4 \(its CPU quota is 4.5, of the machine's 64\); "
        "give fewer, or leave it out to use all of them",
    ):
        check_local(8, uses_gpus=False, num_gpus=0, gpu_ids=())


def memory_limits(process: Path, limits: dict[str, tuple[str, int, int]]) -> Path:
    """A cgroup2 hierarchy with limit, use and cached files of each folder, and a machine that has 10 GB left.

    Of the cached files, 100 bytes were read more than once, which the kernel counts apart.
    """
    version_2(process, "/pod/task", {})
    for folder, (limit, used, cached) in limits.items():
        place = process.parent / "cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text(
            f"anon 5\ninactive_file {max(0, cached - 100)}\nactive_file {min(100, cached)}\nactive_anon 7\n"
        )
    return machine_with_memory(process)


def machine_with_memory(process: Path) -> Path:
    meminfo = process / "meminfo"
    meminfo.write_text("MemTotal:  20000000 kB\nMemAvailable:   10000000 kB\n")
    return meminfo


def test_memory_is_what_the_machine_has_left(process: Path) -> None:
    assert available_memory(process, memory_limits(process, {})) == 10_000_000 * 1024
    meminfo = memory_limits(process, {"pod/task": ("max", 5, 5)})
    assert available_memory(process, meminfo) == 10_000_000 * 1024


def test_memory_is_what_the_tightest_group_leaves_and_cached_files_count_as_left(process: Path) -> None:
    meminfo = memory_limits(process, {"pod": ("4000", 3000, 500), "pod/task": ("3000", 1000, 0)})
    assert available_memory(process, meminfo) == 1500


def test_cached_files_count_as_left_in_the_first_version_of_groups(process: Path) -> None:
    version_1(process, "/pod", {}, root="/", controllers="memory")
    place = process.parent / "cgroup" / "memory" / "pod"
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").write_text("4000\n")
    (place / "memory.usage_in_bytes").write_text("3000\n")
    stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200\ntotal_active_anon 9\n"
    (place / "memory.stat").write_text(stat)
    assert available_memory(process, machine_with_memory(process)) == 1500


def test_a_group_above_its_limit_leaves_nothing(process: Path) -> None:
    assert available_memory(process, memory_limits(process, {"pod": ("4000", 5000, 0)})) == 0


def test_a_damaged_group_is_passed_over(process: Path) -> None:
    meminfo = memory_limits(process, {"pod": ("4000", 1000, 0)})
    (process.parent / "cgroup" / "pod" / "memory.current").write_text("nonsense")
    assert available_memory(process, meminfo) == 10_000_000 * 1024


def test_a_system_that_does_not_tell_its_memory(process: Path) -> None:
    assert available_memory(process, process / "no meminfo") is None
