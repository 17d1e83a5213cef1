"""What tests of workers share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.workers.fetching import NUM_FETCH_THREADS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(NUM_FETCH_THREADS) as executor:
        yield executor
