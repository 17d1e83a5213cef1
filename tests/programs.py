"""Programs that tests start beside Python: where one is missing, its tests are skipped, and the last line says so.

Where ``CI`` is set they fail: what every change must pass cannot be left out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEEDS = "needs "


def leave_out(name: str, target: str, missing: Iterable[str]) -> NoReturn:
    """End a test whose program is not installed.

    Args:
        name: of the program, for people.
        target: of ``make``, which installs it.
        missing: the executables that were not found.
    """
    reason = f"{_NEEDS}{name} (`make {target}` as root installs it): there is no {', '.join(missing)}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def summary(reasons: Iterable[str]) -> str | None:
    """What to install so that no test is skipped for the want of a program, in one line."""
    wanted = [reason.partition(":")[0].removeprefix(_NEEDS) for reason in reasons if reason.startswith(_NEEDS)]
    if not wanted:
        return None
    each = " and ".join(sorted(set(wanted)))
    return f"{len(wanted):,} {'test was' if len(wanted) == 1 else 'tests were'} skipped for want of {each}"
