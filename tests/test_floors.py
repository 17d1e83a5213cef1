"""The floors of the house: who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "imgcls_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own floor and from those after it.
FLOORS = [
    "cli",
    "flags",
    "commands",
    "serve",
    "train",
    "evaluation",
    "datasets",
    "data",
    "demo",
    "workers",
    "models",
    "options",
    "ray_start",
    "images",
    "storage",
    "config",
    "machine",
    "defaults",
    "errors",
]
# Floors beside each other, in both directions.
STRANGERS = [
    ("serve", "train"),
    ("serve", "evaluation"),
    ("serve", "datasets"),
    ("serve", "data"),
    ("serve", "demo"),
    ("train", "evaluation"),
    ("demo", "data"),
    ("demo", "workers"),
    ("demo", "models"),
    ("images", "storage"),
    ("images", "config"),
    ("storage", "config"),
]
# The one door to each library, and the floors that must not know it.
ONLY_IN = {
    "yaml": {"config"},
    "timm": {"models", "train"},
    "openvino": {"models"},
    "safetensors": {"models"},
    "httpcore": {"storage"},
    "fsspec": {"storage"},
    "s3fs": {"storage"},
    "obstore": {"storage"},
    "typer": {"cli", "flags"},
    "matplotlib": {"datasets", "evaluation", "train"},
    "jinja2": {"datasets"},
    "markupsafe": {"datasets"},
    "sklearn": {"evaluation"},
    "tensorboardX": {"train"},
    "onnx": {"models"},
    "nncf": {"models"},
    "xxhash": {"images"},
    "imagecodecs": {"images"},
    "pillow_heif": {"images"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "ray": {"data", "datasets", "evaluation", "serve", "train"},
}


def floor_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own_floors(module: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(module) if name.startswith("imgcls_ray.")} & set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_point_down(module: Path) -> None:
    floor = floor_of(module)
    if floor in ("__init__", "__main__"):
        return
    above = set(FLOORS[: FLOORS.index(floor)])
    assert not own_floors(module) & above
    strangers = {b if a == floor else a for a, b in STRANGERS if floor in (a, b)}
    assert not own_floors(module) & strangers


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_each_library_has_one_door(module: Path) -> None:
    libraries = {name.split(".")[0] for name in imports_of(module)}
    for library in libraries & ONLY_IN.keys():
        assert floor_of(module) in ONLY_IN[library], f"{library} is imported outside {ONLY_IN[library]}"


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
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("module", ["imgcls_ray", "imgcls_ray.cli"])
def test_the_door_imports_nothing_heavy(module: str) -> None:
    heavy = {"torch", "ray", "timm", "openvino", "pyarrow", "PIL", "numpy"}
    code = f"import sys, {module}; print({heavy} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


@pytest.mark.parametrize("floor", ["images", "models", "storage"])
def test_the_classifier_needs_no_cluster(floor: str) -> None:
    modules = [m for m in MODULES if floor_of(m) == floor]
    names = [f"imgcls_ray.{floor}"] + [f"imgcls_ray.{floor}.{m.stem}" for m in modules if m.stem != "__init__"]
    code = f"import sys, {', '.join(names)}; print({{'ray', 'fastapi'}} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
