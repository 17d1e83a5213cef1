"""A training on object storage whose command is killed, and run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls_ray.models.open import open_model
from imgcls_ray.storage.options import StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import TrainConfig
    from tests.s3.server import S3Server


def train_through_a_kill(
    make_train_config: Callable[..., TrainConfig], data: Path, bucket: str, s3: S3Server, **changes: Any
) -> str:
    """Train on a data set in a bucket, with the output there; what the second command says."""
    client = s3.client()
    for file in data.rglob("*.*"):
        client.put_object(Bucket=bucket, Key=f"data/{file.relative_to(data)}", Body=file.read_bytes())
    config = make_train_config(data=f"s3://{bucket}/data", output=f"s3://{bucket}/run", epochs=12, **changes)
    settings = [f"-s{key}={value}" for key, value in config.model_dump(exclude_defaults=True).items()]
    command = [str(Path(sys.executable).with_name("imgcls")), "train", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if " epoch 2: " in line:
                first.kill()
                break
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "holds this run already; it continues after step" in done.stderr
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]}
    names = ("train_result.json", "train.log", "curves.png", "config.yaml", "label.txt", "latest/train_state.pt")
    assert {f"run/{name}" for name in names} <= keys
    assert any(key.startswith("run/tensorboard/events") for key in keys)
    result = json.loads(client.get_object(Bucket=bucket, Key="run/train_result.json")["Body"].read())
    assert [row["epoch"] for row in result["history"]] == list(range(1, 13))
    folder = open_model(f"s3://{bucket}/run/best_model", StorageOptions())
    assert folder.spec.metrics["val.top1"] == result["best"]["metrics"]["val.top1"]
    return done.stderr
