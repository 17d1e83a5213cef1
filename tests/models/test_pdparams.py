"""A ``.pdparams`` file gives arrays and runs nothing."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls_ray.errors import WeightsError
from imgcls_ray.models.paddle.pdparams import read_pdparams

ARRAYS: dict[str, np.ndarray] = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "count": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 3), dtype=np.float16),
}
NAMES = {"StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("container", [dict, collections.OrderedDict])
def test_the_arrays_of_a_state_dict_are_read(tmp_path: Path, protocol: int, container: type[dict[str, Any]]) -> None:
    content = pickle.dumps(container({**ARRAYS, **NAMES}), protocol=protocol)
    found = read_pdparams(write(tmp_path / "m.pdparams", content))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_old_and_new_names_of_numpys_modules_are_understood(tmp_path: Path) -> None:
    content = pickle.dumps({"a": ARRAYS["conv.weight"]}, protocol=2)
    assert b"numpy._core" in content or b"numpy.core" in content
    other = content.replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(read_pdparams(write(tmp_path / "m.pdparams", other))["a"], ARRAYS["conv.weight"])


def test_tensors_that_were_saved_with_their_internal_name_are_read(tmp_path: Path) -> None:
    class Tensor:
        def __reduce__(self) -> tuple[object, ...]:
            return (tuple, (("linear_0.w_0", ARRAYS["big_endian"]),))

    found = read_pdparams(write(tmp_path / "m.pdparams", pickle.dumps({"a": Tensor()}, protocol=4)))
    np.testing.assert_array_equal(found["a"], ARRAYS["big_endian"])


class Calls:
    """Pickled, a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def one_array_often(count: int) -> bytes:
    array = np.zeros(2**16, np.float32)
    return pickle.dumps({f"a{i}": array for i in range(count)})


def hostile_pickles(owned: Path) -> dict[str, bytes]:
    touch = f"touch {owned}"
    return {
        "a function": pickle.dumps({"a": Calls(os.system, touch)}),
        "a builtin": pickle.dumps({"a": Calls(eval, f"open({str(owned)!r}, 'w')")}),
        "numpy's own loader": pickle.dumps({"a": Calls(np.load, str(owned))}),
        "an attribute of what is allowed": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        "the old instruction for classes": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "a new object": pickle.dumps({"a": owned}, protocol=4),
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "changes what is allowed": b"\x80\x02cnumpy\nndarray\n}X\x08\x00\x00\x00__call__K\x01sb.",
        "calls a class that makes nothing": b"\x80\x02cnumpy\nndarray\n)R.",
        "an array of objects": pickle.dumps({"a": np.array([Calls(os.system, touch)], dtype=object)}, protocol=4),
        "an array of records": pickle.dumps({"a": np.zeros(2, dtype=[("x", "f4")])}, protocol=4),
        "a key that takes the stack": b"\x80\x04})" + b"\x85" * 900_000 + b"Ns.",
        "a key that takes for ever": b"\x80\x04})" + b"2\x86" * 64 + b"Ns.",
        "a key of shared pairs": b"\x80\x04})\x94" + b"h\x00h\x00\x86\x940" * 64 + b"h\x40Ns.",
        "a length of a megabyte": b"\x80\x02" + b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
        "bytes again and again": b"\x80\x02c_codecs\nencode\nq\x00X"
        + struct.pack("<I", 10**6)
        + b"x" * 10**6
        + b"q\x010X\x06\x00\x00\x00latin1q\x020]"
        + b"h\x00h\x01h\x02\x86Ra" * 5000
        + b".",
        "one array a thousand times": one_array_often(1000),
    }


@pytest.mark.parametrize("kind", hostile_pickles(Path("unused")))
def test_a_hostile_file_runs_nothing_and_is_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "m.pdparams", hostile_pickles(tmp_path / "owned")[kind])
    with pytest.raises(WeightsError, match=r"m\.pdparams: .*"):
        read_pdparams(path)
    assert not (tmp_path / "owned").exists()


def test_what_is_asked_for_stands_in_the_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pdparams", pickle.dumps({"a": Calls(os.system, "true")}))
    with pytest.raises(WeightsError, match=r"asks for posix\.system; .* so nothing of this one was run"):
        read_pdparams(path)


def array_pickle(shape: tuple[int, ...], data: bytes, code: str = "f4") -> bytes:
    """The pickle of one array with a content of our own."""
    content = pickle.dumps({"a": np.zeros(2, np.float32)}, protocol=2)
    assert content.count(b"K\x02\x85") == 1
    lengths = b"".join(b"J" + struct.pack("<i", length) for length in shape)
    content = content.replace(b"K\x02\x85", b"(" + lengths + b"t").replace(b"f4", code.encode())
    return content.replace(b"X\x08\x00\x00\x00" + 8 * b"\x00", b"X" + struct.pack("<I", len(data)) + data)


@pytest.mark.parametrize(
    ("shape", "data", "code"),
    [
        ((2,), bytes(4), "f4"),
        ((2,), bytes(12), "f4"),
        ((-2,), bytes(8), "f4"),
        ((2**30, 2**30), bytes(8), "f4"),
        ((1,), bytes(8), "O8"),
        ((1,), bytes(8), "V8"),
        ((1,), bytes(8), "M8"),
    ],
)
def test_an_array_that_is_not_what_its_bytes_are_is_refused(
    tmp_path: Path, shape: tuple[int, ...], data: bytes, code: str
) -> None:
    with pytest.raises(WeightsError, match="has an array"):
        read_pdparams(write(tmp_path / "m.pdparams", array_pickle(shape, data, code)))


def test_the_array_that_is_what_its_bytes_are_is_read(tmp_path: Path) -> None:
    found = read_pdparams(write(tmp_path / "m.pdparams", array_pickle((2,), bytes(8))))
    np.testing.assert_array_equal(found["a"], np.zeros(2, np.float32))


@pytest.mark.parametrize("kept", [0, 1, 50, -40])
def test_a_file_that_was_cut_off_or_is_something_else_is_refused(tmp_path: Path, kept: int) -> None:
    content = pickle.dumps(ARRAYS, protocol=4)[: kept or None]
    path = write(tmp_path / "m.pdparams", content if kept else b"<html>404</html>")
    with pytest.raises(WeightsError, match=r"m\.pdparams: is not a readable \.pdparams file"):
        read_pdparams(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"LR_Scheduler": {"last_epoch": 3}}, "holds something else than an array under 'LR_Scheduler'"),
        ({3: 4}, "holds something under a key that is no name"),
        ({"epoch": 3, "metric": 0.5}, "holds something else than an array under 'epoch'"),
        ([1, 2], "holds a list, not arrays by name"),
        (dict(NAMES), "holds no arrays"),
    ],
)
def test_other_files_of_paddle_are_refused_by_what_they_hold(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_pdparams(write(tmp_path / "m.pdparams", pickle.dumps(content)))


def test_a_pickle_of_endless_instructions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls_ray.models.paddle.pdparams._MAX_INSTRUCTIONS", 1000)
    with pytest.raises(WeightsError, match="has more than 1,000 pickle instructions"):
        read_pdparams(write(tmp_path / "m.pdparams", b"\x80\x02" + 2000 * b"N" + b"}."))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pdparams: cannot be read: No such file"):
        read_pdparams(tmp_path / "none.pdparams")
