"""Make what a version leaves behind, for the tests of later ones.

``python -m tests.compatibility.make_fixtures VERSION`` makes the folder ``VERSION`` beside this file. ``0687141`` was
made with the code of that commit (0.1.0 before its release), Python 3.11 and the packages of ``constraints.txt``, on a
CPU with bf16; ``runs/NNNN.json`` in its stores names them. A later version adds a folder of its own and never makes an
old one again.

Everything is left by the ``imgcls`` command itself, run as a user would, from the folder ``photos.ROOT``. Exported
networks name the source files of their layers, so the checkout was ``/opt/imgcls-ray``, its packages in ``/opt/venv``.

- ``photos/``, ``inputs.csv``: the inputs.
- ``models/``: zoo (random weights), trained (``imgcls train``), onnx, openvino and torch_export (``imgcls export``).
- ``stores/plain``: five runs: new inputs in several units, a list with inputs that fail, a changed and new inputs, the
  failures that may pass asked again, and nothing to label.
- ``stores/vectors``: embeddings and logits.
- ``stores/open``: killed while it labelled, with the lease of the command that died.
- ``jobs/``, ``serve_config.yaml``, ``commands.txt``: what was documented.
- ``golden/``: what this version said of all that.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests.compatibility.photos import PIPE, ROOT, TAKEN_NS, photos_in_place
from tests.compatibility.verdicts import ENGINES, judge
from tests.images import bad_images

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
IMGCLS = (sys.executable, "-m", "imgcls_ray.cli")
CLASS_COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (210, 50, 40), "yellow": (220, 200, 40)}
NUM_PHOTOS, NUM_NEW = 120, 3
# Some photos are over these: their rows say so for as long as a run has the same limits.
LIMITS = ("-s", "max_image_bytes=20000", "-s", "max_image_pixels=1000000")
SMALL_UNITS = ("-s", "unit_size=16", "-s", "batch_size=16")
LISTED = (
    "photos/00000.jpg",
    "photos/00001.jpg",
    "photos/never-there.jpg",
    PIPE,
    "gopher://photos.invalid/1.jpg",
    "http://127.0.0.1:9/private.jpg",
    "http://photos.invalid/unknown-host.jpg",
)


def main(version: str) -> None:
    target = HERE / version
    target.mkdir()
    draw_photos(target)
    copy_documents(target)
    with photos_in_place(target), tempfile.TemporaryDirectory() as cache, contextlib.chdir(ROOT):
        os.environ["IMGCLS_CACHE"] = cache
        make_models()
        shutil.copytree("models", target / "models")
        make_stores()
        shutil.copytree("stores", target / "stores")
        make_golden(target / "golden")


def draw_photos(target: Path) -> None:
    photos = target / "photos"
    photos.mkdir()
    for i in range(NUM_PHOTOS + NUM_NEW):
        (photos / f"{i:05d}.jpg").write_bytes(photo(i, seed=0))
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    broken = {
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
        "truncated.jpg": photo(0, seed=1)[:-200],
        "corrupt.png": bad_images.overwrite(bad_images.encode(bad_images.slopes(), "PNG"), 60, b"\xff" * 20),
        "scans.jpg": bad_images.jpeg_with_scans(600),
        "bytes.png": bad_images.encode(noise, "PNG"),
        "pixels.png": bad_images.encode(np.zeros((1000, 1200, 3), np.uint8), "PNG"),
    }
    for name, content in broken.items():
        (photos / f"broken-{name}").write_bytes(content)
    (target / "inputs.csv").write_text("\n".join(["uri", *LISTED, ""]))


def photo(number: int, *, seed: int) -> bytes:
    """A JPEG of 64 x 48 in the colour of one class."""
    rng = np.random.default_rng((seed, number))
    colour = list(CLASS_COLOURS.values())[number % len(CLASS_COLOURS)]
    coarse = np.clip(np.array(colour) + rng.normal(0, 40, (6, 8, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def copy_documents(target: Path) -> None:
    shutil.copytree(
        REPOSITORY / "jobs", target / "jobs", ignore=lambda _, names: [n for n in names if n[-5:] != ".yaml"]
    )
    shutil.copy(REPOSITORY / "serve_config.yaml", target)
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    lines = dict.fromkeys(line for page in pages for line in documented_commands(page.read_text(encoding="utf-8")))
    (target / "commands.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def documented_commands(page: str) -> list[str]:
    """The command lines of a page's code blocks, without their comments and line breaks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r" +", " ", line.partition("  #")[0].strip()) for line in lines]
    return [line for line in lines if re.match(r"([A-Z_]+=\S+ )?(imgcls|ray job submit|serve deploy) ", line)]


def imgcls(*args: object, code: int = 0) -> str:
    command = [*IMGCLS, *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"{command}: exit code {done.returncode}")
    return done.stdout


def make_models() -> None:
    for name in CLASS_COLOURS:
        (Path("data") / name).mkdir(parents=True)
    for i in range(160):
        name = list(CLASS_COLOURS)[i % len(CLASS_COLOURS)]
        (Path("data") / name / f"{i:05d}.jpg").write_bytes(photo(i, seed=2))
    network = "PP-LCNet_x0_25"
    imgcls("models", "new", network, "--num-classes", len(CLASS_COLOURS), "--random", "-o", "models/zoo")
    imgcls("split", "data", "--train-percent", 80, "--val-percent", 20)
    imgcls(
        *("train", "data", "--model", network, "--scratch", "--image-size", 64, "--epochs", 30),
        *("--batch-size", 16, "--learning-rate", 0.05, "--output", "run"),
    )
    shutil.copytree("run/best_model", "models/trained")
    for kind in ("onnx", "openvino", "torch_export"):
        imgcls(
            "export", "--model", "models/trained", "--format", kind, "--images", "data", "--output", f"models/{kind}"
        )


def make_stores() -> None:
    shutil.copytree("models/trained", "model")
    make_plain_store()
    vectors = ("--embedding", "--logits", "--top-k", 2, "-m", "model", "-o", "stores/vectors")
    imgcls("predict", "photos/0000*.jpg", *vectors)
    imgcls("predict", "photos/000[01]*.jpg", *vectors)
    make_open_store()


def make_plain_store() -> None:
    to_plain = ("-m", "model", "-o", "stores/plain", *LIMITS)
    changed = Path("photos/00007.jpg")
    late = [changed, *(Path(f"photos/{NUM_PHOTOS + i:05d}.jpg") for i in range(NUM_NEW))]
    Path("later").mkdir()
    for path in late:
        path.rename(Path("later") / path.name)
    shutil.copy("photos/00008.jpg", changed)
    os.utime(changed, ns=(TAKEN_NS - 10**9, TAKEN_NS - 10**9))
    imgcls("predict", "photos", *to_plain, *SMALL_UNITS)
    imgcls("predict", "inputs.csv", *to_plain)
    for path in late:
        (Path("later") / path.name).replace(path)
    imgcls("predict", "photos", *to_plain, "--export", "jsonl", "--save-images", 2)
    imgcls("predict", "inputs.csv", *to_plain)
    imgcls("predict", "photos", *to_plain)


def make_open_store() -> None:
    """Kill the command and all that it started as soon as two units have their part."""
    store = Path("stores/open")
    arguments = (
        "photos",
        "-m",
        "model",
        "-o",
        store,
        *LIMITS,
        *SMALL_UNITS,
        "-s",
        "precision=fp32",
        "--num-workers",
        1,
    )
    process = subprocess.Popen([*IMGCLS, "predict", *map(str, arguments)])
    while len(list(store.glob("predictions/*.parquet"))) < 2:
        if process.poll() is not None:
            raise SystemExit("the command ended before it could be killed")
        time.sleep(0.001)
    family = psutil.Process(process.pid)
    # Stopped first: nothing is answered while the others are killed.
    for each in (members := [family, *family.children(recursive=True)]):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()
    for each in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    assert not list(store.glob("runs/*")), "the command had ended"
    assert (store / "lease.json").exists()


def make_golden(golden: Path) -> None:
    golden.mkdir()
    for name in ("plain", "vectors"):
        (golden / f"{name}.jsonl").write_text(imgcls("store", "latest", f"stores/{name}"), encoding="utf-8")
    shutil.copytree("stores/open", "finished")
    imgcls("predict", "photos", "-m", "model", "-o", "finished", *LIMITS, "-s", "precision=fp32")
    (golden / "open.jsonl").write_text(imgcls("store", "latest", "finished"), encoding="utf-8")
    verdicts = {name: {engine: judge(Path("models") / name, engine) for engine in ENGINES[name]} for name in ENGINES}
    (golden / "models.json").write_text(json.dumps(verdicts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
