"""What a command and the Pythons that it starts import."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Every Python of the job runs this when it begins, Ray's workers, too.
_NOTES = """
import os, sys

class Note:
    @staticmethod
    def find_spec(name, path=None, target=None):
        with open(os.environ["IMPORTS_FILE"], "a") as file:
            file.write(name + "\\n")

sys.meta_path.insert(0, Note)
"""


def imported_by(command: Sequence[str], tmp_path: Path, exit_code: int = 0) -> set[str]:
    """Modules that a command and all Pythons that it starts have looked for, also within packages."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_NOTES)
    imports = tmp_path / "imports"
    done = subprocess.run(
        command,
        env={**os.environ, "IMPORTS_FILE": str(imports), "PYTHONPATH": f"{tmp_path / 'site'}:{Path.cwd()}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_code, done.stderr
    return set(imports.read_text().split())
