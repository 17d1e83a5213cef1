"""Check a labelled dataset as a submitted Ray job; ``jobs/check_dataset.yaml`` explains every key.

ray job submit --working-dir . -- python jobs/check_dataset.py --config jobs/check_dataset.yaml dataset=s3://bucket/set
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imgcls_ray.cli import leave_with, log_to_stderr


def main() -> None:
    """Parse, call, and leave with the exit code of ``imgcls check``."""
    parser = argparse.ArgumentParser(
        prog="jobs/check_dataset.py",
        description="Check a labelled dataset as a Ray job. Exit codes are those of `imgcls check`.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of keys, e.g. jobs/check_dataset.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file, e.g. seed=1")
    arguments = parser.parse_intermixed_args()
    log_to_stderr()

    from imgcls_ray.commands import check

    check.run(arguments.config, arguments.overrides, {})


if __name__ == "__main__":
    leave_with(main)
