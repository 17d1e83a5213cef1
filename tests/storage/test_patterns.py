"""Patterns match as Python's and shells' do, name by name."""

from __future__ import annotations

import glob
import itertools
import os
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.storage.patterns import Pattern

if TYPE_CHECKING:
    from pathlib import Path


def matches(pattern: str, path: str) -> bool:
    parts = Pattern(pattern.split("/"))
    *folders, name = path.split("/")
    states = parts.start
    for folder in folders:
        states = parts.below(states, folder)
    return parts.takes(states, name)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "b/a.jpg", False),
        ("**", "a/b/c", True),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "a/b/c.jpg", True),
        ("a/**/b/*", "a/b/x", True),
        ("a/**/b/*", "a/c/b/d/x", False),
        ("a/**/**/b/*", "a/c/b/x", True),
        ("a**", "ab", True),
        ("a**", "a/b", False),
        ("[!a]?[x-z]", "bqy", True),
        ("[!a]?[x-z]", "aqy", False),
        ("[a", "[a", True),
        ("a\nb*", "a\nbc", True),
        ("*", ".a", False),
        ("**/*", "a/.b/c", False),
        (".*", ".a", True),
        ("[.]a", ".a", False),
        ("**/.b/*", "a/.b/c", True),
        (".?/**", ".a/b/c", True),
        ("*/", "a/b/c.jpg", True),
        ("*/", "a.jpg", False),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_patterns_match_what_python_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b.jpg", ".c"]
    for depth in (1, 2, 3):
        for folders in itertools.product(["a", "bb", ".c"], repeat=depth - 1):
            (tmp_path.joinpath(*folders)).mkdir(parents=True, exist_ok=True)
            for name in names:
                (tmp_path.joinpath(*folders) / f"f{name}").write_bytes(b"")
                if name.startswith("."):
                    (tmp_path.joinpath(*folders) / f"{name}f").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    paths = _all_files(".")
    parts = ["*", "**", "a", "b*", ".c", "f*", "*.jpg", ".*", "[!b]*"]
    for count in (1, 2, 3):
        for chosen in itertools.product(parts, repeat=count):
            pattern = "/".join(chosen)
            found = {path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
            assert {path for path in paths if matches(pattern, path)} == found, pattern


def _all_files(folder: str) -> list[str]:
    return [os.path.relpath(os.path.join(where, name), folder) for where, _, files in os.walk(folder) for name in files]


def test_only_literal_names_are_looked_up() -> None:
    pattern = Pattern(["*", "a", "**", "b.jpg"])
    assert pattern.literals(pattern.start) is None
    assert pattern.literals(pattern.below(pattern.start, "x")) == ["a"]
    assert pattern.literals(pattern.below(pattern.below(pattern.start, "x"), "a")) is None
