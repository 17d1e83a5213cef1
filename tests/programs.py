"""Programs that tests start beside Python: where one is missing, its tests are skipped, and the last line says so.

Where ``CI`` is set they fail: what every change must pass cannot be left out.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

_REASON = re.compile(r"(?:Skipped: )?needs (.+ \(`make [\w-]+` as root installs it\)): there is no ")


def leave_out(name: str, target: str, missing: Iterable[str]) -> NoReturn:
    """End a test whose program is not installed.

    Args:
        name: of the program, for people.
        target: of ``make``, which installs it.
        missing: the executables that were not found.
    """
    reason = f"needs {name} (`make {target}` as root installs it): there is no {', '.join(missing)}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def wanted_program(reason: str) -> str | None:
    """The program for want of which a test was skipped, with the way to get it."""
    match = _REASON.match(reason)
    return match[1] if match else None


def summary(reasons: Iterable[str]) -> str | None:
    """What to install so that no test is skipped for the want of a program, in one line."""
    wanted = [program for reason in reasons if (program := wanted_program(reason))]
    if not wanted:
        return None
    each = " and ".join(sorted(set(wanted)))
    return f"{len(wanted):,} {'test was' if len(wanted) == 1 else 'tests were'} skipped for want of {each}"
