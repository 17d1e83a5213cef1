"""A run from its data set to its files, with the one worker in this process."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from imgcls_ray import create_model
from imgcls_ray.errors import ConfigError, InputError, JobFailedError, StoppedError, StoreInUseError, UsageError
from imgcls_ray.models.engines import converted
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.storage.object_directory import ObjectDirectory
from imgcls_ray.store.lease import hold_lease
from imgcls_ray.train import job
from imgcls_ray.train.entries import read_entries
from imgcls_ray.train.job import check_output, train
from tests.train.conftest import CLASSES, NUM_VAL, write_colours

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult


def result_of(output: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path(output, "train_result.json").read_text())
    return result


@pytest.fixture(scope="session")
def trained_once() -> dict[str, Path]:
    """Where the run is that several tests look at."""
    return {}


@pytest.fixture
def trained(
    trained_once: dict[str, Path],
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of 16 epochs that is done."""
    if not trained_once:
        output = tmp_path_factory.mktemp("trained") / "run"
        train_here(make_train_config(output=str(output), epochs=16, batch_size=8, save_interval=4, keep_checkpoints=2))
        trained_once["output"] = output
    return trained_once["output"]


def test_it_learns_what_pictures_show_and_leaves_a_model_that_knows_it(trained: Path, colours: Path) -> None:
    result = result_of(trained)
    assert result["done_flag"] is True
    assert result["best"]["metrics"]["val.top1"] >= 0.9
    model = create_model(trained / "best_model")
    assert model.class_names == CLASSES
    lines = (colours / "val.txt").read_text().splitlines()
    labels = [next(iter(model.predict(colours / line.split()[0]))).label for line in lines]
    right = sum(label == CLASSES[int(line.split()[1])] for label, line in zip(labels, lines, strict=True))
    assert right / NUM_VAL == pytest.approx(result["best"]["metrics"]["val.top1"])


def test_it_leaves_what_people_and_programs_look_for(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "best_model", "latest", "epoch_12", "epoch_16", "train_result.json", "train.log", "config.yaml", "label.txt",
        "curves.png", "tensorboard",
    }  # fmt: skip
    result = result_of(trained)
    best = open_model_folder(trained / "best_model").spec
    assert result["models"]["best"] == {
        "score": result["best"]["metrics"]["val.top1"],
        "path": "best_model",
        "epoch": result["best"]["epoch"],
        "fingerprint": best.fingerprint,
    }
    assert best.metrics["val.top1"] == result["best"]["metrics"]["val.top1"]
    assert best.preprocess.crop_size == 32
    assert [row["epoch"] for row in result["history"]] == list(range(1, 17))
    assert "epoch 16" in (trained / "train.log").read_text()
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    assert (trained / "label.txt").read_text() == "0 red\n1 green\n2 blue\n"
    for name in ("latest", "epoch_12", "epoch_16"):
        open_model_folder(trained / name)
        assert (trained / name / "train_state.pt").exists()


def test_the_result_has_paddlexs_keys(trained: Path) -> None:
    result = result_of(trained)
    paddlex = ["model_name", "label_dict", "train_log", "visualdl_log", "config", "models", "done_flag"]
    assert list(result)[: len(paddlex)] == paddlex
    assert {"last_1", "best"} <= result["models"].keys()
    assert all({"score", "path"} <= model.keys() for model in result["models"].values())


def test_the_epoch_with_the_best_metric_is_kept(trained: Path) -> None:
    result = result_of(trained)
    best = max(result["history"], key=lambda row: row["val.top1"])
    assert result["best"]["metrics"]["val.top1"] == best["val.top1"]
    assert result["history"][result["best"]["epoch"] - 1]["val.top1"] == best["val.top1"]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_run_with_evaluations_within_epochs_goes_on_as_it_would_have(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    tmp_path: Path,
    stop_after: int,
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "eval_steps": 2, "log_interval": 1}
    train_here(make_train_config(output=str(tmp_path / "whole"), **settings))
    parts = make_train_config(output=str(tmp_path / "parts"), **settings)
    with pytest.raises(StoppedError):
        train_here(parts, stop_after=stop_after)
    train_here(parts)
    one, other = (result_of(tmp_path / name) for name in ("whole", "parts"))
    for result in (one, other):
        for row in result["history"]:
            row.pop("seconds", None)
            row.pop("images_per_s", None)
    assert one["history"] == other["history"]
    assert one["classes"] == other["classes"]
    assert [row["step"] for row in one["history"]] == [2, 4, 6]
    assert len({row["val.loss"] for row in one["history"]}) == 3
    weights = [load_file(tmp_path / name / "latest" / "model.safetensors") for name in ("whole", "parts")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_run_again_it_is_done(
    trained: Path, make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    before = (trained / "best_model" / "model.json").read_bytes()
    result = train_here(
        make_train_config(output=str(trained), epochs=16, batch_size=8, save_interval=4, keep_checkpoints=2)
    )
    assert result.was_done
    assert (trained / "best_model" / "model.json").read_bytes() == before


def test_the_best_model_gets_its_converted_network_when_the_result_is_written(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    bundled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_train_config(epochs=1)
    best = Path(config.output, "best_model")

    def fail(*_: object) -> None:
        assert result_of(config.output)["done_flag"] is True
        raise RuntimeError("no room")

    # The conversion fails: the run and its model are whole.
    monkeypatch.setattr(converted, "convert_network", fail)
    with monkeypatch.context() as patch:
        patch.setattr(job, "add_bundle", add_bundle)
        assert not train_here(config).was_done
    assert "without its converted network" in caplog.text
    assert open_model_folder(best).spec.class_names == CLASSES
    # Run again, the command tries again.
    assert train_here(config).was_done
    assert bundled == [str(best)]


@pytest.mark.parametrize("name", ["config.yaml", "0.jpg", "latest/other.pt"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_somebody_elses_folder_is_refused_before_anything_is_written(
    tmp_path: Path, make_train_config: Callable[..., TrainConfig], name: str, is_shared: bool
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    if is_shared and name == "0.jpg":  # PaddleX's predictions may lie there, as no run writes such a file
        check_output(open_directory(str(tmp_path / "run")), "run", is_shared=True)
        return
    with pytest.raises(
        UsageError,
        match=rf"run: is not the output of a training run \(it holds '{path.parts[len(tmp_path.parts) + 1]}'",
    ):
        train(make_train_config(), Console(file=io.StringIO()), is_shared=is_shared)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert path.read_text() == "mine"


def test_what_other_commands_and_a_failure_left_there_is_no_obstacle(
    tmp_path: Path, make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    for name in ("check_dataset/report.html", "check_dataset_result.json", "train_result.json", ".nfs1"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    train_here(make_train_config(epochs=1))
    assert result_of(tmp_path / "run")["done_flag"] is True


def test_a_prefix_of_somebody_elses_objects_is_refused(
    make_train_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectDirectory, "exists", lambda _self, _name: False)
    monkeypatch.setattr(ObjectDirectory, "entries", lambda _self, *_args, **_names: iter(["photos/"]))
    with pytest.raises(
        UsageError, match=r"^s3://bucket/a: is not the output of a training run .it holds 'photos' and "
    ):
        train(make_train_config(output="s3://bucket/a"), Console(file=io.StringIO()))


@pytest.mark.parametrize("changes", [{"epochs": 7}, {"learning_rate": 0.02}, {"seed": 1}, {"batch_size": 16}])
def test_a_run_of_other_settings_does_not_go_on_there(
    trained: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    changes: dict[str, Any],
) -> None:
    [(key, value)] = changes.items()
    with pytest.raises(UsageError, match=rf"holds a (finished )?run with {key}=\S+, this command has {key}={value}; "):
        train_here(make_train_config(output=str(trained), **{"epochs": 16, "batch_size": 8, **changes}))


def test_nor_does_one_on_other_data(
    trained: Path,
    tmp_path: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
) -> None:
    write_colours(tmp_path / "other", num_train=49)
    with pytest.raises(UsageError, match="holds a finished run of another dataset, or this one has changed"):
        train_here(make_train_config(data=str(tmp_path / "other"), output=str(trained), epochs=16, batch_size=8))


@pytest.mark.parametrize(
    "stop_after", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
def test_stopped_anywhere_it_goes_on_as_if_it_had_not_been(
    tmp_path: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    stop_after: int,
) -> None:
    recipe: dict[str, Any] = {"ema_decay": 0.9, "mixup": 0.5, "optimizer": "sgd", "learning_rate": 0.05}
    whole, halves = (make_train_config(output=str(tmp_path / name), epochs=3, **recipe) for name in ("whole", "halves"))
    train_here(whole)
    # The first message says that it begins; then there is one at the second step and at the last of an epoch, and one
    # at its end.
    epoch = 1 if stop_after == 2 else 2
    with pytest.raises(StoppedError, match=f"stopped in epoch {epoch} of 3; the same command goes on"):
        train_here(halves, stop_after=stop_after)
    assert result_of(halves.output) == {
        "done_flag": False,
        "err_type": "<class 'imgcls_ray.errors.StoppedError'>",
        "err_msg": f"stopped in epoch {epoch} of 3; the same command goes on from there; {halves.output} has the "
        "state so far",
    }
    train_here(halves)
    one, other = (load_file(Path(config.output, "latest", "model.safetensors")) for config in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [
        [{**row, "seconds": 0, "images_per_s": 0} for row in result_of(c.output)["history"]] for c in (whole, halves)
    ]
    assert rows[0] == rows[1]
    assert result_of(whole.output)["best"] == result_of(halves.output)["best"]


def test_torn_files_of_a_run_that_died_are_written_again(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    config = make_train_config(epochs=3)
    with pytest.raises(StoppedError):
        train_here(config, stop_after=7)
    # As after a death between the two files of the folder.
    best = Path(config.output, "best_model")
    (best / "model.safetensors").write_bytes(b"torn")
    train_here(config)
    open_model_folder(best)
    open_model_folder(Path(config.output, "latest"))


def test_it_goes_on_from_a_model_folder_with_its_head_in_the_datasets_order(
    trained: Path,
    colours: Path,
    tmp_path: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(colours, turned)
    (turned / "label.txt").write_text("0 blue\n1 green\n2 red\n")
    for split in ("train", "val"):
        text = (turned / f"{split}.txt").read_text()
        (turned / f"{split}.txt").write_text(
            text.replace(" 0\n", " x\n").replace(" 2\n", " 0\n").replace(" x\n", " 2\n")
        )
    config = make_train_config(
        data=str(turned),
        model=str(trained / "best_model"),
        image_size=None,
        epochs=1,
        learning_rate=1e-9,
        weight_decay=0,
    )
    result = train_here(config)
    assert result.best_metrics["val.top1"] >= 0.9
    assert open_model_folder(Path(config.output, "best_model")).spec.class_names == ("blue", "green", "red")


def test_a_new_head_for_other_classes_keeps_the_rest(
    trained: Path, tmp_path: Path, make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    write_colours(tmp_path / "other")
    (tmp_path / "other" / "label.txt").write_text("0 rouge\n1 vert\n2 bleu\n")
    config = make_train_config(
        data=str(tmp_path / "other"), model=str(trained / "best_model"), image_size=None, freeze="backbone", epochs=1
    )
    train_here(config)
    old = load_file(trained / "best_model" / "model.safetensors")
    new = load_file(Path(config.output, "latest", "model.safetensors"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


# Bad input


def break_images(data: Path, split: str, count: int) -> list[str]:
    paths = [data / line.split()[0] for line in (data / f"{split}.txt").read_text().splitlines()[:count]]
    for number, path in enumerate(paths):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:200])
    return [str(path) for path in paths]


def test_images_that_cannot_be_read_are_left_out_and_told_of(
    tmp_path: Path, make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    data = tmp_path / "data"
    write_colours(data)
    broken = break_images(data, "train", 3) + break_images(data, "val", 2)
    config = make_train_config(data=str(data), max_error_rate=0.2)
    assert train_here(config).num_bad == 5
    assert result_of(config.output)["bad_images"] == {"count": 5, "file": "bad_images.csv"}
    rows = list(csv.DictReader((Path(config.output) / "bad_images.csv").read_text().splitlines()))
    assert sorted(row["uri"].removeprefix("file://") for row in rows) == sorted(broken)
    assert {row["error"] for row in rows} == {"not_found", "truncated"}
    assert {row["label"] for row in rows} <= set(CLASSES)


@pytest.mark.parametrize("split", ["train", "val"])
def test_too_many_of_them_end_it(
    tmp_path: Path, make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], split: str
) -> None:
    data = tmp_path / "data"
    write_colours(data)
    break_images(data, split, 8)
    config = make_train_config(data=str(data), max_error_rate=0.1)
    with pytest.raises(JobFailedError, match=rf"of the \d+ images of the {split} split could not be read"):
        train_here(config)
    assert result_of(config.output)["done_flag"] is False


def test_a_loss_that_is_no_number_ends_it_with_the_way_out(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    with pytest.raises(JobFailedError, match=r"the loss is not a finite number .* a lower learning_rate than 1e"):
        train_here(make_train_config(optimizer="sgd", learning_rate=1e30, warmup_epochs=0, epochs=3))


@pytest.mark.slow
def test_a_rate_of_sgd_is_told_where_adamw_gets_it(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The one of PaddleX's files of MobileNetV4.
    train_here(make_train_config(learning_rate=0.13, epochs=1))
    assert "learning_rate=0.13 is too high for AdamW, which learns with 0.00" in caplog.text


def test_faults_of_the_lists_are_told_before_anything_starts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_colours(data)
    with (data / "train.txt").open("a") as file:
        file.write("images/x.png 9\nimages/y.png\n")
    with pytest.raises(InputError, match=r"has 2 faults \(train.txt:49 label_out_of_range .*`imgcls check"):
        read_entries(str(data), delimiter=None, storage=DEFAULT_STORAGE)
    (data / "train.txt").write_text((data / "val.txt").read_text())
    (data / "val.txt").write_text("")
    with pytest.raises(InputError, match=r"has no images in its val split; `imgcls split .* makes one"):
        read_entries(str(data), delimiter=None, storage=DEFAULT_STORAGE)


def test_ids_that_no_class_has_get_no_output(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_colours(data)
    (data / "label.txt").write_text("0 red\n1 green\n5 blue\n")
    for split in ("train", "val"):
        path = data / f"{split}.txt"
        path.write_text(path.read_text().replace(" 2\n", " 5\n"))
    entries = read_entries(str(data), delimiter=None, storage=DEFAULT_STORAGE)
    assert entries.class_names == CLASSES
    assert entries.images_per_class("train").tolist() == [16, 16, 16]


def test_the_second_of_two_runs_on_one_output_is_told_of_the_first(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    config = make_train_config()
    with hold_lease(open_directory(config.output)), pytest.raises(StoreInUseError, match="another run is using"):
        train_here(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4, "accumulate_steps": 5}, "a step of 4 images cannot be divided into 5 passes"),
        ({"drop_path": 0.1}, r"drop_path=0\.1: PP-LCNet_x0_25 has no blocks that can be left out; give --drop-path 0"),
        ({"model": "PP-LCNet_x1"}, "no model of that name; did you mean PP-LCNet_x1"),
        ({"num_workers": 99}, "needs 99 CPUs, this machine has"),
    ],
)
def test_what_cannot_be_is_refused_first(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    changes: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imgcls_ray.workers.prepare.is_cluster_given", lambda: False)
    config = make_train_config(**changes)
    with pytest.raises(UsageError, match=message):
        train_here(config)
    assert not list(Path(config.output).glob("*")) or not Path(config.output, "latest").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": "balanced", "sampling": "balanced"}, "class_weights=balanced and sampling=balanced both"),
        ({"sampling": "balanced", "logit_adjustment": 1}, "sampling=balanced and logit_adjustment=1 both"),
        ({"monitor": "top2"}, "monitor: must be 'top1', 'loss', 'macro_f1', 'balanced_accuracy' or 'mAP', got 'top2'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    make_train_config: Callable[..., TrainConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_train_config(**changes)


def test_it_stops_early_when_nothing_gets_better(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    config = make_train_config(epochs=50, early_stop=2, learning_rate=1e-12, weight_decay=0)
    train_here(config)
    result = result_of(config.output)
    assert result["last"]["epoch"] < 20
    assert result["last"]["epoch"] == result["best"]["epoch"] + 2
