"""Ours, the limit and the rivals in one go, on one machine, on the same files: what ``make bench`` runs.

Prints rates and ratios, and writes every figure as a JSON line to ``results.jsonl`` in the work folder. Run it on an
otherwise idle machine. Minutes long and commands of their own, run beside it:
``python -m benchmarks.memory`` and ``python -m benchmarks.kills``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.common import available_cores, imgcls, print_table

_MODEL = "PP-LCNet_x1_0"
_TIMM_NAME = "lcnet_100"
_PACKAGES = ("imgcls-ray", "ray", "torch", "torchvision", "simplejpeg", "timm", "openvino", "pillow", "pyarrow", "daft")
# Above this share of one core, somebody else is measured too.
_IDLE_LOAD = 0.5

Figure = dict[str, Any]


class Step(NamedTuple):
    """One benchmark script."""

    name: str
    """Names its figures in the table: the limit and ours run twice."""
    module: str
    arguments: tuple[str, ...]


def steps(images: Path, model: Path, work: Path, *, quick: bool) -> list[Step]:
    """Everything that is run, in order; the limit before and after ours, because machines drift."""
    limit = (str(images), "--model", str(model), *(("--seconds", "5") if quick else ()))
    ours = (str(images), "--model", str(model), "--work", str(work))
    rival = (str(images), "--model", _TIMM_NAME)
    return [
        Step("limit before", "limit", limit),
        Step("ours", "ours", ours),
        Step("limit after", "limit", limit),
        Step("ours cold", "ours", (*ours, "--cold")),
        Step("ray_docs", "rival_ray_docs", rival),
        Step("daft", "rival_daft", rival),
        Step("timm", "rival_timm", rival),
        Step("startup", "startup", (str(images), "--model", str(model))),
    ]


def run_step(step: Step) -> list[Figure]:
    """Run one script; returns its figures, none of them if it failed."""
    command = [sys.executable, "-m", f"benchmarks.{step.module}", *step.arguments]
    print(f"\n[{step.name}] {' '.join(command[1:])}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"[{step.name}] failed with exit code {done.returncode}", file=sys.stderr)
        return []
    # Ray and Daft print between the lines.
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"benchmark"')]
    print("\n".join(lines), file=sys.stderr)
    return [{"step": step.name, **json.loads(line)} for line in lines]


def make_inputs(work: Path, count: int, source: Path | None) -> tuple[Path, Path]:
    """The images and the model folder, made once and kept for the next time."""
    images = work / (f"images-{count}-{source.resolve().name}" if source else f"images-{count}")
    if not images.exists():
        arguments = (str(images), "-n", str(count), *(("--source", str(source)) if source else ()))
        subprocess.run([sys.executable, "-m", "benchmarks.make_images", *arguments], stdout=sys.stderr, check=True)
    model = work / _MODEL
    if not model.exists():
        command = imgcls("models", "new", _MODEL, "--random", "--output", model)
        subprocess.run(command, stdout=sys.stderr, check=True)
    return images, model


def machine_facts() -> Figure:
    """What the figures depend on, beside the code."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cores": available_cores(),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    """Name and numbers, because virtual machines hide the name: family 6 model 207 is Emerald Rapids."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    numbers = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{name} ({numbers}{', AVX-512 bf16' if 'avx512_bf16' in facts.get('flags', '') else ''})"


def ratios(figures: list[Figure]) -> list[Figure]:
    """Ours against the others; a ratio whose parts are not all there is left out."""
    value = {(figure["step"], figure["figure"]): figure["value"] for figure in figures}
    before, after = value.get(("limit before", "steady_rate")), value.get(("limit after", "steady_rate"))
    limit = (before + after) / 2 if before and after else before or after
    steady, whole = value.get(("ours", "steady_rate")), value.get(("ours", "whole_job_rate"))
    pairs = {
        "limit_drift": (after, before),
        "ours_to_limit": (steady, limit),
        "whole_job_to_limit": (whole, limit),
        "ours_to_ray_docs": (whole, value.get(("ray_docs", "whole_job_rate"))),
        "ours_to_daft": (whole, value.get(("daft", "whole_job_rate"))),
        "ours_to_timm": (steady, value.get(("timm", "steady_rate"))),
    }
    return [
        {"step": "ratio", "benchmark": "run_all", "figure": name, "value": round(above / below, 3), "unit": "ratio"}
        for name, (above, below) in pairs.items()
        if above and below
    ]


def tell(facts: Figure, figures: list[Figure], num_images: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    versions = ", ".join(f"{package} {number}" for package, number in facts["versions"].items())
    console.print(f"\n{facts['cores']} cores, {facts['cpu']}, {facts['memory_gib']} GiB; Python {facts['python']}")
    console.print(versions)
    if facts["load_at_start"] > _IDLE_LOAD:
        console.print(f"NOT IDLE: the load was {facts['load_at_start']} at the start; these figures say little")
    rows = [
        (figure["step"], figure["figure"].replace("_", " "), f"{figure['value']:,.4g}", figure["unit"])
        for figure in figures
    ]
    title = f"{_MODEL}, random weights, {num_images:,} images"
    print_table(("what", "figure", "value", "unit"), rows, title=title, console=console)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run_all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench"), help="kept between runs [default: %(default)s]"
    )
    parser.add_argument(
        "--source", type=Path, help="folder of JPEG photographs to make the images from [default: draw]"
    )
    parser.add_argument("--quick", action="store_true", help="600 images: shows that everything runs, not how fast")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    num_images = 600 if args.quick else 5000
    facts = machine_facts()
    images, model = make_inputs(args.work, num_images, args.source)
    results = args.work / "results.jsonl"
    figures: list[Figure] = []
    failed = []
    for step in steps(images, model, args.work, quick=args.quick):
        new = run_step(step)
        figures += new
        if not new:
            failed.append(step.name)
    figures += ratios(figures)
    lines = [{"machine": facts, "num_images": num_images}, *figures]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tell(facts, figures, num_images)
    print(f"figures: {results}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
