"""No dependency is kept at a version with a hole that is known (``advisories.txt``)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


class Floor(NamedTuple):
    """The first version without a hole."""

    version: Version
    advisory: str


def read_floors(text: str) -> dict[str, Floor]:
    floors: dict[str, Floor] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, version, advisory, reason = line.split(maxsplit=3)
            assert re.fullmatch(r"(CVE-\d{4}|GHSA|PYSEC-\d{4})-[\w-]+", advisory), line
            assert reason
            assert canonicalize_name(name) not in floors, f"{name} stands twice"
            floors[canonicalize_name(name)] = Floor(Version(version), advisory)
    return floors


def read_pins(text: str) -> dict[str, Version]:
    pairs = [line.split("==") for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def open_holes(pins: dict[str, Version], floors: dict[str, Floor]) -> list[str]:
    return [
        f"{name}=={pins[name]} is open to {floor.advisory}; at least {floor.version}"
        for name, floor in floors.items()
        if name in pins and pins[name] < floor.version
    ]


ADVISORIES = (ROOT / "advisories.txt").read_text()
FLOORS = read_floors(ADVISORIES)
PINS = read_pins((ROOT / "constraints.txt").read_text())


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def test_the_versions_of_a_release_have_no_known_hole() -> None:
    assert open_holes(PINS, FLOORS) == []


def test_an_older_version_is_found() -> None:
    pins = read_pins("# a release\npillow==12.3.0\nh11==0.16.0\n")
    assert open_holes(pins, FLOORS) == ["pillow==12.3.0 is open to CVE-2026-112403; at least 13.0.0"]


def test_every_advisory_is_of_what_is_installed_and_the_list_has_its_date() -> None:
    assert set(FLOORS) - set(PINS) == set()
    assert re.search(r"Read on 20\d\d-\d\d-\d\d\.", ADVISORIES)


def test_no_lower_bound_lets_a_known_hole_in() -> None:
    """Who installs without the constraints gets no version with a hole either, as far as that is for us to say."""
    open_bounds = []
    for requirement in requirements():
        floor = FLOORS.get(canonicalize_name(requirement.name))
        lowest = max((Version(part.version) for part in requirement.specifier if part.operator == ">="), default=None)
        if floor is not None and (lowest is None or lowest < floor.version):
            open_bounds.append(f"{requirement}: at least {floor.version} ({floor.advisory})")
    assert open_bounds == []
