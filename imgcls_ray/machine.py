"""What this process may use of its machine.

Everything that counts cores asks here. A container sees all cores of its machine, and is stopped for the rest of each
tenth of a second once it has used its quota: as many workers as the machine has cores would only wait for one another.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SELF = Path("/proc/self")
_FAST_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")


def available_cores(process: Path = _SELF) -> int:
    """Cores that this process may use: its affinity, which follows cpusets, and the CPU quota of its cgroups.

    A quota is cut to whole cores, at least one, as Ray does with the quota that it looks at.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(process)
    return cores if quota is None else max(1, min(cores, int(quota)))


def available_memory(process: Path = _SELF, meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that this process and its children may still take: what the machine has left, and what its cgroups leave.

    What only keeps files for the next reader counts as left, also if they were read more than once: the kernel drops
    them before it stops anybody. None on systems that do not tell, which are all but Linux.
    """
    left = [int(line.split()[1]) * 1024 for line in _lines(meminfo) if line.startswith("MemAvailable:")]
    if not left:
        return None
    left += [room for folder in _cgroups(process, "memory") if (room := _room_of(folder)) is not None]
    return min(left)


def may_have_gpus(devices: Path = Path("/dev")) -> bool:
    """Whether this process may have a CUDA GPU: what the kernel shows of one, which costs nothing to look at.

    CUDA itself, which alone knows whether it works, takes seconds to load: no machine without a GPU should pay that.

    Args:
        devices: with ``nvidia0`` and on, or ``dxg`` under Windows.
    """
    # CUDA stops reading this at the first entry that is none: "" and "-1" hide all GPUs.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip().split(",")[0].strip() in ("", "-1"):
        return False
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


def has_fast_int8(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether the processor has instructions that make networks of 8 bits faster: VNNI or AMX.

    Without them, OpenVINO runs such a network no faster than the original, and sums in 16 bits may overflow. None where
    the processor is not an x86 one, whose ``flags`` these are, and on systems that do not tell.
    """
    found = _flags(cpuinfo, "flags")
    return None if found is None else not _FAST_INT8_FLAGS.isdisjoint(found)


def processor_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """What the kernel says that the processor can do; empty on systems that do not tell."""
    # Arm's kernels call them so.
    return _flags(cpuinfo, "flags|Features") or frozenset()


def _flags(cpuinfo: Path, names: str) -> frozenset[str] | None:
    """Those of the first processor, in a line of one of the names; None if there is none."""
    told = (line.split(":", 1)[1].split() for line in _lines(cpuinfo) if re.match(rf"({names})\s*:", line))
    return next(map(frozenset, told), None)


def cores_in_words(process: Path = _SELF) -> str:
    """For people: how many cores there are, and what keeps the process from the others."""
    cores, quota = available_cores(process), cpu_quota(process)
    if quota is not None and cores < len(os.sched_getaffinity(0)):
        return f"this container may use {cores} (its CPU quota is {quota:g}, of the machine's {os.cpu_count()})"
    return f"this machine has {cores}"


def cpu_quota(process: Path = _SELF) -> float | None:
    """The lowest CPU quota of the process' cgroup and of those around it, in cores; ``None`` without one.

    Args:
        process: its folder under ``/proc``, with ``cgroup`` and ``mountinfo``.
    """
    quotas = [quota for folder in _cgroups(process, "cpu") if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _cgroups(process: Path, controller: str) -> Iterator[Path]:
    """The folders of the process' cgroup and of those around it, in version 2 and in version 1's own hierarchy."""
    groups = [fields for line in _lines(process / "cgroup") if len(fields := line.split(":", 2)) == 3]
    for line in _lines(process / "mountinfo"):
        # 36 35 0:30 ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPEROPTIONS; single spaces, for a field may be empty.
        fields, _, rest = (part.split(" ") for part in line.partition(" - "))
        if len(fields) < 5 or len(rest) < 3:
            continue
        kind, options = rest[0], rest[2].split(",")
        for _, controllers, path in groups:
            is_version_2 = not controllers and kind == "cgroup2"
            is_version_1 = controller in controllers.split(",") and kind == "cgroup" and controller in options
            if is_version_2 or is_version_1:
                root, mountpoint = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), text) for text in fields[3:5])
                yield from _from_inside_out(path, root, Path(mountpoint))


def _lines(file: Path) -> list[str]:
    """Of a file of the kernel's, where a path may hold any bytes; none if it is not there."""
    try:
        return os.fsdecode(file.read_bytes()).split("\n")
    except OSError:
        return []


def _from_inside_out(path: str, root: str, mountpoint: Path) -> Iterator[Path]:
    # A container without a cgroup namespace reads the path that its machine sees, and has only its own part mounted.
    inside = path if root == "/" else path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else ""
    names = [name for name in inside.split("/") if name]
    # A path that leaves the namespace, as "/../other", is mounted nowhere here.
    for depth in range(0 if ".." in names else len(names), -1, -1):
        yield mountpoint.joinpath(*names[:depth])


def _quota_of(cgroup: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text() for name in names).split()
        except OSError:
            continue
        # "max 100000" and "-1 100000" say that there is none.
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            return int(words[0]) / int(words[1])
    return None


def _room_of(cgroup: Path) -> int | None:
    """Bytes below the memory limit of a cgroup; None without one."""
    for limit, used, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            told = (cgroup / limit).read_text().strip()
            num_used = int((cgroup / used).read_text())
        except (OSError, ValueError):
            continue
        # "max" says that there is none; version 1 says it with a number larger than any machine.
        if told.isdigit():
            cached = (f"{prefix}inactive_file", f"{prefix}active_file")
            words = [line.split() for line in _lines(cgroup / "memory.stat")]
            num_cached = sum(int(line[1]) for line in words if len(line) == 2 and line[0] in cached)
            return max(0, int(told) - num_used + num_cached)
    return None
