"""Decide which inputs with a row are tried again although their version is the same.

A row with a label is final. An input with an error is tried again

- after a temporary error (``fetch_failed``, ``access_denied``, ...): in the next run, then after growing waiting times;
- after it failed by a limit, if the limit is wider now;
- if the command names its error code (``--retry``).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from imgcls_ray.errors import ImageErrorCode, LabelStoreDamagedError
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.json_files import Json
    from imgcls_ray.store.answers import Answer
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import PlanRecord

RETRIED_FIELD: Final = "retried"
LIMITS_FIELD: Final = "limits"
"""In the record of a plan: the codes that the command named, and its limits."""
Limits: TypeAlias = "Mapping[str, float]"
"""Limits by the keys of the configuration; what may be or not is 1 or 0."""
FIRST_PAUSE = timedelta(hours=1)
"""After the second failure in a row; each further one doubles it. After the first there is no pause."""
LONGEST_PAUSE = timedelta(days=7)

# The limit that a code speaks of: a key of the configuration.
_LIMIT_OF_CODE = {
    ImageErrorCode.TOO_MANY_BYTES: "max_image_bytes",
    ImageErrorCode.TOO_MANY_PIXELS: "max_image_pixels",
    ImageErrorCode.DECODE_TIMEOUT: "decode_timeout_s",
    ImageErrorCode.FETCH_FAILED: "fetch_timeout_s",
    ImageErrorCode.ACCESS_DENIED: "allow_private_urls",
}
LIMITS = frozenset(_LIMIT_OF_CODE.values())


def may_pass(answer: Answer) -> bool:
    """Whether the same version of an input may be readable later."""
    if answer.error is None:
        return False
    code = ImageErrorCode(answer.error)
    if code is ImageErrorCode.NOT_FOUND:
        # What was listed with a version was there, and may be away for a moment: a volume that is not mounted, a
        # proxy's 404. An address, and an object that a list names, may never show a version. A path that was missing
        # when it was listed shows one once it is there.
        return answer.etag is not None or is_url(answer.uri) or is_object(answer.uri)
    return code.is_transient


def is_limit_wider(key: str, before: Limits, now: Limits) -> bool:
    """Whether a limit is wider than the one before, or that one is not known any more."""
    return key in now and (key not in before or now[key] > before[key])


@dataclass
class RetryRules:
    """Decides for one command.

    Args:
        store: whose rows it decides about.
        limits: the command's own, by the keys of its configuration.
        codes: asked again in any case.
        own_runs: runs that this command has finished before: what they asked again by its code is not asked twice.
        time: the moment of the command.
    """

    store: LabelStore
    limits: Limits = field(default_factory=dict)
    codes: frozenset[str] = frozenset()
    own_runs: frozenset[int] = frozenset()
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self._plan = functools.lru_cache(maxsize=None)(self._read_plan)
        self._limits_of_run = functools.lru_cache(maxsize=None)(self._read_limits_of_run)

    def is_asked_again(self, answers: Sequence[Answer]) -> bool:
        """Whether to ask again for a version of an input.

        Args:
            answers: all rows of the input, oldest first.
        """
        newest = answers[-1]
        if newest.error is None:
            return False
        if newest.error in self.codes and not (
            newest.run in self.own_runs and self._is_named(newest.run, newest.error)
        ):
            return True
        key = _LIMIT_OF_CODE.get(ImageErrorCode(newest.error))
        if key is not None and is_limit_wider(key, self._limits_of(newest), self.limits):
            return True
        return may_pass(newest) and self.time_of_retry(answers) <= self.time

    def time_of_retry(self, answers: Sequence[Answer]) -> datetime:
        """The earliest moment at which a failure that may pass is asked again.

        Counts from the plan of the run that asked last. A moment in the future, which a clock that was wrong has
        written, is none to wait for.
        """
        newest = answers[-1]
        num_failures = 0
        for answer in reversed(answers):
            if answer.etag != newest.etag or not may_pass(answer):
                break
            num_failures += 1
        if num_failures < 2:
            return self.time
        asked = self._planned_at(newest.run)
        if asked is None or asked > self.time:
            return self.time
        pause: timedelta = FIRST_PAUSE * 2 ** min(num_failures - 2, 16)
        return asked + min(pause, LONGEST_PAUSE)

    def is_second_answer(self, older: Answer, newer: Answer) -> bool:
        """Whether a row may stand beside an older one of the same version: there was a reason to ask again."""
        if older.error is None:
            return False
        if may_pass(older) or self._is_named(newer.run, older.error):
            return True
        key = _LIMIT_OF_CODE.get(ImageErrorCode(older.error))
        if key is None:
            return False
        # Of the command that planned: the one that labelled may have had other limits.
        planned = self._plan(newer.run).get(LIMITS_FIELD)
        limits = _limits_in(planned) if isinstance(planned, dict) else self._limits_of(newer)
        return is_limit_wider(key, self._limits_of(older), limits)

    def _is_named(self, run: int, code: str) -> bool:
        """Whether the command that planned a run named this code."""
        codes = self._plan(run).get(RETRIED_FIELD)
        return isinstance(codes, list) and code in codes

    def _limits_of(self, answer: Answer) -> Limits:
        # Parts of earlier versions say nothing: then the run's own record does.
        if answer.limits is not None:
            return _read_limits(answer.limits)
        return self._limits_of_run(answer.run)

    def _read_limits_of_run(self, run: int) -> Limits:
        try:
            record = self.store.run_record(run)
        except LabelStoreDamagedError:
            return {}  # damaged, or not written yet
        config = record.get("config")
        # Begun by an earlier version and finished by one that keeps limits in parts: the record has its limits, and
        # those of the first are not known.
        if not isinstance(config, dict) or ("input" in record and LIMITS_FIELD not in self._plan(run)):
            return {}
        return _limits_in({key: config[key] for key in LIMITS & config.keys()})

    def _planned_at(self, run: int) -> datetime | None:
        try:
            planned = datetime.fromisoformat(str(self._plan(run).get("created")))
        except ValueError:
            return None
        return planned if planned.tzinfo is not None else planned.replace(tzinfo=UTC)

    def _read_plan(self, run: int) -> PlanRecord:
        try:
            return self.store.plan_record(run)
        except LabelStoreDamagedError:
            return {"num_images": 0, "num_units": 0}  # damaged: what it said is not known any more


@functools.lru_cache(maxsize=256)
def _read_limits(text: str) -> Limits:
    return _limits_in(json.loads(text))


def _limits_in(record: Mapping[str, Json]) -> Limits:
    """Of what a record says, the limits: what is no number is none."""
    return {key: value for key, value in record.items() if isinstance(value, int | float)}
