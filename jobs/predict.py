"""Label images as a submitted Ray job; ``jobs/predict.yaml`` explains every key.

ray job submit --working-dir . -- python jobs/predict.py --config jobs/predict.yaml input=s3://bucket/raw/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imgcls_ray.cli import leave_with, log_to_stderr


def main() -> None:
    """Parse, call, and leave with the exit code of ``imgcls predict``."""
    parser = argparse.ArgumentParser(
        prog="jobs/predict.py",
        description="Label images as a Ray job. Exit codes are those of `imgcls predict`.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of keys, e.g. jobs/predict.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file, e.g. top_k=3")
    arguments = parser.parse_intermixed_args()
    log_to_stderr()

    from imgcls_ray.commands import predict

    predict.run(arguments.config, arguments.overrides, {})


if __name__ == "__main__":
    leave_with(main)
