"""Every promise is held by tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.guards import GUARDS, Promise

ROOT = Path(__file__).parent.parent
PROMISES = [promise for promises in GUARDS.values() for promise in promises]


def names_in(module: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(module.read_text(encoding="utf-8")).body if isinstance(node, functions)}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.text)
def test_the_tests_and_benchmarks_of_a_promise_are_there(promise: Promise) -> None:
    assert promise.tests
    for test in promise.tests:
        file, _, name = test.partition("::")
        assert name.startswith("test_")
        assert name in names_in(ROOT / "tests" / file), test
    for benchmark in promise.benchmarks:
        assert (ROOT / f"{benchmark.replace('.', '/')}.py").is_file(), benchmark


def test_no_promise_stands_twice() -> None:
    texts = [promise.text for promise in PROMISES]
    assert len(set(texts)) == len(texts)
