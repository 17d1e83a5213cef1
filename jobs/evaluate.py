"""Evaluate a model as a submitted Ray job; ``jobs/evaluate.yaml`` explains every key.

ray job submit --working-dir . -- python jobs/evaluate.py --config jobs/evaluate.yaml data=s3://bucket/set
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imgcls_ray.cli import leave_with, log_to_stderr


def main() -> None:
    """Parse, call, and leave with the exit code of ``imgcls evaluate``."""
    parser = argparse.ArgumentParser(
        prog="jobs/evaluate.py",
        description="Evaluate a model on a labelled dataset as a Ray job. Exit codes are those of `imgcls evaluate`.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of keys, e.g. jobs/evaluate.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file, e.g. split=test")
    arguments = parser.parse_intermixed_args()
    log_to_stderr()

    from imgcls_ray.commands import evaluate

    evaluate.run(arguments.config, arguments.overrides, {})


if __name__ == "__main__":
    leave_with(main)
