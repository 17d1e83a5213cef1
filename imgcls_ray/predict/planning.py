"""Where the inputs of a bulk job come from: listed, compared with the store, and told of in the plan's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.absence import ListedIn
from imgcls_ray.inputs.checks import check_inputs, is_any_list, is_single_file
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.listing import list_inputs
from imgcls_ray.inputs.sampling import Sample, sampled
from imgcls_ray.options import name_rules, storage_options
from imgcls_ray.predict.like import list_like, open_like
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import absolute_path, path_from_uri, uri_from_path
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.names import NameRules
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.store.plan import unanswered
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.presence_changes import PresenceChanges
from imgcls_ray.store.retrying import LIMITS, LIMITS_FIELD, RETRIED_FIELD, RetryRules
from imgcls_ray.store.values import ValueChanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from imgcls_ray.config import PredictConfig
    from imgcls_ray.json_files import Json
    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.plan import Spool
    from imgcls_ray.store.records import PlanRecord

_INPUTS_RECORDED = 100


def input_error_of(config: PredictConfig, storage: StorageOptions) -> InputError | None:
    """What is wrong with the inputs as they were given; None if they can be listed."""
    try:
        if config.like is not None:
            open_like(config.like, config.output, storage)
        # What is not kept is told when the lists are read.
        kept = Kept(config.keep_columns, lambda _: None, boxes=config.boxes, min_conf=config.min_conf)
        check_inputs(config.inputs, storage, uri_column=config.uri_column, kept=kept)
    except InputError as error:
        return error
    return None


def planned_inputs(
    config: PredictConfig, store: LabelStore | None, report: PredictReport, limit: int | None
) -> AbstractContextManager[Iterator[Spool]]:
    """The inputs that the store does not answer, plan by plan; counts go to the report."""
    kept = Kept(config.keep_columns, boxes=config.boxes, min_conf=config.min_conf)
    files = _listed(config, report, kept)
    if config.sample is not None:
        report.sample = Sample(config.sample, config.seed)
        files = sampled(files, report.sample)
    own_runs = frozenset(run.run for run in report.runs)
    rules = RetryRules(store, limits_of(config), frozenset(config.retry), own_runs) if store else None
    # What is listed up to a limit says nothing of what is behind it, and a sample nothing of what is not in it.
    if store is not None and config.limit is None and config.sample is None:
        report.presence = PresenceChanges(report.listing, is_empty_trusted=config.accept_missing)
    if store is not None:
        report.values = ValueChanges(kept)
    planned = unanswered(files, store, report.plan, rules, report.presence, report.values)
    return plan_ahead(planned, limit=limit, presence=report.presence, values=report.values)


def _listed(config: PredictConfig, report: PredictReport, kept: Kept) -> Iterable[FileInfo]:
    """All inputs, sorted by URI."""
    storage = storage_options(config)
    if config.like is not None:
        return list_like(open_like(config.like, config.output, storage), kept)
    return list_inputs(
        config.inputs,
        report.listing,
        storage,
        leave_out=open_directory(config.output, storage).uri,
        names=name_rules(config),
        uri_column=config.uri_column,
        kept=kept,
    )


def limits_of(config: PredictConfig) -> dict[str, Any]:
    """The limits under which images are read, as rows remember them."""
    return config.model_dump(include=set(LIMITS))


def _place_of(config: PredictConfig) -> str | list[str]:
    """INPUTs that every process understands, wherever it runs: what a missing image's storage is told by.

    Lists name their inputs wherever these are; and of several INPUTs, files that were given do, too. The only INPUT is
    a text, of several those that are left are a list.
    """
    storage = storage_options(config)
    places = [source for source in config.inputs if not is_any_list(source, storage, uri_column=config.uri_column)]
    if len(config.inputs) > 1:
        places = [source for source in places if not is_single_file(source, storage)]
    absolute = [
        source if is_object(source) or is_url(source) else uri_from_path(absolute_path(path_from_uri(source)))
        for source in places
    ]
    return absolute[0] if len(config.inputs) == 1 and absolute else absolute


def recorded_inputs(inputs: tuple[str, ...]) -> str | list[str]:
    """INPUTs for a record; of the many names that a shell may find, the first ones."""
    if len(inputs) == 1:
        return inputs[0]
    more = [f"and {len(inputs) - _INPUTS_RECORDED:,} more"] if len(inputs) > _INPUTS_RECORDED else []
    return [*inputs[:_INPUTS_RECORDED], *more]


def _recorded_input(config: PredictConfig) -> dict[str, Json]:
    """What a plan says of where its inputs come from."""
    if config.like is None:
        return {"input": recorded_inputs(config.inputs)}
    return {"input": [], "like": open_directory(config.like, storage_options(config)).uri}


def about_inputs(config: PredictConfig) -> dict[str, Json]:
    """What the record of a plan says of where its inputs come from, and by which rules they were taken."""
    return {
        **_recorded_input(config),
        "place": _place_of(config),
        "include": list(config.include),
        "exclude": None if config.exclude is None else list(config.exclude),
        "sample": None if config.sample is None else {"size": config.sample, "seed": config.seed},
        RETRIED_FIELD: sorted(config.retry),
        LIMITS_FIELD: limits_of(config),
    }


def listed_in(plan: PlanRecord) -> ListedIn | None:
    """Where the inputs of a plan were listed, if that is known."""
    # Where an earlier command listed its inputs is not where this one does.
    place = plan.get("place", plan.get("input", ""))
    places = (place,) if isinstance(place, str) else tuple(place)
    # Plans of earlier versions hold the input as it was typed, which may count from another folder.
    if not all(is_object(source) or path_from_uri(source).startswith("/") for source in places):
        return None
    names = NameRules.given(plan.get("include", ()), plan.get("exclude"))
    return ListedIn(places, names, is_only=isinstance(place, str))
