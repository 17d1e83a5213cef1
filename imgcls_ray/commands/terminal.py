"""Keep the terminal for words that are meant for people."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.commands.refusals import words_to
from imgcls_ray.errors import ImgclsError
from imgcls_ray.storage.scratch import scratch_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def native_stderr_aside() -> Iterator[None]:
    """Put aside what libraries in C write to file descriptor 2; ``sys.stderr`` goes on to the terminal.

    Ray's core warns there of each restartable actor that Ray Data makes, libjpeg and libtiff of each damaged picture,
    and no setting turns that off. If the block ends in a way that nobody foresaw, all of it is shown.
    """
    terminal = os.dup(2)
    before = sys.stderr
    with (
        words_to(terminal, closes=True) as words,
        scratch_file("stderr") as native,
    ):
        before.flush()
        os.dup2(native.fileno(), 2)
        sys.stderr = words
        try:
            yield
        except (ImgclsError, KeyboardInterrupt):
            raise
        except BaseException:
            native.seek(0)
            words.write(native.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr = before
            os.dup2(terminal, 2)
