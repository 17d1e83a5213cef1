"""Look through a file of ``torch.save`` before torch reads it: what it would cost must be in proportion to the file.

With ``weights_only`` torch runs nothing, but it inflates archives, and hashes and copies whatever a pickle builds: two
tuples of two, forty times over, are never done.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from imgcls_ray.models.paddle.pdparams import Reader

if TYPE_CHECKING:
    from pathlib import Path

_MAX_INSTRUCTIONS = 500_000
"""A checkpoint of the largest networks with weights, averages and the optimizer's state takes 150,000."""
_MAX_TUPLE = 10_000
"""Items of a tuple, those of the tuples in it included."""
_MAX_CLASSES = 100
"""Names of classes and functions. A checkpoint of weights and an optimizer's state has ten; hyperparameters, more."""
_NUM_PICKLES = 5
"""At the start of a file in torch's format before archives."""
_FIXED_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_POPPED = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "POP": 1}


def check_torch_file(path: Path) -> frozenset[str]:
    """Refuse a checkpoint that costs more than its size lets expect; whether it is one is torch's to say.

    Returns:
        The names of the classes and functions that its pickles ask for, e.g. ``pathlib.PosixPath``.

    Raises:
        ValueError: compressed, overlapping, or a pickle of endless instructions, multiplying tuples or many classes.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        reader = Reader(file)
        classes: set[str] = set()
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(_NUM_PICKLES):
                if not _walk(reader, classes):
                    break
            return frozenset(classes)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                # torch stores; whatever is compressed may be a thousand times as long as the file.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                    raise ValueError("the archive is compressed, which torch.save never does")
                if sum(entry.file_size for entry in entries) > reader.num_bytes:
                    raise ValueError("the archive claims more bytes than the file has")
                for entry in entries:
                    if entry.filename.endswith(".pkl"):
                        _walk(Reader(io.BytesIO(archive.read(entry))), classes)
        except zipfile.BadZipFile:
            pass
        return frozenset(classes)


def _walk(reader: Reader, classes: set[str]) -> bool:
    """Follow one pickle without building anything: of each value only how many items a tuple has in all.

    Args:
        reader: at the beginning of the pickle.
        classes: receives the names of the classes and functions that it asks for.

    Returns:
        Whether it came to its end.
    """
    stack: list[int] = []
    aside: list[list[int]] = []
    memo: dict[int, int] = {}
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(cast("BinaryIO", reader))):
            if count == _MAX_INSTRUCTIONS:
                raise _TooMuchError(f"its pickle has more than {_MAX_INSTRUCTIONS:,} instructions")
            if instruction.name == "GLOBAL":
                classes.add(_present_name(str(argument)))
                if len(classes) > _MAX_CLASSES:
                    raise _TooMuchError(f"its pickle has the names of more than {_MAX_CLASSES} classes")
            stack, value = _step(instruction.name, argument, stack, aside, memo)
            if value is not None:
                if value > _MAX_TUPLE:
                    raise _TooMuchError(f"its pickle has a tuple of more than {_MAX_TUPLE:,} items")
                stack.append(value)
    except _TooMuchError:
        raise
    # torch reads in the same order, and stops here too.
    except (ValueError, IndexError, OverflowError):
        return False
    return True


def _present_name(name: str) -> str:
    """Python 3's name of ``module name``: pickles of torch have that of Python 2."""
    module, _, own = name.partition(" ")
    module, own = NAME_MAPPING.get((module, own), (IMPORT_MAPPING.get(module, module), own))
    return f"{module}.{own}"


class _TooMuchError(ValueError):
    """What torch must not be given."""


def _step(
    name: str, argument: Any, stack: list[int], aside: list[list[int]], memo: dict[int, int]
) -> tuple[list[int], int | None]:
    """Carry out one instruction; gives the stack that is the current one now, and what is to be put on it."""
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if argument is None else int(argument)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        return stack, memo.get(int(argument), 1)
    elif name == "DUP":
        return stack, stack[-1]
    elif name == "MARK":
        aside.append(stack)
        return [], None
    elif name in ("TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
        items, stack = stack, aside.pop()
        if name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            return stack, 1 + sum(items) if name in ("TUPLE", "FROZENSET") else 1
    elif name in _FIXED_TUPLES:
        length = _FIXED_TUPLES[name]
        items, stack[len(stack) - length :] = stack[len(stack) - length :], []
        return stack, 1 + sum(items)
    elif name in _POPPED:
        del stack[-_POPPED[name] :]
    elif name in ("REDUCE", "NEWOBJ", "STACK_GLOBAL"):
        del stack[-2:]
        return stack, 1
    elif name == "BINPERSID":
        stack[-1] = 1
    elif name not in ("PROTO", "FRAME", "STOP"):
        return stack, 1
    return stack, None
