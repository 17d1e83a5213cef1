"""``imgcls models``: list the networks that can be asked for by name, and make model folders of them."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from imgcls_ray.errors import UsageError
from imgcls_ray.models.zoo import ZOO

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.zoo import ZooModel
    from imgcls_ray.storage.s3 import S3Options

# A pipe has no width; the table needs this much.
_PIPE_WIDTH = 160


def show(
    *, family: str | None, max_params: float | None, min_top1: float | None, pretrained: bool, as_json: bool
) -> None:
    """Print the networks of the zoo that fit.

    Args:
        family: of that name, in any case.
        max_params: of at most so many millions of parameters.
        min_top1: of at least this published accuracy, percent.
        pretrained: that timm has weights of.
        as_json: a JSON list instead of a table.

    Raises:
        UsageError: there is no such family; with the nearest.
    """
    models = [
        model
        for model in ZOO.values()
        if (family is None or model.family == _family(family))
        and (max_params is None or (model.num_parameters or 0) <= max_params * 1e6)
        and (min_top1 is None or (model.top1_percent or 0) >= min_top1)
        and (not pretrained or model.timm_weights)
    ]
    if as_json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(_table(models))
    print(
        f"{len(models)} of {len(ZOO)} networks. Make a model folder of one with `imgcls models new NAME --output DIR`; "
        "timm's other networks are called timm:NAME."
    )


def new(
    name: str,
    output: Path,
    *,
    num_classes: int | None,
    labels: Path | None,
    weights: str | None,
    random_seed: int | None,
    s3: S3Options,
) -> None:
    """Make a model folder and say what it is."""
    from imgcls_ray.models.new import new_model_folder, read_class_names

    folder = new_model_folder(
        name,
        output,
        class_names=read_class_names(labels, num_classes=num_classes) if labels else None,
        num_classes=num_classes,
        weights=weights,
        random_seed=random_seed,
        s3=s3,
    )
    print(f"{output}: {name}, {folder.spec.num_classes} classes, fingerprint {folder.spec.fingerprint[:12]}")


def _family(name: str) -> str:
    families = {model.family.lower(): model.family for model in ZOO.values()}
    if name.lower() in families:
        return families[name.lower()]
    near = difflib.get_close_matches(name.lower(), families, n=1, cutoff=0.4)
    hint = f"did you mean {families[near[0]]}?" if near else f"there are {', '.join(families.values())}"
    raise UsageError(f"{name}: no family of that name; {hint}")


def _table(models: list[ZooModel]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    # Where a terminal is narrow the last columns go first.
    table.add_column("name", no_wrap=True, min_width=max((len(model.name) for model in models), default=0))
    table.add_column("family")
    for column in ("top-1 %", "params, M", "train px", "eval px"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("timm's weights")
    for model in models:
        table.add_row(
            model.name,
            model.family,
            f"{model.top1_percent:.2f}",
            f"{(model.num_parameters or 0) / 1e6:.2f}",
            str(model.train_size),
            str(model.preprocess.crop_size),
            model.timm_weights or "",
        )
    return table
