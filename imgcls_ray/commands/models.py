"""``imgcls models``: list the networks that can be asked for by name, and make model folders of them."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.config import ListModelsConfig, NewModelConfig, make_config, read_values
from imgcls_ray.errors import UsageError
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.options import storage_options
from imgcls_ray.storage.files import check_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.config import Values
    from imgcls_ray.models.zoo import ZooModel

# A pipe has no width; the table needs this much.
_PIPE_WIDTH = 160


def show(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Print the networks of the zoo that fit.

    Raises:
        UsageError: there is no such family; with the nearest.
    """
    config = make_config(ListModelsConfig, read_values(ListModelsConfig, config_file, overrides, flags))
    models = [
        model
        for model in ZOO.values()
        if (config.family is None or model.family == _family(config.family))
        and (config.max_params is None or (model.num_parameters or 0) <= config.max_params * 1e6)
        and (config.min_top1 is None or (model.top1_percent or 0) >= config.min_top1)
        and (not config.pretrained or model.timm_weights)
    ]
    if config.json_:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return
    StdoutConsole(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(_table(models))
    print(
        f"{len(models)} of {len(ZOO)} networks. Create a model folder with `imgcls models new NAME --output DIR`; "
        "other networks of timm are called timm:NAME."
    )


def new(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Make a model folder and say what it is."""
    config = make_config(NewModelConfig, read_values(NewModelConfig, config_file, overrides, flags))
    check_address(config.output)
    from imgcls_ray.models.class_names import read_class_names
    from imgcls_ray.models.engines.converted import add_bundle
    from imgcls_ray.models.new import new_model_folder

    class_names = read_class_names(Path(config.labels), num_classes=config.num_classes) if config.labels else None
    folder = new_model_folder(
        config.name,
        Path(config.output),
        class_names=class_names,
        num_classes=config.num_classes,
        weights=config.weights,
        random_seed=config.seed if config.random else None,
        decode=config.decode,
        storage=storage_options(config),
    )
    add_bundle(config.output, folder)
    fingerprint = folder.spec.fingerprint[:12]
    print(f"{config.output}: {config.name}, {folder.spec.num_classes} classes, fingerprint {fingerprint}")


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
