"""The ``imgcls`` command: parse, call, tell, leave with an exit code.

Exit codes: 0 done; 1 the job ended but failed; 2 the request cannot be carried out as made; 3 storage failed; 75 the
store is in use by another run; 130 interrupted. Nothing heavy is imported before a command needs it: ``imgcls --help``
answers at once. The options of a command are the fields of its configuration.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from imgcls_ray import __version__
from imgcls_ray.commands.refusals import as_refusal, check_current_folder, flush_stdout, open_standard_streams
from imgcls_ray.errors import ImgclsError
from imgcls_ray.flags import Given, command, command_of, group
from imgcls_ray.usage import OneLineCommand, OneLineGroup

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="imgcls",
    cls=OneLineGroup,
    help="Label images with a classifier: one file on a laptop or a hundred million on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer()
store_app = typer.Typer(cls=OneLineGroup, help="Inspect a label store.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(store_app, name="store")


def main() -> NoReturn:
    """Run the command."""
    leave_with(lambda: app(prog_name="imgcls"))


def run_job(name: str) -> NoReturn:
    """Run a command as the script of a Ray job, ``jobs/NAME.py``, with pairs ``key=value`` as arguments."""
    declared = {"check_dataset": check, "evaluate": evaluate, "export": export, "predict": predict, "train": train}

    def run() -> None:
        check_current_folder()
        log_to_stderr()
        command_of(declared[name], as_job=True)(prog_name=f"jobs/{name}.py")

    leave_with(run)


def leave_with(program: Callable[[], object]) -> NoReturn:
    """Run a program to its exit code; every failure that has a name is one line on stderr."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    # Arrow's own allocator keeps what planning has touched for the rest of the job: 40 MB for 20,000 inputs. It reads
    # this when it is loaded, which no command has done yet.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # To look for plugins, pydantic reads the metadata of every installed package, in each process.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
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
    except (OSError, RuntimeError) as error:
        if (refusal := as_refusal(error)) is None:
            raise
        _end(refusal)
    finally:
        # The interpreter's end would look through all modules for garbage several times, a tenth of a second. Libraries
        # of torch's must be cleared: they print what is left of them.
        if "torch" not in sys.modules:
            gc.freeze()
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


def _on_sigterm(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"imgcls {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    check_current_folder()
    log_to_stderr()


@command(app, "predict:PredictConfig", argument="input")
def predict(given: Given) -> None:
    """Label images. The same command, run again, labels only new, changed and unfinished inputs.

    One image without --output is labelled immediately, and its labels are printed.
    """
    from imgcls_ray.commands import predict

    predict.run(*given)


@command(app, "check:CheckConfig", argument="data")
def check(given: Given) -> None:
    """Check every line, every image and every pair of images of a labelled dataset. Exit code 1: it has errors."""
    from imgcls_ray.commands import check

    check.run(*given)


@group(models_app, "models:ListModelsConfig")
def models(given: Given) -> None:
    """List the networks of the zoo, or create a model folder with `new`."""
    from imgcls_ray.commands import models

    models.show(*given)


@command(models_app, "models:NewModelConfig", argument="name", name="new")
def models_new(given: Given) -> None:
    """Create a model folder with timm's pretrained weights, your own (--weights) or random ones (--random)."""
    from imgcls_ray.commands import models

    models.new(*given)


@command(store_app, "store:StatusConfig", argument="store", name="status")
def store_status(given: Given) -> None:
    """Show the model, the rows, the open runs and the lease holder of a label store."""
    from imgcls_ray.commands import store

    store.status(*given)


@command(store_app, "store:HistoryConfig", argument="store", name="history")
def store_history(given: Given) -> None:
    """List the runs of a label store."""
    from imgcls_ray.commands import store

    store.history(*given)


@command(store_app, "store:CompactConfig", argument="store", name="compact")
def store_compact(given: Given) -> None:
    """Merge the files of finished runs into large ones. Readers see the same rows before, meanwhile and afterwards."""
    from imgcls_ray.commands import store

    store.compact(*given)


@command(store_app, "store:StoreConfig", argument="store", name="verify")
def store_verify(given: Given) -> None:
    """Count missing rows, doubled rows and foreign files. Exit code 0: every planned input has exactly one row."""
    from imgcls_ray.commands import store

    store.verify(*given)


@command(store_app, "store:LatestConfig", argument="store", name="latest")
def store_latest(given: Given) -> None:
    """Write the newest row of every input, sorted by URI."""
    from imgcls_ray.commands import store

    store.latest(*given)


@command(store_app, "store:DiffConfig", argument="stores", name="diff")
def store_diff(given: Given) -> None:
    """Compare the labels of two label stores, A and B: which inputs changed their class, with examples."""
    from imgcls_ray.commands import store_diff

    store_diff.run(*given)


@command(app, "store:DriftConfig", argument="store")
def drift(given: Given) -> None:
    """Compare the images of a run with those that its model was evaluated on. Exit code 1: more than --max-drift."""
    from imgcls_ray.commands import drift

    drift.run(*given)


@command(app, "store:ReportConfig", argument="store")
def report(given: Given) -> None:
    """Write one page about a label store: counts, confidence, errors, pictures, and what the newest run changed."""
    from imgcls_ray.commands import report

    report.run(*given)


@command(app, "review:ReviewConfig", argument="store")
def review(given: Given) -> None:
    """Write a queue of images that a person should look at first; --apply adds the answers to a dataset."""
    from imgcls_ray.commands import review

    review.run(*given)


@command(app, "check:SplitConfig", argument="data")
def split(given: Given) -> None:
    """Split a labelled dataset. Every class gets the given shares; replaced lists are kept as .bak."""
    from imgcls_ray.commands import split

    split.run(*given)


@command(app, "train:TrainConfig", argument="data")
def train(given: Given) -> None:
    """Fine-tune a network on a labelled dataset. The same command, run again, continues the run."""
    from imgcls_ray.commands import train

    train.run(*given)


@command(app, "evaluate:EvaluateConfig", argument="data")
def evaluate(given: Given) -> None:
    """Evaluate a model on a labelled dataset: metrics in total and per class, worst mistakes, calibration."""
    from imgcls_ray.commands import evaluate

    evaluate.run(*given)


@command(app, "export:ExportConfig")
def export(given: Given) -> None:
    """Export a model to ONNX, OpenVINO or torch.export. An export that gives too many other labels is refused."""
    from imgcls_ray.commands import export

    export.run(*given)


@command(app, "serve:ServeConfig")
def serve(given: Given) -> None:
    """Serve a model over HTTP on this machine, with a page, a JSON API, and PaddleX's and KServe's protocols.

    On a cluster, use `serve deploy serve_config.yaml`.
    """
    from imgcls_ray.commands import serve

    serve.run(*given)


# What is left of `-o KEY = VALUE` is taken in, so that the command can say what is wrong with it.
@app.command("run", cls=OneLineCommand, context_settings={"allow_extra_args": True})
def run_paddlex(
    context: typer.Context,
    config: Annotated[
        str, typer.Option("--config", "-c", help="PaddleX's YAML file, or the name of a network for its defaults.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--override", "-o", "--set", "-s", metavar="KEY=VALUE", help="Set a key, e.g. Global.mode=train."),
    ] = None,
) -> None:
    """Run a command line of PaddleX: `imgcls run -c … -o …` replaces `python main.py -c … -o …`."""
    from imgcls_ray.commands import paddlex

    paddlex.run(config, [*(override or []), *context.args])


@command(app, "demo:DemoConfig")
def demo(given: Given) -> None:
    """Draw a data set, train a small model on it, label images and annotate some of them. Needs no network."""
    from imgcls_ray.commands import demo

    demo.run(*given)


if __name__ == "__main__":
    main()
