"""Train as a submitted Ray job; ``jobs/train.yaml`` explains every key.

ray job submit --working-dir . -- python jobs/train.py --config jobs/train.yaml data=s3://bucket/set
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imgcls_ray.cli import leave_with, log_to_stderr


def main() -> None:
    """Parse, call, and leave with the exit code of ``imgcls train``."""
    parser = argparse.ArgumentParser(
        prog="jobs/train.py",
        description="Train as a Ray job. Exit codes are those of `imgcls train`.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of keys, e.g. jobs/train.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file, e.g. epochs=30")
    arguments = parser.parse_intermixed_args()
    log_to_stderr()

    from imgcls_ray.commands import train

    train.run(arguments.config, arguments.overrides, {})


if __name__ == "__main__":
    leave_with(main)
