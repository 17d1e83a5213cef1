"""What a checkpoint of torch's costs is in proportion to its size."""

from __future__ import annotations

import time
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.errors import WeightsError
from imgcls_ray.models.torch_file import check_torch_file
from imgcls_ray.models.weights import load_weights
from imgcls_ray.models.zoo import find_model
from tests.timing import assert_within

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
PICKLES = {
    "tuples that multiply as a key": b"\x80\x02)q\x00" + PAIRS + b"}h\x3cNs.",
    "tuples that multiply in a call": b"\x80\x02)q\x00" + PAIRS + b"ccollections\nOrderedDict\n](h\x3cNtaq\x50\x85R.",
    "lists without end": b"\x80\x02" + b"]" * 3_000_000 + b".",
    "marks without end": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "classes without end": b"\x80\x02" + b"".join(b"cm%d\nC\n" % number for number in range(200_000)) + b".",
    "copies of one": b"\x80\x02N" + b"2" * 3_000_000 + b".",
}


def archive(path: Path, pickle: bytes | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint with another pickle, or packed anew."""
    plain = path.with_suffix(".plain")
    torch.save({"a": torch.zeros(2_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            is_pickle = pickle is not None and entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, pickle if is_pickle and pickle else source.read(entry))
    return path


def refused(path: Path) -> str:
    said: list[str] = []

    def refuse() -> None:
        with pytest.raises(ValueError, match=r".") as error:
            check_torch_file(path)
        said.append(str(error.value))

    assert_within(3, refuse, time.thread_time)
    with pytest.raises(WeightsError, match=r"weights\.pth: is not a readable file of weights"):
        load_weights(find_model("PP-LCNet_x0_25"), path)
    return said[0]


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_costs_is_refused_in_an_archive_and_alone(tmp_path: Path, kind: str) -> None:
    assert "its pickle has " in refused(archive(tmp_path / "weights.pth", PICKLES[kind]))
    (tmp_path / "weights.pth").write_bytes(PICKLES[kind])
    assert "its pickle has " in refused(tmp_path / "weights.pth")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "weights.pth", compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000  # for eight megabytes
    assert "compressed" in refused(path)


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_large_checkpoint_with_its_optimizer_passes(tmp_path: Path, is_archive: bool) -> None:
    network = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(500)))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "state_dict": network.state_dict(),
        "state_dict_ema": OrderedDict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=is_archive)
    check_torch_file(tmp_path / "weights.pth")


def test_what_is_no_checkpoint_is_left_to_torch(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"<html>", b"\x80\x02N"):
        (tmp_path / "weights.pth").write_bytes(content)
        check_torch_file(tmp_path / "weights.pth")
