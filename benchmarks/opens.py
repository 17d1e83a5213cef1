"""Count how often each file of a folder is opened, by whatever process: work that is done twice shows here.

The kernel tells (inotify); nothing has to be believed of the command under test.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_IN_OPEN, _IN_Q_OVERFLOW = 0x20, 0x4000
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 2**20


class OpenCounter:
    """Counts while it is entered; files are named relative to the folder."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK)
        if self._file < 0 or libc.inotify_add_watch(self._file, os.fsencode(folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"{folder}: cannot be watched")
        self._is_stopped = self._has_overflowed = False
        self._thread = threading.Thread(target=self._run, name="open-counter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_stopped = True
        self._thread.join()
        os.close(self._file)
        if self._has_overflowed and error is None:
            raise RuntimeError("the kernel dropped events: more files were opened at once than it keeps in mind")

    def _run(self) -> None:
        while True:
            is_last = self._is_stopped
            while select.select([self._file], [], [], 0)[0]:
                self._read(os.read(self._file, _BUFFER_BYTES))
            if is_last:
                return
            select.select([self._file], [], [], 0.2)

    def _read(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            self._has_overflowed |= bool(mask & _IN_Q_OVERFLOW)
            if name:
                self.counts[os.fsdecode(name)] += 1
