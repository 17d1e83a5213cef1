"""``imgcls check``: split if asked to, check, write the report, and say what was found."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import CheckConfig, make_config, nested, read_values
from imgcls_ray.datasets.findings import FindingCode, Severity
from imgcls_ray.errors import CheckFailedError, StoppedError, UsageError
from imgcls_ray.words import counted
from imgcls_ray.workers.progress import image_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.text import Text

    from imgcls_ray.config import Plain, Values
    from imgcls_ray.datasets.check_result import CheckResult
    from imgcls_ray.storage.options import StorageOptions

# PaddleX's names of our keys.
_PADDLEX_KEYS = {"Global.dataset_dir": "data", "Global.output": "output"}
_PADDLEX_PREFIX = "CheckDataset."
_NUM_SHOWN = 3


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Check what the configuration says; flags win over overrides, overrides over the file.

    Raises:
        CheckFailedError: the dataset has errors; the report is written.
    """
    values = read_values(CheckConfig, config_file, overrides, flags)
    config = make_config(CheckConfig, nested(_our_keys(values)))
    try:
        with native_stderr_aside():
            result = _check(config, Console(stderr=True))
    except KeyboardInterrupt as error:
        raise StoppedError("stopped before the check was complete; there is no report") from error
    _tell(result, config)


def _our_keys(values: Values) -> dict[str, Plain]:
    """PaddleX's names as ours."""
    return {_PADDLEX_KEYS.get(key, key).removeprefix(_PADDLEX_PREFIX): value for key, value in values.items()}


def _check(config: CheckConfig, console: Console) -> CheckResult:
    from imgcls_ray.commands.split import measuring
    from imgcls_ray.datasets.check import check_dataset
    from imgcls_ray.datasets.split import split_dataset
    from imgcls_ray.options import decode_limits, fetch_limits, storage_options
    from imgcls_ray.report.check_report import write_report

    check_output(config.output, storage_options(config))
    split = config.split
    if split.enable:
        split_dataset(
            config.data,
            train_percent=split.train_percent or 0,
            val_percent=split.val_percent or 0,
            test_percent=split.test_percent,
            seed=split.seed,
            group_by=split.group_by,
            delimiter=config.delimiter,
            split_folders=config.split_places,
            storage=storage_options(config),
            measure=measuring(config, console),
        )
    with image_progress("checking", console) as add:
        result = check_dataset(config, add)
    write_report(result, config.output, fetch_limits=fetch_limits(config), decode_limits=decode_limits(config))
    return result


def check_output(output: str, storage: StorageOptions) -> None:
    """Refuse a place for the report that can be none, before hours of work and not after them.

    Raises:
        InputError: its kind of storage is unknown.
        UsageError: it is a file.
    """
    from imgcls_ray.storage import open_directory
    from imgcls_ray.storage.files import path_from_uri
    from imgcls_ray.storage.schemes import ADDRESSES, is_object

    open_directory(output, storage)
    if not is_object(output) and os.path.exists(path := path_from_uri(output)) and not os.path.isdir(path):
        raise UsageError(f"{output}: is a file; give a folder for the report, or {ADDRESSES}")


def _tell(result: CheckResult, config: CheckConfig) -> None:
    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    shares = ", ".join(f"{count:,} to {split}" for split, count in result.num_images.items())
    num_classes = sum(name is not None for name in result.class_names)
    console.print(
        f"{config.data}: {counted(num_classes, 'class', 'classes')}, {shares}; checked in {result.seconds:.0f} s",
        markup=False,
    )
    if result.num_findings:
        console.print(_table(result))
    console.print(f"report: {config.output.rstrip('/')}/check_dataset/report.html", markup=False)
    if not result.passed:
        num_errors = sum(result.num_findings[code] for code in FindingCode if code.severity is Severity.ERROR)
        raise CheckFailedError(
            f"{config.data}: check failed, {counted(num_errors, 'error')}; all are in "
            f"{config.output.rstrip('/')}/check_dataset/findings.parquet"
        )
    print("Check dataset passed !")


def _table(result: CheckResult) -> Table:
    table = Table("severity", "finding", "count", "meaning", "for example", box=box.SIMPLE_HEAD)
    table.columns[2].justify = "right"
    shown: Counter[FindingCode] = Counter()
    examples: dict[FindingCode, list[str]] = {}
    for finding in result.findings:
        shown[finding.code] += 1
        if shown[finding.code] <= _NUM_SHOWN:
            where = f"{finding.file}:{finding.line}" if finding.line else finding.file
            examples.setdefault(finding.code, []).append(
                " ".join(filter(None, (where or finding.path, finding.detail)))
            )
    for code in FindingCode:
        if count := result.num_findings[code]:
            more = ["…"] if count > _NUM_SHOWN else []
            words = "\n".join((*examples.get(code, []), *more))
            table.add_row(code.severity, code, f"{count:,}", code.meaning, plain(words))
    return table


def plain(text: str) -> Text:
    """Words of a dataset for a table: no markup, and nothing that moves the cursor."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text))
