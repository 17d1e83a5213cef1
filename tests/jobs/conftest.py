"""One cluster for all tests of jobs: its start takes longer than most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.jobs.cluster import OwnCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def cluster() -> Iterator[OwnCluster]:
    """A cluster in processes of its own: the tests' process may hold another Ray."""
    cluster = OwnCluster()
    yield cluster
    cluster.shutdown()
