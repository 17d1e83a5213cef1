"""What a ``.pdparams`` file costs is in proportion to its size, whatever its pickle says."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTES = 5 * 2**20
BIG = b"x" * MEGABYTES
DTYPE = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00i1K\x00K\x01\x87R"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
LENGTH = b"J" + struct.pack("<i", MEGABYTES)


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


# What is memoized stays on the stack, below what is returned: to pop is not understood.
KINDS: dict[str, bytes] = {
    "nested tuples as a name": b"\x80\x04)\x94"
    + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(40))
    + b"h\x28h\x28\x93.",
    "a name of a megabyte": b"\x80\x04" + text(b"a" * MEGABYTES) + b"\x94" + b"h\x00h\x00\x93" * 30_000 + b".",
    "text copied into arrays": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01"
    + DTYPE
    + b"q\x02"
    + text(BIG)
    + b"q\x03C\x01bq\x04}("
    + b"".join(
        text(b"n%d" % i) + b"h\x00h\x01K\x00\x85h\x04\x87R(K\x01" + LENGTH + b"\x85h\x02\x89h\x03tb" for i in range(300)
    )
    + b"u.",
    "text copied into one array": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01"
    + DTYPE
    + b"q\x02"
    + text(BIG)
    + b"q\x03C\x01bq\x04h\x00h\x01)h\x04\x87R"
    + (b"(K\x01" + LENGTH + b"\x85h\x02\x89h\x03tb") * 5_000
    + b".",
    "arrays on the same bytes": b"\x80\x04cnumpy.core.numeric\n_frombuffer\nq\x00"
    + DTYPE
    + b"q\x01B"
    + struct.pack("<I", len(BIG))
    + BIG
    + b"q\x02}("
    + b"".join(text(b"n%d" % i) + b"h\x00(h\x02h\x01" + LENGTH + b"\x85X\x01\x00\x00\x00CtR" for i in range(2_000))
    + b"u.",
    "bytes from text": b"\x80\x02c_codecs\nencode\nq\x00"
    + text(BIG)
    + b"q\x01X\x06\x00\x00\x00latin1q\x02]"
    + b"h\x00h\x01h\x02\x86R" * 5_000
    + b".",
    "marks over a high stack": b"\x80\x04" + b"N" * 49_000 + b"(t" * 25_000 + b".",
    "a stack above many marks": b"\x80\x04" + b"(" * 49_000 + b"Nt" * 25_000 + b".",
    "half a million marks": b"\x80\x04" + b"(" * 500_000 + b".",
    "lists": b"\x80\x04" + b"]\x94" * 2_000_000 + b".",
    "tables": b"\x80\x04" + b"}\x94" * 2_000_000 + b".",
    "a table of many": b"\x80\x04}(" + b"".join(text(b"%d" % i) + b"N" for i in range(300_000)) + b"u.",
    "memoized again and again": b"\x80\x04N" + b"\x94" * 5_000_000 + b".",
    "wide text": b"\x80\x04}" + text(b"a" * MEGABYTES + "\U0001f600".encode()) + b"Ns.",
    "wide text in old words": b"\x80\x02}V" + b"a" * MEGABYTES + b"\\U0001f600\nNs.",
    "text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "text of 40 GB": b"\x80\x04\x8d" + struct.pack("<Q", 40 * 2**30) + b"x.",
    "bytes of 4 GB": b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x.",
    "a byte array of 8 EB": b"\x80\x05\x96" + struct.pack("<Q", 2**63 - 1) + b"x.",
    "a frame of 4 EB": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "a number of 5 MB": b"\x80\x04}\x8b" + struct.pack("<i", MEGABYTES) + b"\x7f" * MEGABYTES + b"Ns.",
    "a shape of a number of 5 MB": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x00"
    + DTYPE
    + b"\x8b"
    + struct.pack("<i", MEGABYTES)
    + b"\x7f" * MEGABYTES
    + b"\x85X\x01\x00\x00\x00CtR.",
    "a number in 5 MB of digits": b"\x80\x02L" + b"7" * MEGABYTES + b"L\n.",
    "numbers in 4,000 digits": b"\x80\x02" + (b"I" + b"7" * 4000 + b"\n") * 1200 + b".",
    "a line of 5 MB": b"\x80\x02c" + b"a" * MEGABYTES + b"\nb\n.",
    "a line without an end": b"\x80\x02c" + b"a" * MEGABYTES,
    "functions": b"\x80\x02" + b"ca\nb\n" * 1_000_000 + b".",
    "keys of a megabyte": b"\x80\x04}("
    + b"".join(text(b"blocks.1." * 110_000 + b"%d" % i) + b"N" for i in range(5))
    + b"u.",
    "tuples of what was there": b"\x80\x04)\x94" + (b"h\x00" * 300 + b"(h\x00t") * 20_000 + b".",
    "a pair of pairs": b"\x80\x04})\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60)) + b"h\x3cNs.",
}

# The reading's own time and memory, without those of the libraries. The limit ends what would take the machine.
PROGRAM = textwrap.dedent(
    """
    import pathlib, re, resource, sys, time
    import numpy
    from imgcls_ray.errors import WeightsError
    from imgcls_ray.models.paddle.pdparams import read_pdparams

    def peak():
        return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    for name in sys.argv[1:]:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before, start = peak(), time.process_time()
        try:
            read_pdparams(pathlib.Path(name))
            outcome = "read"
        except WeightsError as error:
            outcome = str(error).replace(chr(10), "/")
        print(f"{time.process_time() - start:.3f} {peak() - before} {outcome}", flush=True)
    """
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, int, str]]:
    """By kind: seconds of the processor, kB of memory at most, and what came of it."""
    folder = tmp_path_factory.mktemp("pdparams")
    files: list[Path] = []
    for number, content in enumerate(KINDS.values()):
        files.append(folder / f"{number}.pdparams")
        files[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, files)], capture_output=True, text=True, timeout=280, check=True
    )
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return {kind: (float(line[0]), int(line[1]), line[2]) for kind, line in zip(KINDS, lines, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_in_a_second_and_in_memory_of_its_size(
    kind: str, outcomes: dict[str, tuple[float, int, str]]
) -> None:
    seconds, kilobytes, outcome = outcomes[kind]
    assert ".pdparams: " in outcome, outcome
    assert len(outcome) < 600
    assert seconds < 1
    assert kilobytes * 1024 < 8 * len(KINDS[kind]) + 2**25
