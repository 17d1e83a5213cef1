"""The ``imgcls`` command: parse, call, tell, leave with an exit code.

Exit codes: 0 done; 1 the job ended but failed; 2 the request cannot be carried out as made; 3 storage failed; 75 the
store is in use by another run; 130 interrupted. Nothing heavy is imported before a command
needs it: ``imgcls --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from imgcls_ray import __version__
from imgcls_ray.commands.refusals import as_refusal, check_current_folder, flush_stdout, open_standard_streams
from imgcls_ray.errors import ImgclsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="imgcls",
    help="Label images with a classifier: one file on a laptop or a hundred million on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="List the networks that can be asked for by name; make model folders.")
store_app = typer.Typer(help="Look into a label store.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(store_app, name="store")

Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder or s3://bucket/prefix.")]
S3Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Server of s3:// URIs. \\[default: AWS_ENDPOINT_URL]", show_default=False),
]

Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of the same keys.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", "-o", metavar="KEY=VALUE", help="Set any key of the configuration.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="DATASET",
        help="Folder (local or s3://) with train.txt, val.txt and label.txt, or of class folders; or a .csv or "
        ".parquet file with uri, label and maybe split.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="cpu|gpu|gpu:0,1", help="Where the network runs. \\[default: cpu]", show_default=False),
]


def main() -> NoReturn:
    """Run the command."""
    leave_with(app)


def leave_with(program: Callable[[], object]) -> NoReturn:
    """Run a program to its exit code; every failure that has a name is one line on stderr."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    # Arrow's own allocator keeps what planning has touched for the rest of the job: 40 MB for 20,000 inputs. It reads
    # this when it is loaded, which no command has done yet.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    open_standard_streams()
    try:
        try:
            program()
        except SystemExit:
            flush_stdout()
            raise
        flush_stdout()
    except ImgclsError as error:
        _end(error)
    except OSError as error:
        if (refusal := as_refusal(error)) is None:
            raise
        _end(refusal)
    sys.exit(0)


def _end(error: ImgclsError) -> NoReturn:
    print(f"imgcls: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def log_to_stderr() -> None:
    """One line per event of the job."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("imgcls_ray").setLevel(logging.INFO)


class _StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the time: a job moves it away from the noise of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _on_sigterm(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"imgcls {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    check_current_folder()
    log_to_stderr()


@app.command()
def predict(
    input: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="Image, folder (recursive), s3://bucket/prefix/, glob, list (.txt, .csv or .parquet with a 'uri' "
            "column, or an S3 Inventory's manifest.json), http(s) address.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder (local or s3://), or a name of the zoo.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Label store: a folder or s3://bucket/prefix, made if need be.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of the same keys.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set any key of the configuration.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Labels kept per image. \\[default: 5]", show_default=False)] = None,
    embedding: Annotated[bool, typer.Option("--embedding", help="Keep the features before the head.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Keep the raw score of every class.")] = False,
    export: Annotated[
        str | None, typer.Option(metavar="parquet|jsonl|csv", help="Also write the newest row of every input.")
    ] = None,
    save_images: Annotated[int | None, typer.Option(metavar="N", help="Leave N annotated samples.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Label at most N inputs; of a run that was left open whole units, and at least one."
        ),
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option(metavar="CODES", help="Ask again for inputs that failed with these, e.g. corrupt,access_denied."),
    ] = None,
    accept_missing: Annotated[
        bool,
        typer.Option("--accept-missing", help="Record missing images even where their whole folder is gone or empty."),
    ] = False,
    max_error_rate: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Exit 1 if a larger share of the inputs fails, e.g. 0.05.")
    ] = None,
    num_workers: Annotated[int | None, typer.Option(metavar="N", help="CPU workers. \\[default: all cores]")] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|gpu|gpu:0,1", help="Where the network runs. \\[default: cpu]", show_default=False),
    ] = None,
    num_gpus: Annotated[int | None, typer.Option(metavar="N", help="Label on N GPUs, whichever they are.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per forward pass. \\[default: 32]")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="auto|openvino|torch")] = None,
    s3_endpoint_url: S3Endpoint = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be labelled; write nothing.")] = False,
) -> None:
    """Label images. Run again, the same command labels only what is new, changed or unfinished.

    One image without --output is labelled at once and printed.
    """
    from imgcls_ray.commands import predict as command

    flags = {
        "input": input,
        "model": model,
        "output": output,
        "top_k": top_k,
        "embedding": embedding or None,
        "logits": logits or None,
        "export": export,
        "save_images": save_images,
        "limit": limit,
        "retry": retry,
        "accept_missing": accept_missing or None,
        "max_error_rate": max_error_rate,
        "num_workers": num_workers,
        "device": device,
        "num_gpus": num_gpus,
        "batch_size": batch_size,
        "engine": engine,
        "s3_endpoint_url": s3_endpoint_url,
        "dry_run": dry_run or None,
    }
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


@app.command()
def check(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            help="Folder (local or s3://) with train.txt, val.txt and label.txt, or of class folders; or a .csv or "
            ".parquet file with uri, label and maybe split.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the report goes. \\[default: output]", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of the same keys.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            "-o",
            metavar="KEY=VALUE",
            help="Set any key, also PaddleX's: CheckDataset.split.enable=True.",
        ),
    ] = None,
    num_workers: Annotated[int | None, typer.Option(metavar="N", help="Workers. \\[default: all cores]")] = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Check a labelled dataset: every line, every image, every pair. Exit code 0: it passed; 1: it has errors."""
    from imgcls_ray.commands import check as command

    flags = {"dataset": dataset, "output": output, "num_workers": num_workers, "s3_endpoint_url": s3_endpoint_url}
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    family: Annotated[str | None, typer.Option(help="Only this family, e.g. ResNet.")] = None,
    max_params: Annotated[
        float | None, typer.Option(min=0, metavar="MILLIONS", help="Only networks of at most so many parameters.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(min=0, metavar="PERCENT", help="Only networks of at least this published accuracy.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only networks that timm has weights of.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable, with every detail.")] = False,
) -> None:
    """List the networks that can be asked for by name; make model folders."""
    if context.invoked_subcommand is None:
        from imgcls_ray.commands import models as command

        command.show(family=family, max_params=max_params, min_top1=min_top1, pretrained=pretrained, as_json=json)


@models_app.command("new")
def models_new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="E.g. PP-LCNet_x1_0 (see `imgcls models`), or timm:NAME for timm's.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="Number of classes. \\[default: that of the weights]", show_default=False
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class names: one a line, or PaddleX's label.txt ('id name').")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="timm's weights; so without any other.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Model folder, .safetensors, torch or timm state dict, or PaddleClas' .pdparams.",
        ),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Random weights, for benchmarks.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the random weights.")] = 0,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Make a model folder: with timm's pretrained weights, from --weights, or --random."""
    from imgcls_ray.commands import models as command
    from imgcls_ray.storage.s3 import S3Options

    if (weights is not None) + random + pretrained > 1:
        raise UsageError("--pretrained, --weights and --random exclude each other")
    if str(output).startswith("s3:/"):
        raise UsageError(f"{output}: a model folder is made on this machine; copy it to the bucket afterwards")
    command.new(
        name,
        output,
        num_classes=num_classes,
        labels=labels,
        weights=weights,
        random_seed=seed if random else None,
        s3=S3Options(s3_endpoint_url),
    )


@store_app.command("status")
def store_status(store: Store, s3_endpoint_url: S3Endpoint = None) -> None:
    """Say what the store holds: its model, its runs, what is open, who uses it."""
    from imgcls_ray.commands import store as command
    from imgcls_ray.storage.s3 import S3Options

    command.status(store, S3Options(s3_endpoint_url))


@store_app.command("verify")
def store_verify(store: Store, s3_endpoint_url: S3Endpoint = None) -> None:
    """Count gaps, doubles and foreign files. Exit code 0: every planned input has exactly one row."""
    from imgcls_ray.commands import store as command
    from imgcls_ray.storage.s3 import S3Options

    command.verify(store, S3Options(s3_endpoint_url))


@store_app.command("latest")
def store_latest(
    store: Store,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .parquet, .jsonl or .csv file; else JSON lines to stdout.")
    ] = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Write the newest row of every input, sorted by URI."""
    from imgcls_ray.commands import store as command
    from imgcls_ray.storage.s3 import S3Options

    command.latest(store, output, S3Options(s3_endpoint_url))


@app.command()
def split(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Folder with train.txt, val.txt, test.txt ('path id' a line), or folders of classes.",
        ),
    ],
    train_percent: Annotated[float, typer.Option(metavar="N", help="Share of the images to train with.")],
    val_percent: Annotated[float, typer.Option(metavar="N", help="Share of the images to validate with.")],
    test_percent: Annotated[float, typer.Option(metavar="N", help="Share of the images to test with.")] = 0,
    seed: Annotated[int, typer.Option(help="Another one deals the images otherwise.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Keep images together whose paths give the same first group, or the same match."
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text between path and class id of the lists. \\[default: the last spaces or tab of a line]",
        ),
    ] = None,
) -> None:
    """Split a labelled dataset anew: every class keeps its shares, every list that is replaced is kept as .bak."""
    from imgcls_ray.commands import split as command

    command.run(
        dataset,
        train_percent=train_percent,
        val_percent=val_percent,
        test_percent=test_percent,
        seed=seed,
        group_by=group_by,
        delimiter=delimiter,
    )


@app.command()
def train(
    data: Dataset = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME|FOLDER", help="Name of the zoo, or a model folder.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the run goes. \\[default: output]", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Times that every image is seen. \\[default: 20]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per step, of all workers. \\[default: 64]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="LR", help="Highest one. \\[default: the family's recipe]")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Height and width of what the network sees. \\[default: the zoo's]"),
    ] = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained/--scratch", help="Start from timm's weights, or from random ones.")
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="PATH", help="Start from these weights.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of weights, order and augmentation. \\[default: 0]")
    ] = None,
    device: Device = None,
    num_workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that train together.")] = None,
    config: Config = None,
    set_: Overrides = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Fine-tune a network on a labelled dataset. Run again, the same command goes on where it was."""
    from imgcls_ray.commands import train as command

    flags = {
        "data": data,
        "model": model,
        "output": output,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "pretrained": pretrained,
        "weights": weights,
        "seed": seed,
        "device": device,
        "num_workers": num_workers,
        "s3_endpoint_url": s3_endpoint_url,
    }
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


@app.command()
def evaluate(
    data: Dataset = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder (local or s3://), or a name of the zoo.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the result goes. \\[default: output]", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="train|val|test", help="Which of its splits. \\[default: val]")
    ] = None,
    device: Device = None,
    num_workers: Annotated[int | None, typer.Option(metavar="N", help="CPU workers. \\[default: all cores]")] = None,
    config: Config = None,
    set_: Overrides = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Say how good a model is on a labelled dataset: in all, by class, by mistake, and how sure it may be."""
    from imgcls_ray.commands import evaluate as command

    flags = {
        "data": data,
        "model": model,
        "output": output,
        "split": split,
        "device": device,
        "num_workers": num_workers,
        "s3_endpoint_url": s3_endpoint_url,
    }
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


@app.command()
def export(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder (local or s3://), or a name of the zoo.")
    ] = None,
    format: Annotated[str | None, typer.Option(metavar="onnx|openvino|torch_export")] = None,
    output: Annotated[str | None, typer.Option("--output", metavar="DIR", help="The folder to make.")] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Real images to compare on and to calibrate with: a dataset or a folder."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8 bits, calibrated on --images.")] = False,
    config: Config = None,
    set_: Overrides = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Export a model for other runtimes, and compare it with the original; one that differs is refused."""
    from imgcls_ray.commands import export as command

    flags = {
        "model": model,
        "format": format,
        "output": output,
        "images": images,
        "int8": int8 or None,
        "s3_endpoint_url": s3_endpoint_url,
    }
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder (local or s3://), or a name of the zoo.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at. \\[default: 127.0.0.1, this machine only]", show_default=False),
    ] = None,
    port: Annotated[int | None, typer.Option(help="\\[default: 8000]", show_default=False)] = None,
    num_replicas: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes that share the cores. \\[default: one per core]", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|gpu", help="Where the network runs. \\[default: cpu]", show_default=False)
    ] = None,
    config: Config = None,
    set_: Overrides = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Answer over HTTP on this machine: a page, a JSON API, PaddleX's and KServe's protocols.

    For a cluster: `serve deploy serve_config.yaml`.
    """
    from imgcls_ray.commands import serve as command

    flags = {
        "model": model,
        "host": host,
        "port": port,
        "num_replicas": num_replicas,
        "device": device,
        "s3_endpoint_url": s3_endpoint_url,
    }
    command.run(config, set_ or [], {key: value for key, value in flags.items() if value is not None})


# What is left of `-o KEY = VALUE` is taken in, so that the command can say what is wrong with it.
@app.command("run", context_settings={"allow_extra_args": True})
def run_paddlex(
    context: typer.Context,
    config: Annotated[
        str, typer.Option("--config", "-c", help="PaddleX's YAML file, or the name of a network for its defaults.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--override", "-o", metavar="KEY=VALUE", help="E.g. Global.mode=train, Train.epochs_iters=10."),
    ] = None,
) -> None:
    """PaddleX's commands: `python main.py -c … -o …` with `imgcls run` in place of `python main.py`."""
    from imgcls_ray.commands import paddlex as command

    command.run(config, [*(override or []), *context.args])


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to work; must not exist.")] = Path("demo"),
) -> None:
    """Draw a data set, train a small model, label all of it, leave annotated pictures. Needs no network."""
    from imgcls_ray.commands import demo as command

    command.run(output)


if __name__ == "__main__":
    main()
