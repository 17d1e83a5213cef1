"""Export a model as a submitted Ray job; ``jobs/export.yaml`` explains every key.

ray job submit --working-dir . -- python jobs/export.py --config jobs/export.yaml model=s3://bucket/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imgcls_ray.cli import leave_with, log_to_stderr


def main() -> None:
    """Parse, call, and leave with the exit code of ``imgcls export``."""
    parser = argparse.ArgumentParser(
        prog="jobs/export.py",
        description="Export a model as a Ray job. Exit codes are those of `imgcls export`.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of keys, e.g. jobs/export.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file, e.g. format=openvino")
    arguments = parser.parse_intermixed_args()
    log_to_stderr()

    from imgcls_ray.commands import export

    export.run(arguments.config, arguments.overrides, {})


if __name__ == "__main__":
    leave_with(main)
