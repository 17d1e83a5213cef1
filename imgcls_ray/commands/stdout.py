"""Standard output of commands, which may have no reader any more."""

from __future__ import annotations

import os

from rich.console import Console


class StdoutConsole(Console):
    """Tells what came of a command; where nobody reads it any more (``| head``), the command still goes on to its end.

    rich would end it there with exit code 1: before it has written an export, or seen that too many images failed.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
