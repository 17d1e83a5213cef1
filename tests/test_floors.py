"""The floors of the house: who may import whom, and which library (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder

PACKAGE = Path(__file__).parent.parent / "imgcls_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
STORE = Path(__file__).parent / "compatibility" / "0687141" / "stores" / "plain"

# Below the jobs, which may use all of it.
_FOUNDATION = {
    "config",
    "defaults",
    "errors",
    "images",
    "json_files",
    "machine",
    "models",
    "options",
    "packed",
    "storage",
    "words",
}
# What each room may import. Jobs (predict, evaluate, train, export, serve) do not import each other.
MAY_IMPORT: dict[str, set[str]] = {
    "defaults": set(),
    "errors": set(),
    "machine": {"errors"},
    "words": set(),
    "config": {"defaults", "errors"},
    "storage": {"defaults", "errors"},
    "json_files": {"storage"},
    "images": {"defaults", "errors"},
    "options": {"config", "images", "storage"},
    "models": {"config", "errors", "images", "machine", "packed", "storage", "words"},
    "demo": {"errors"},
    "packed": {"errors", "images", "storage"},
    "inputs": {"errors", "packed", "storage", "words"},
    "store": {"config", "errors", "inputs", "json_files", "models", "storage", "words"},
    "workers": _FOUNDATION,
    "predict": {*_FOUNDATION, "inputs", "store", "workers"},
    "datasets": {*_FOUNDATION, "workers"},
    "report": {"datasets", "errors", "images", "json_files", "machine", "packed", "storage", "words", "workers"},
    "review": {*_FOUNDATION, "datasets", "inputs", "report", "store"},
    "evaluate": {*_FOUNDATION, "datasets", "report", "store", "workers"},
    "train": {*_FOUNDATION, "datasets", "report", "store", "workers"},
    "export": {*_FOUNDATION, "datasets", "demo", "inputs", "workers"},
    "serve": {*_FOUNDATION, "workers"},
}
MAY_IMPORT["commands"] = set(MAY_IMPORT)
MAY_IMPORT["usage"] = {"config", "errors"}
MAY_IMPORT["flags"] = {"config", "errors", "usage"}
MAY_IMPORT["cli"] = {"commands", "config", "errors", "flags", "storage", "usage"}
# Of ``workers``: processes of its own, and the way to Ray.
SERVE_TAKES = {"child", "decoding", "forks", "ray_start", "ray_table"}
# A drawing names in its types what it draws, and is imported by who has it drawn.
MAY_NAME: dict[str, set[str]] = {"report": {"evaluate", "store"}}

# The door of each library: rooms, or modules of a room.
DOORS: dict[str, set[str]] = {
    "yaml": {"config"},
    "pydantic": {
        "config",
        "serve",
        "models/bundle",
        "models/calibration",
        "models/folder",
        "models/profile",
        "models/spec",
        "store/opening",
    },
    "typer": {"cli", "flags", "usage"},
    "rich": {"commands", "workers/progress", "train/reporter"},
    "httpcore2": {"storage"},
    "fsspec": set(),
    "httpx2": {"storage/hub"},
    "aiobotocore": {"storage"},
    "botocore": {"storage"},
    "obstore": {"storage"},
    "PIL": {"images", "demo/draw", "report/sheet", "serve/decoders", "serve/model"},
    "pillow_heif": {"images"},
    "imagecodecs": {"images"},
    "xxhash": {"images"},
    "simplejpeg": {"images"},
    "cykooz_resizer": {"images/resize"},
    "torchvision": {"train/augment", "train/local_worker"},
    "torch": {
        "images/resize",
        "models",
        "train",
        "export/network",
        "demo/fit",
        "workers/ray_cluster",
        "serve/app",
        "serve/reference",
        "commands",
    },
    "timm": {"models", "train/batch_norm", "train/local_worker", "train/optimisation"},
    "huggingface_hub": {"models/pretrained", "storage/hub"},
    "safetensors": {"models/checkpoints", "models/fit", "models/folder"},
    "openvino": {"models", "export"},
    "onnx": {"export"},
    "nncf": {"export"},
    "pyarrow": {
        "inputs",
        "packed/parquets",
        "store",
        "workers",
        "predict",
        "datasets",
        "evaluate",
        "report/check_report",
        "review/candidates",
        "train/entries",
    },
    "matplotlib": {"report"},
    "jinja2": {"report/page"},
    "markupsafe": {"report/page"},
    "scipy": {"datasets/bursts", "evaluate/thresholds"},
    "sklearn": {"evaluate", "train/scores"},
    "tensorboardX": {"train"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "pybase64": {"serve"},
    "ray": {"workers/ray_*", "train", "serve"},
    "ray.experimental.internal_kv": {"workers/ray_table"},
}


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports_of(module: Path, *, for_types: bool = True) -> frozenset[str]:
    """Everything that a module imports, wherever in it; without those for type checkers only if so asked."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if not for_types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(ast.walk(node))
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


ROOMS = {room_of(module) for module in MODULES} - {"__init__"}


def rooms_in(imports: frozenset[str]) -> set[str]:
    return {name.split(".")[1] for name in imports if name.startswith("imgcls_ray.")} & ROOMS


def test_the_table_knows_every_room_and_no_other() -> None:
    assert set(MAY_IMPORT) == ROOMS
    assert set.union(*MAY_IMPORT.values(), *MAY_NAME.values()) <= ROOMS


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_room_imports_only_those_below_it(module: Path) -> None:
    room = room_of(module)
    if room == "__init__":
        return
    used = rooms_in(imports_of(module, for_types=False)) - {room}
    assert not used - MAY_IMPORT[room]
    named = rooms_in(imports_of(module)) - {room}
    assert not named - MAY_IMPORT[room] - MAY_NAME.get(room, set())


def test_no_room_may_import_one_that_may_import_it() -> None:
    above: dict[str, set[str]] = {room: set(others) for room, others in MAY_IMPORT.items()}
    for _ in above:
        for others in above.values():
            others |= {below for other in others for below in above[other]}
    assert not [room for room, others in above.items() if room in others]


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) == "serve"], ids=lambda module: module.stem)
def test_serving_takes_of_the_workers_no_job(module: Path) -> None:
    taken = {name.split(".")[2] for name in imports_of(module) if name.startswith("imgcls_ray.workers.")}
    assert not taken - SERVE_TAKES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_each_library_has_one_door(module: Path) -> None:
    name = module.relative_to(PACKAGE).with_suffix("").as_posix()
    imported = imports_of(module, for_types=False)
    for library, doors in DOORS.items():
        if any(other == library or other.startswith(f"{library}.") for other in imported):
            assert any(fnmatch(name, door) or name.startswith(f"{door}/") for door in doors), (
                f"{library} is imported outside {sorted(doors)}"
            )


def test_a_modules_logger_has_the_modules_name() -> None:
    loggers = re.compile(r"^logger\b.* = logging\.getLogger\((.*)\)$", flags=re.MULTILINE)
    named = {module: loggers.findall(module.read_text(encoding="utf-8")) for module in MODULES}
    assert sum(map(len, named.values())) > 20
    assert not {module: names for module, names in named.items() if names not in ([], ["__name__"])}


def test_there_is_no_import_cycle() -> None:
    names = {"imgcls_ray." + ".".join(m.relative_to(PACKAGE).with_suffix("").parts): m for m in MODULES}
    names = {name.removesuffix(".__init__"): module for name, module in names.items()}
    graph = {name: {i for i in _imports_when_loaded(module) if i in names} for name, module in names.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _imports_when_loaded(module: Path) -> set[str]:
    """Imports that run with the module; those for type checkers and inside functions do not."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def _loaded_by(code: str, libraries: set[str]) -> set[str]:
    """Which of the libraries are loaded after a Python process has run the code."""
    code += f"\nimport json, sys; print(json.dumps([name for name in {sorted(libraries)} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["imgcls_ray", "imgcls_ray.cli"])
def test_the_door_imports_nothing_heavy(module: str) -> None:
    heavy = {"torch", "ray", "timm", "openvino", "pyarrow", "PIL", "numpy"}
    assert not _loaded_by(f"import {module}", heavy)


def test_what_needs_no_cluster_does_not_import_one() -> None:
    """One process for all rooms: torch is loaded once."""
    rooms = set(MAY_IMPORT) - {"cli", "commands", "serve", "train"}
    modules = [m for m in MODULES if room_of(m) in rooms]
    names = [".".join(("imgcls_ray", *m.relative_to(PACKAGE).with_suffix("").parts)) for m in modules]
    names = [name.removesuffix(".__init__") for name in names]
    assert "imgcls_ray.workers.ray_pool" in names
    assert not _loaded_by("import " + ", ".join(names), {"ray", "fastapi"})


@pytest.mark.parametrize("command", ["status", "verify", "latest"])
def test_a_label_store_is_looked_at_without_ray_and_torch(command: str) -> None:
    code = f"""
import sys
from imgcls_ray.cli import main
sys.argv = ["imgcls", "store", "{command}", {str(STORE)!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert not _loaded_by(code, {"ray", "torch", "timm", "openvino"})


def test_a_command_that_labels_on_this_machine_imports_neither_ray_nor_torch(
    small_model: ModelFolder, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(40):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"no image")
    options = ["--model", str(small_model.path), "--output", str(tmp_path / "store"), "-sunit_size=16"]
    options += ["--num-workers", "2", "--batch-size", "16"]
    code = f"""
import sys
from imgcls_ray.cli import main
sys.argv = ["imgcls", "predict", {str(tmp_path / "images")!r}, *{options}]
try:
    main()
except SystemExit as end:
    assert end.code == 1, end.code
"""
    assert not _loaded_by(code, {"ray", "torch", "timm", "openvino"})
    assert len(list((tmp_path / "store" / "predictions").glob("0001-*.parquet"))) == 3
