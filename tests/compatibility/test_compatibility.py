"""What earlier versions left is read, understood and gone on with; ``make_fixtures`` says how it was made.

Where a documented command line is replaced on purpose, its test says which message names the new one.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import yaml
from rich.console import Console

from imgcls_ray import cli
from imgcls_ray.config import (
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    ModelsConfig,
    PredictConfig,
    ServeConfig,
    StrictModel,
    TrainConfig,
    load_config,
    make_config,
)
from imgcls_ray.models.exported import TRUSTED_PT2
from imgcls_ray.models.open import open_model
from imgcls_ray.predict.job import predict
from imgcls_ray.serve.admission.proxy import middlewares
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.store import lease
from tests.compatibility.make_fixtures import documented_commands
from tests.compatibility.photos import ROOT, photos_in_place
from tests.compatibility.verdicts import ENGINES, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imgcls_ray.models.engines.load import EngineName
    from imgcls_ray.predict.report import PredictReport

REPOSITORY = Path(__file__).parent.parent.parent
DATA = Path(__file__).parent / "0687141"
STORES = ("plain", "vectors", "open")
LIMITS = {"max_image_bytes": 20_000, "max_image_pixels": 1_000_000}
"""Of the runs in the stores, or rows that failed by them would be asked again."""
# Float32 on another processor: sums in another order. Logits of the trained network are of the order of 10.
LOGIT_TOLERANCE = 2e-3
# bf16 has 8 bits; on a processor without it the same rows are computed in float32.
SCORE_TOLERANCE = 0.05


@pytest.fixture
def photos() -> Iterator[Path]:
    try:
        with photos_in_place(DATA) as root:
            yield root
    except PermissionError as error:
        pytest.skip(f"{ROOT} belongs to another user: {error}")


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one of the stores."""
    # A lease of another machine is watched for so long before its holder is taken for dead.
    monkeypatch.setattr("imgcls_ray.store.lease._WATCH_S", 2.0)
    return Path(shutil.copytree(DATA / "stores" / request.param, tmp_path / "store"))


def named(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", names, indirect=True)


@pytest.fixture
def imgcls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: exit code and stdout."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["imgcls", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        return left.value.code, capsys.readouterr().out

    return run


def label(source: Path, store: Path, **values: Any) -> PredictReport:
    paths = {"input": str(source), "model": str(DATA / "models" / "trained"), "output": str(store)}
    return predict(
        make_config(PredictConfig, {**paths, **LIMITS, **values}), Console(stderr=True, force_terminal=False)
    )


def golden_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def rows_of(store: Path, imgcls: Callable[..., tuple[int, str]]) -> list[dict[str, Any]]:
    """Without the columns that the earliest versions did not have."""
    code, out = imgcls("store", "latest", store)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    later = {"present", "run", "time", "model", "fingerprint"}
    return [{name: value for name, value in row.items() if name not in later} for row in rows]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


# Label stores


@pytest.mark.parametrize("name", ["plain", "vectors"])
def test_the_newest_rows_of_a_store_are_those_of_the_version_that_made_it(
    name: str, imgcls: Callable[..., tuple[int, str]]
) -> None:
    assert rows_of(DATA / "stores" / name, imgcls) == golden_rows(name)


@pytest.mark.parametrize("name", ["plain", "vectors"])
def test_a_finished_store_of_an_earlier_version_is_sound(name: str, imgcls: Callable[..., tuple[int, str]]) -> None:
    code, out = imgcls("store", "verify", DATA / "stores" / name)
    assert code == 0, out
    assert "every planned input has exactly one row" in out


def test_verify_tells_the_open_run_of_an_earlier_version(
    imgcls: Callable[..., tuple[int, str]],
) -> None:
    code, out = imgcls("store", "verify", DATA / "stores" / "open")
    assert code == 1
    assert "130 inputs planned, 32 rows (ok 32)" in out
    assert "run 0001 is not finished: 98 of 130 inputs without a row" in out


@pytest.mark.parametrize(
    ("name", "states"), [("plain", ["finished"] * 4), ("vectors", ["finished"] * 2), ("open", ["open"])]
)
def test_the_history_of_a_store_tells_its_runs(
    name: str, states: list[str], imgcls: Callable[..., tuple[int, str]]
) -> None:
    code, out = imgcls("store", "history", DATA / "stores" / name)
    assert code == 0
    assert re.findall(r"^\W*\d{4}\W+(finished|open)", out, flags=re.MULTILINE) == states
    assert ("1 other run found nothing new to label" in out) == (name == "plain")


@named("plain")
def test_the_next_run_on_a_store_labels_only_what_is_new_or_changed(
    store: Path, photos: Path, imgcls: Callable[..., tuple[int, str]]
) -> None:
    before = hashes(store / "predictions")
    shutil.copy(photos / "photos" / "00001.jpg", photos / "photos" / "99999.jpg")
    (photos / "photos" / "00002.jpg").touch()
    plan = label(photos / "photos", store).plan
    assert (plan.new, plan.changed, plan.retried) == (1, 1, 0)
    assert plan.answered == plan.listed - 2 == len(list((photos / "photos").iterdir())) - 2
    after = hashes(store / "predictions")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    rows = {row["uri"]: row for row in rows_of(store, imgcls)}
    assert rows.keys() == {row["uri"] for row in golden_rows("plain")} | {str(photos / "photos" / "99999.jpg")}
    assert imgcls("store", "verify", store)[0] == 0


@pytest.mark.parametrize("store", ["plain", "vectors"], indirect=True)
def test_a_store_of_an_earlier_version_is_upgraded_and_merged_with_the_same_rows(
    store: Path, imgcls: Callable[..., tuple[int, str]]
) -> None:
    before = rows_of(store, imgcls)
    for _ in range(2):
        assert imgcls("store", "compact", store, "--whole", "--keep", "0s")[0] == 0
    assert [path.name[:7] for path in (store / "predictions").glob("*.parquet")] == ["merged-"]
    assert rows_of(store, imgcls) == before
    code, out = imgcls("store", "verify", store)
    assert code == 0, out


@named("plain")
def test_of_a_list_only_failures_that_may_pass_are_asked_again(store: Path, photos: Path) -> None:
    plan = label(photos / "inputs.csv", store, dry_run=True).plan
    transient = [row["uri"] for row in golden_rows("plain") if row["error"] in ("access_denied", "fetch_failed")]
    assert len(transient) == 2
    assert (plan.new, plan.changed) == (0, 0)
    assert plan.retried <= len(transient)
    assert plan.retried + plan.answered == plan.listed == 7


@named("vectors")
def test_a_store_with_embeddings_and_logits_goes_on(
    store: Path, photos: Path, imgcls: Callable[..., tuple[int, str]]
) -> None:
    report = label(photos / "photos" / "000[0-2]*.jpg", store, top_k=2, embedding=True, logits=True)
    assert (report.plan.new, report.plan.answered) == (10, 20)
    rows = rows_of(store, imgcls)
    assert rows[:20] == golden_rows("vectors")
    assert {(len(row["embedding"]), len(row["logits"]), len(row["labels"])) for row in rows} == {(1280, 4, 2)}
    assert imgcls("store", "verify", store)[0] == 0


@named("open")
def test_an_open_run_of_an_earlier_version_is_finished_with_no_row_lost_or_doubled(
    store: Path, photos: Path, imgcls: Callable[..., tuple[int, str]]
) -> None:
    before = hashes(store / "predictions")
    report = label(photos / "photos", store, precision="fp32", on="local")
    [finished] = [run for run in report.runs if run.num_images]
    assert (finished.run, finished.num_images) == (1, 130)
    assert 0 < finished.num_done_before < 130
    assert (report.plan.planned, report.plan.answered) == (0, 130)
    after = hashes(store / "predictions")
    assert {name: after[name] for name in before} == before
    assert imgcls("store", "verify", store)[0] == 0
    rows = rows_of(store, imgcls)
    assert [comparable(row) for row in rows] == [comparable(row) for row in golden_rows("open")]
    for row, golden in zip(rows, golden_rows("open"), strict=True):
        assert_scores_agree(row, golden)


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on the processor."""
    return {key: row[key] for key in ("image_id", "uri", "etag", "status", "error", "width", "height")}


def assert_scores_agree(row: Mapping[str, Any], golden: Mapping[str, Any]) -> None:
    if golden["error"] is not None:
        return
    scores, expected = (dict(zip(r["labels"], r["scores"], strict=True)) for r in (row, golden))
    assert scores.keys() == expected.keys()
    assert max(abs(scores[name] - expected[name]) for name in expected) < SCORE_TOLERANCE
    if golden["scores"][0] - golden["scores"][1] > SCORE_TOLERANCE:
        assert row["label"] == golden["label"]


@named("vectors")
def test_the_lease_of_a_command_that_was_killed_does_not_hold_a_store_for_ever(
    store: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_WATCH_S", 0.2)
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    shutil.copy(DATA / "stores" / "open" / "lease.json", store)
    report = label(photos / "photos" / "0000*.jpg", store, top_k=2, embedding=True, logits=True)
    assert (report.plan.planned, report.plan.answered) == (0, 10)
    assert not (store / "lease.json").exists()


# Model folders


@pytest.mark.parametrize(
    ("name", "engine"), [(name, engine) for name, engines in ENGINES.items() for engine in engines]
)
def test_a_model_folder_says_what_it_said(
    name: str, engine: EngineName, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = DATA / "models" / name
    spec = open_model(str(path), DEFAULT_STORAGE).spec
    if name == "torch_export":
        if spec.versions["torch"] != version("torch"):
            pytest.skip("a .pt2 is for the version of torch that wrote it, as docs/export.md says")
        monkeypatch.setenv(TRUSTED_PT2, spec.files["model.pt2"])
    verdicts, golden = judge(path, engine), json.loads((DATA / "golden" / "models.json").read_text())[name][engine]
    assert verdicts["fingerprint"] == golden["fingerprint"]
    for photo, expected in golden["photos"].items():
        verdict = verdicts["photos"][photo]
        assert_close(verdict["logits"], expected["logits"])
        assert_close(verdict["embedding"], expected["embedding"])
        if name != "zoo":  # whose random head says nearly the same of everything
            assert verdict["label"] == expected["label"]


def assert_close(found: list[float], expected: list[float]) -> None:
    assert len(found) == len(expected)
    if expected:
        largest = max(map(abs, expected))
        np.testing.assert_allclose(
            np.array(found) / largest, np.array(expected) / largest, rtol=0, atol=LOGIT_TOLERANCE
        )


# Configurations and command lines


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PredictConfig, "predict"),
        (CheckConfig, "check_dataset"),
        (EvaluateConfig, "evaluate"),
        (ExportConfig, "export"),
        (TrainConfig, "train"),
    ],
)
def test_a_jobs_yaml_of_an_earlier_version_is_accepted(kind: type[StrictModel], name: str) -> None:
    make_config(kind, load_config(DATA / "jobs" / f"{name}.yaml"))


def test_the_serve_config_of_an_earlier_version_is_accepted() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load((DATA / "serve_config.yaml").read_text())
    ServeDeploySchema.model_validate(config)
    [application] = config["applications"]
    make_config(ServeConfig, application["args"])
    [deployment] = application["deployments"]
    make_config(ModelsConfig, deployment["user_config"])
    assert callable(_find(application["import_path"]))
    # Ray Serve's HTTP servers do not start without it.
    for runtime_env in (config["controller_options"]["runtime_env"], application["runtime_env"]):
        assert _find(runtime_env["env_vars"]["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]) is middlewares


def _find(import_path: str) -> object:
    module, _, name = import_path.partition(":")
    return getattr(importlib.import_module(module), name)


class Accepted(BaseException):
    """The command was understood and would begin."""


@pytest.fixture
def begins_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command ends where it has understood what it is to do."""

    def check_and_accept(kind: type[StrictModel], values: Mapping[str, Any]) -> NoReturn:
        make_config(kind, values)
        raise Accepted

    for command in ("predict", "check", "split", "train", "evaluate", "export", "serve", "models", "store"):
        monkeypatch.setattr(f"imgcls_ray.commands.{command}.make_config", check_and_accept)
    shutil.copytree(DATA / "jobs", tmp_path / "jobs")
    monkeypatch.chdir(tmp_path)


COMMANDS = (DATA / "commands.txt").read_text(encoding="utf-8").splitlines()
# Only PaddleX's door takes pairs after -o now; elsewhere it is --output.
REPLACED = [
    line for line in COMMANDS if line.startswith("imgcls ") and re.search(r" -o \S+=", line) and " run " not in line
]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("imgcls ") and line not in REPLACED])
def test_a_documented_command_line_is_understood(
    line: str, begins_nothing: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = shlex.split(line.replace("…", "--data data --model model"))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Accepted):
        cli.main()
    if "--data" in words:
        new = f"give the dataset as the argument: imgcls {words[1]} {words[words.index('--data') + 1]}"
        assert new in caplog.messages


@pytest.mark.parametrize("line", REPLACED)
def test_a_documented_pair_after_o_is_answered_with_the_new_option(
    line: str, begins_nothing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line.replace("…", "--data data --model model")
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    pair = re.findall(r" -o (\S+)", line)[0]
    assert f"imgcls: -o {pair}: a key is set with -s: -s {pair}" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", shlex.split(line.replace(" -o ", " -s ")))
    with pytest.raises(Accepted):
        cli.main()


def test_a_jobs_yaml_that_says_dataset_works_and_names_the_new_key(
    begins_nothing: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["imgcls", "check", "-c", "jobs/check_dataset.yaml"])
    with pytest.raises(Accepted):
        cli.main()
    assert "jobs/check_dataset.yaml: dataset: this key is called data now" in caplog.messages


@pytest.mark.parametrize("line", [line for line in COMMANDS if "ray job submit " in line])
def test_a_documented_job_is_understood(line: str, begins_nothing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    python, script, *arguments = shlex.split(line.partition(" -- ")[2])
    assert python == "python"
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Accepted):
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")


def test_every_kind_of_command_line_is_among_the_documented_ones() -> None:
    kinds = {" ".join(line.split()[:2]) for line in COMMANDS}
    commands = ("predict", "check", "split", "train", "evaluate", "export", "serve", "models", "store", "run")
    assert {f"imgcls {name}" for name in commands} | {"serve deploy", "ray job"} <= kinds


def test_the_command_lines_of_a_page_are_found() -> None:
    page = "text\n```\n$ ls\nimgcls a b   # why\nX=1 ray job submit \\\n  -- python x\n```\n`imgcls c`\n"
    assert documented_commands(page) == ["imgcls a b", "X=1 ray job submit -- python x"]
