"""The command as a person meets it: words, exit codes, and what lies on disk afterwards."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray import cli
from imgcls_ray.errors import ImageErrorCode
from imgcls_ray.models.bundle import read_bundle
from imgcls_ray.models.folder import open_model_folder
from tests.conftest import make_small_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder

IMGCLS = Path(sys.executable).with_name("imgcls")
COMMANDS = [["predict"], ["check"], ["split"], ["train"], ["evaluate"], ["export"], ["serve"], ["run"], ["demo"]]
COMMANDS += [["drift"], ["report"], ["review"]]
COMMANDS += [["models"], ["models", "new"], ["store"], *(["store", name] for name in ("status", "verify", "latest"))]


@pytest.fixture
def imgcls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    # Other tests of the session may have joined this process to a Ray; a command begins without one.
    for module in ("commands.device", "workers.pool", "workers.prepare"):
        monkeypatch.setattr(f"imgcls_ray.{module}.is_cluster_given", lambda: False)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["imgcls", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return run


@pytest.fixture
def broken_folder(draw_images: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in ``a``, ``b`` and ``z``; ``b`` cannot be listed."""
    folder = draw_images(1, "images/a", seed=1)[0].parent.parent
    for seed, name in enumerate(("b", "z"), 2):
        draw_images(1, f"images/{name}", seed=seed)
    scandir = os.scandir

    def scan(path: Any = ".") -> Any:
        if str(path) == f"{folder}/b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return folder


def test_a_folder_that_cannot_be_listed_costs_the_exit_code_and_not_the_rest(
    imgcls: Callable[..., tuple[int, str, str]], broken_folder: Path, small_model: ModelFolder, tmp_path: Path
) -> None:
    args = ("predict", broken_folder, "-m", small_model.path, "-o", tmp_path / "store")
    for option, said in (
        (["--dry-run"], "2 inputs, 2 to label"),
        ([], "2 images in"),
        ([], "nothing to label: 2 inputs, all have their row"),
    ):
        code, out, err = imgcls(*args, *option)
        assert code == 3
        assert said in out
        assert f"cannot be listed: {broken_folder}/b: Input/output error" in out
        assert "1 folder of the input cannot be listed" in err
        assert "what they hold was left out, everything else was not. Run the command again" in err
    assert imgcls("store", "verify", tmp_path / "store")[0] == 0


def test_a_failed_job_is_told_before_a_folder_that_cannot_be_listed(
    imgcls: Callable[..., tuple[int, str, str]], broken_folder: Path, small_model: ModelFolder, tmp_path: Path
) -> None:
    for name in ("a", "z"):
        (broken_folder / name / "00000.jpg").write_bytes(b"no picture")
    code, out, err = imgcls("predict", broken_folder, "-m", small_model.path, "-o", tmp_path / "store")
    assert code == 1
    assert "all inputs failed" in err
    assert f"cannot be listed: {broken_folder}/b" in out


@pytest.mark.parametrize(("command", "default"), [("predict", "[default: 32]"), ("train", "[default: 5]")])
def test_help_tells_the_defaults(
    imgcls: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, command: str, default: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # Brackets are markup to the library that prints it.
    assert default in imgcls(command, "--help")[1]


def test_help_names_the_commands(imgcls: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = imgcls("--help")
    assert code == 0
    named = re.findall(r"^│ ([a-z]+)  ", out, flags=re.MULTILINE)
    assert sorted(named) == sorted({words[0] for words in COMMANDS})


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(imgcls: Callable[..., tuple[int, str, str]], command: list[str]) -> None:
    code, out, _ = imgcls(*command, "-h")
    assert code == 0
    assert "Usage" in out


def test_an_unknown_option_is_refused_with_the_nearest(imgcls: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = imgcls("predict", "x", "--modle", "m")
    assert code == 2
    assert "--modle" in err
    assert "--model" in err.replace("--modle", "")


def one_line(err: str) -> str:
    """A failure is one line for people."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("imgcls: ")
    return lines[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{tmp}/none", "-m", "{model}", "-o", "{tmp}/s"], "none: there is no such file or folder"),
        (["{tmp}/none/*.jpg", "-m", "{model}", "-o", "{tmp}/s"], "there is no folder"),
        (["gopher://x/y", "-m", "{model}", "-o", "{tmp}/s"], "gopher:// is not a kind of storage"),
        (["{images}", "-m", "{tmp}/none", "-o", "{tmp}/s"], "none: there is no such model folder"),
        (["{images}", "-m", "{images}", "-o", "{tmp}/s"], "holds no model.json, so it is no model folder"),
        (["{images}", "-m", "PP-LCNet_x1.0", "-o", "{tmp}/s"], "did you mean PP-LCNet_x1_0"),
        (["{images}", "-m", "{model}", "-o", "{images}"], "is not a label store (it holds"),
        (["{images}", "-m", "{model}"], "more than one image needs --output STORE"),
        (["{images}", "-o", "{tmp}/s"], "--model is missing. Model folder"),
        ([], "INPUT is missing. Images to label"),
        (["{images}", "-m", "{model}", "-o", "{tmp}/s", "-s", "topk=3"], "topk: no such key; did you mean top_k?"),
        (["{images}", "-m", "{model}", "-o", "{tmp}/s", "--top-k", "0"], "--top-k: must be greater than 0"),
        (
            ["{images}", "-m", "{model}", "-o", "{tmp}/s", "--export", "xlsx"],
            "--export: must be 'parquet', 'jsonl' or 'csv'",
        ),
        (["{images}", "-m", "{model}", "-o", "{tmp}/s", "--num-gpus", "9"], "needs 9 GPUs, this machine has"),
        (["{images}", "-m", "{model}", "-o", "{tmp}/s", "--num-workers", "99"], "needs 99 CPUs, this machine has"),
        (["{images}", "-m", "{model}", "-o", "{tmp}/s", "-c", "{tmp}/none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_one_line_and_exit_code_2(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    args: list[str],
    message: str,
) -> None:
    images = draw_images(2)[0].parent
    filled = [arg.format(tmp=tmp_path, model=small_model.path, images=images) for arg in args]
    code, out, err = imgcls("predict", *filled)
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "s").exists()


def test_a_plan_whose_folder_is_gone_waits_for_it_or_is_told_that_it_will_not_come_back(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, args = draw_images(20)[0].parent, ("-m", small_model.path, "-o", tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("imgcls_ray.predict.job._Job.label_units", lambda *_: sys.exit(9))
        assert imgcls("predict", folder, *args)[0] == 9
    shutil.move(folder, tmp_path / "away")
    code, _, err = imgcls("predict", folder, *args)
    assert code == 3
    assert f"{folder}: there is no such file or folder, and 20 images in a row" in err
    assert "--accept-missing" in err
    shutil.move(tmp_path / "away", folder)
    assert imgcls("predict", folder, *args)[0] == 0
    assert imgcls("store", "verify", tmp_path / "store")[0] == 0

    draw_images(20, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("imgcls_ray.predict.job._Job.label_units", lambda *_: sys.exit(9))
        assert imgcls("predict", folder, *args)[0] == 9
    shutil.rmtree(folder)
    code, out, _ = imgcls("predict", folder, *args, "--accept-missing")
    assert code == 0
    assert "not_found" in out
    assert f"{folder}: there is no such file or folder; only the run that was open has been finished" in out
    assert imgcls("store", "verify", tmp_path / "store")[0] == 0


def test_names_with_brackets_are_printed_as_they_are(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    folder, store = draw_images(2, "photos [2020]")[0].parent, tmp_path / "st[red][b]"
    code, out, _ = imgcls("predict", folder, "-m", small_model.path, "-o", store)
    assert (code, f"labels: {store}" in out) == (0, True)
    code, out, _ = imgcls("predict", folder, "-m", small_model.path, "-o", store, "--dry-run")
    assert (code, f"{folder}: 2 inputs" in out) == (0, True)
    code, out, _ = imgcls("store", "status", store)
    assert (code, f"{store}: small" in out) == (0, True)
    code, _, err = imgcls("predict", folder / "typo.jpg", "-m", small_model.path)
    assert (code, one_line(err)) == (2, f"imgcls: {folder}/typo.jpg: there is no such file or folder")


def test_a_link_that_leads_nowhere_is_one_image_that_cannot_be_read(
    imgcls: Callable[..., tuple[int, str, str]], small_model: ModelFolder, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").symlink_to("gone.jpg")
    code, _, err = imgcls("predict", tmp_path / "broken.jpg", "-m", small_model.path)
    assert (code, "not_found" in one_line(err)) == (1, True)


def test_a_dry_run_tells_what_was_left_open(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = (draw_images(20)[0].parent, "-m", small_model.path, "-o", tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("imgcls_ray.predict.job._Job.label_units", lambda *_: sys.exit(9))
        imgcls("predict", *args)
    code, out, _ = imgcls("predict", *args, "--dry-run")
    assert (code, "an earlier command left 20 images open, which are labelled first" in out) == (0, True)


def test_a_folder_whose_name_is_not_utf8_is_labelled(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(draw_images(3)[0].parent, folder)
    for source in (f"file://{tmp_path}/caf%E9", os.fsdecode(folder)):
        assert imgcls("predict", source, "-m", small_model.path, "-o", tmp_path / "store")[0] == 0
    assert imgcls("store", "verify", tmp_path / "store")[0] == 0


def test_one_image_is_labelled_without_ray_or_store(
    imgcls: Callable[..., tuple[int, str, str]], draw_images: Callable[..., list[Path]], small_model: ModelFolder
) -> None:
    [path] = draw_images(1)
    code, out, _ = imgcls("predict", path, "-m", small_model.path, "--top-k", 2)
    assert code == 0
    assert out.splitlines()[0] == str(path)
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    "option",
    [
        ["--dry-run"],
        ["--export", "csv"],
        ["--save-images", 2],
        ["--embedding"],
        ["--metrics-file", "a.prom"],
        ["--price-per-hour", 1],
        ["--set", "unit_size=16"],
        ["--set", "cores_per_worker=1"],
    ],
)
def test_an_option_that_needs_a_store_is_refused_for_one_image_without(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    option: list[object],
) -> None:
    code, out, err = imgcls("predict", draw_images(1)[0], "-m", small_model.path, *option)
    assert (code, out) == (2, "")
    assert "labels are only printed; give --output STORE" in one_line(err)


def test_a_dry_run_refuses_what_the_run_would(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
) -> None:
    images = draw_images(2)[0].parent
    code, _, err = imgcls("predict", images, "-m", small_model.path, "-o", images, "--dry-run")
    assert code == 2
    assert "is not a label store" in one_line(err)


def test_a_damaged_part_is_told_in_one_line(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    args = ("predict", draw_images(1)[0], "-m", small_model.path, "-o", tmp_path / "store")
    assert imgcls(*args)[0] == 0
    (tmp_path / "store" / "predictions" / "0001-000000.parquet").write_text("junk")
    for command in (args, ("store", "latest", tmp_path / "store")):
        code, _, err = imgcls(*command)
        assert code == 2
        assert "predictions/0001-000000.parquet cannot be read" in one_line(err)
    (tmp_path / "store" / "predictions" / "0001-000000.parquet").unlink()
    code, out, _ = imgcls("store", "compact", tmp_path / "store", "--forget-lost")
    assert (code, "1 row lost; the next run labels their images again" in out) == (0, True)
    assert imgcls(*args)[0] == 0
    code, out, _ = imgcls("store", "verify", tmp_path / "store")
    assert (code, "1 row lost and forgotten" in out, "1 input planned, 1 row (ok 1)" in out) == (0, True, True)


def test_one_image_that_cannot_be_read_is_told_and_exit_code_1(
    imgcls: Callable[..., tuple[int, str, str]], small_model: ModelFolder, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, err = imgcls("predict", tmp_path / "x.jpg", "-m", small_model.path)
    assert (code, out) == (1, "")
    assert "x.jpg: truncated: its end is missing" in one_line(err)


def test_one_image_goes_into_a_store_without_ray(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_ray(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("Ray was started for one image")

    monkeypatch.setattr("imgcls_ray.workers.prepare.start_ray", no_ray)
    [path] = draw_images(1)
    store = tmp_path / "store"
    args = ("predict", path, "-m", small_model.path, "-o", store, "--export", "jsonl", "--save-images", 5)
    code, out, _ = imgcls(*args)
    assert code == 0
    assert "ok" in out
    [row] = [json.loads(line) for line in (store / "exports" / "latest.jsonl").read_text().splitlines()]
    assert row["uri"] == str(path)
    assert len(list((store / "samples").iterdir())) == 1
    assert imgcls("store", "verify", store)[0] == 0
    code, out, _ = imgcls("store", "latest", store)
    assert json.loads(out) == row
    code, out, _ = imgcls("store", "status", store)
    assert (code, "1 row of 1 run (ok 1)" in out) == (0, True)
    code, out, _ = imgcls(*args)
    assert code == 0
    assert "nothing to label: 1 input, all have their row" in out


def test_the_second_run_on_a_store_in_use_is_told_who_holds_it(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    from imgcls_ray.storage import open_directory
    from imgcls_ray.store.lease import hold_lease

    [path] = draw_images(1)
    args = ("predict", path, "-m", small_model.path, "-o", tmp_path / "store")
    assert imgcls(*args)[0] == 0
    with hold_lease(open_directory(str(tmp_path / "store"))):
        code, _, err = imgcls(*args)
    assert code == 75
    assert f"another run is using this store (process {os.getpid()} on " in one_line(err)


def test_verify_finds_a_removed_part_and_exits_1(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    [path] = draw_images(1)
    assert imgcls("predict", path, "-m", small_model.path, "-o", tmp_path / "store")[0] == 0
    (tmp_path / "store" / "predictions" / "0001-000000.parquet").unlink()
    code, out, err = imgcls("store", "verify", tmp_path / "store")
    assert code == 1
    assert "predictions/0001-000000.parquet: is missing (1 input without a row)" in out
    assert "1 problem, 1 input without a row, 0 rows doubled" in one_line(err)


def test_a_config_file_gives_the_keys_and_flags_win(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    [path] = draw_images(1)
    config = tmp_path / "predict.yaml"
    config.write_text(f"input: {path}\nmodel: {small_model.path}\noutput: {tmp_path / 'store'}\ntop_k: 4\n")
    assert imgcls("predict", "-c", config, "-s", "top_k=3", "--top-k", 2)[0] == 0
    assert json.loads((tmp_path / "store" / "store.json").read_text())["top_k"] == 2


def test_models_new_makes_a_folder_and_refuses_what_does_not_fit(
    imgcls: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "label.txt").write_text("0 ant\n1 bee\n")
    new = ("models", "new", "PP-LCNet_x0_25", "--labels", tmp_path / "label.txt", "-o", tmp_path / "m", "--random")
    code, _, err = imgcls(*new, "--num-classes", 3)
    assert (code, one_line(err)) == (2, f"imgcls: {tmp_path / 'label.txt'}: names 2 classes, --num-classes says 3")
    code, out, _ = imgcls(*new, "--num-classes", 2)
    assert code == 0
    assert "PP-LCNet_x0_25, 2 classes, fingerprint" in out
    assert read_bundle(open_model_folder(tmp_path / "m")) is not None
    code, _, err = imgcls(*new)
    assert code == 2
    assert "already exists and is not empty" in one_line(err)


def test_models_lists_the_zoo_and_filters_it(imgcls: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = imgcls("models")
    assert code == 0
    assert out.count("SwinTransformer_") == 6
    assert "80 of 80 networks" in out
    assert all("…" not in line for line in out.splitlines())
    code, out, _ = imgcls("models", "--json", "--family", "resnet", "--max-params", 25.6, "--min-top1", 76.0)
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["ResNet34_vd", "ResNet50", "ResNet50_vd"]
    assert rows[1]["preprocess"]["crop_size"] == 224
    code, out, _ = imgcls("models", "--json", "--family", "PP-LCNet", "--pretrained")
    assert [row["timm_weights"] for row in json.loads(out)] == [
        "lcnet_050.ra2_in1k",
        "lcnet_075.ra2_in1k",
        "lcnet_100.ra2_in1k",
    ]


def test_an_unknown_family_is_refused_with_the_nearest(imgcls: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = imgcls("models", "--family", "mobilnet")
    assert (code, one_line(err)) == (2, "imgcls: mobilnet: no family of that name; did you mean MobileNetV4?")


def test_a_device_that_is_not_there_ends_with_2_before_anything_starts(
    imgcls: Callable[..., tuple[int, str, str]],
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    images = draw_images(2)
    words = ("predict", images[0].parent, "-m", small_model.path, "--device", "gpu:99")
    code, _, err = imgcls(*words, "-o", tmp_path / "store")
    assert code == 2
    assert "so there is no GPU 99; give one that is there, or device=cpu" in one_line(err)
    assert not (tmp_path / "store").exists()
    code, _, err = imgcls("predict", images[0], "-m", small_model.path, "--device", "gpu:99")
    assert code == 2
    assert "there is no GPU 99, this machine has" in one_line(err)


def run_until_parts(command: list[str], store: Path, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(store.glob("predictions/*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_job_is_finished_by_the_same_command(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, how: signal.Signals
) -> None:
    images = draw_images(400)
    for i, path in enumerate(images):
        for copy in range(4):
            shutil.copy(path, path.with_name(f"{i:05d}-{copy}.jpg"))
    store = tmp_path / "store"
    command = [str(IMGCLS), "predict", str(images[0].parent), "-m", str(small_model.path), "-o", str(store)]
    command.append("-sunit_size=32")
    process = run_until_parts(command, store, 2)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "imgcls: stopped; everything labelled so far is kept" in err
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("predictions/*.parquet")}
    assert not (store / "runs" / "0001.json").exists()
    assert kept
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "run 0001 was open" in again.stdout
    assert {name: (store / "predictions" / name).stat().st_mtime_ns for name in kept} == kept
    verified = subprocess.run([str(IMGCLS), "store", "verify", str(store)], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout
    assert "2,000 inputs planned, 2,000 rows" in verified.stdout


def test_an_empty_folder_is_told_and_fails_where_that_is_asked_for(
    imgcls: Callable[..., tuple[int, str, str]],
    small_model: ModelFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    args = ("predict", tmp_path / "empty", "-m", small_model.path, "-o", tmp_path / "store")
    for option in ([], ["--dry-run"]):
        caplog.clear()
        assert imgcls(*args, *option)[0] == 0
        assert f"{tmp_path}/empty: holds no images that could be labelled; is this the right place?" in caplog.text
        assert "--fail-if-empty" in caplog.text
        code, _, err = imgcls(*args, *option, "--fail-if-empty")
        assert (code, one_line(err)) == (
            1,
            f"imgcls: {tmp_path}/empty: holds no images that could be labelled; is this the right place?",
        )
    # As a dataset of the Hugging Face Hub has them, beside its README.md.
    (tmp_path / "empty" / "train.parquet").touch()
    assert imgcls(*args, "--dry-run")[0] == 0
    assert "If its Parquet files hold images, --include '*.parquet' opens them." in caplog.text


def test_a_short_run_tells_one_duration_no_rate_and_no_advice(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    args = ("predict", draw_images(3)[0].parent, "-m", small_model.path, "-o", store)
    code, out, _ = imgcls(*args)
    assert code == 0
    assert len(re.findall(r"\b\d+ (?:s|min)\b", out)) == 1
    assert re.search(r"^ *3 images in \d+ s", out, flags=re.MULTILINE)
    assert re.search(r"^time of the workers: fetch \d+%, .* write \d+%$", out, flags=re.MULTILINE)
    assert "images/s" not in out
    assert not {code.value for code in ImageErrorCode} & set(re.findall(r"\w+", out))
    assert "images_per_s" not in json.loads((store / "runs" / "0001.json").read_text())


def test_a_run_that_goes_on_tells_one_total_and_no_run_that_nobody_started(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    args = ("predict", draw_images(20)[0].parent, "-m", small_model.path, "-o", store)
    with monkeypatch.context() as patch:
        patch.setattr("imgcls_ray.predict.job._Job.label_units", lambda *_: sys.exit(9))
        assert imgcls(*args)[0] == 9
    code, out, _ = imgcls(*args)
    assert (code, len(re.findall(r"20 images in \d+ s", out))) == (0, 1)
    assert "run 0002" not in out
    code, out, _ = imgcls("store", "history", store)
    assert code == 0
    assert "0001" in out
    assert "0002" not in out
    assert "1 other run found nothing new to label" in out


def test_the_first_use_of_a_model_says_that_it_is_converted(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    caplog.set_level("INFO", logger="imgcls_ray")
    [path] = draw_images(1)
    for store, is_told in (("first", True), ("second", False)):
        caplog.clear()
        assert imgcls("predict", path, "-m", small_model.path, "-o", tmp_path / store)[0] == 0
        assert ("converting the network once, about 15 s" in caplog.text) is is_told


def test_rows_with_errors_leave_integers_integers(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    import pandas as pd  # type: ignore[import-untyped]

    store = tmp_path / "store"
    folder = draw_images(2)[0].parent
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert imgcls("predict", folder, "-m", small_model.path, "-o", store, "--export", "parquet")[0] == 0
    for path in (store / "exports" / "latest.parquet", store / "predictions"):
        rows = pd.read_parquet(path)
        assert {str(rows[name].dtype) for name in ("label_id", "width", "height")} == {"Int32"}
        assert rows["width"].isna().sum() == 1
    _, out, _ = imgcls("store", "latest", store)
    assert {type(json.loads(line)["label_id"]) for line in out.splitlines()} == {int, type(None)}


def test_another_model_labels_the_inputs_of_a_store_and_both_are_compared(
    imgcls: Callable[..., tuple[int, str, str]],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    other = make_small_model(tmp_path / "other", seed=5, class_names=("ant", "bee", "yak"))
    images = draw_images(12)
    a, b = tmp_path / "a", tmp_path / "b"
    assert imgcls("predict", tmp_path / "images", "-m", small_model.path, "-o", a)[0] == 0
    images[4].unlink()
    code, out, _ = imgcls("predict", tmp_path / "images", "-m", small_model.path, "-o", a)
    assert (code, "not there any more: 1 input" in out) == (0, True)
    _, out, _ = imgcls("store", "latest", a, "--only-present")
    assert [json.loads(line)["uri"] for line in out.splitlines()] == [str(p) for p in images if p != images[4]]
    assert imgcls("predict", "--like", a, "-m", other.path, "-o", b)[0] == 0
    code, out, _ = imgcls("store", "diff", a, b, "--json")
    record = json.loads(out)
    assert (code, record["num_compared"], record["num_vanished"]) == (0, 11, 1)
    assert sum(move["count"] for move in record["moves"]) == record["num_changed"] > 0
    code, out, _ = imgcls("store", "diff", a, b, "--output", tmp_path / "report")
    assert code == 0
    assert f"11 inputs with a label in both, {record['num_changed']} with another one" in out
    assert "not compared: 1 input in one of both, and not there any more" in out
    assert f"report: {tmp_path / 'report'}/store_diff/report.html" in out
    assert json.loads((tmp_path / "report" / "store_diff_result.json").read_text()) == record


@pytest.mark.parametrize(("before", "frozen"), [("", "True"), ("sys.modules['torch'] = sys", "False")])
def test_the_interpreters_end_looks_for_no_garbage_but_that_of_torch(before: str, frozen: str) -> None:
    code = (
        f"import atexit, gc, sys; from imgcls_ray.cli import leave_with; {before}\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000)); leave_with(lambda: None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{frozen}\n"
