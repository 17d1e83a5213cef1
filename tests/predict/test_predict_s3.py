"""The command on object storage: rows, resuming, and what is said where storage, rights or keys fail."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgcls_ray import cli
from imgcls_ray.errors import JobFailedError
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.models.api import create_model
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.object_client import forget_clients
from imgcls_ray.store.lease import LEASE_FILE, hold_lease
from imgcls_ray.store.opening import create_or_open_store, open_store
from imgcls_ray.store.plan import write_plan
from imgcls_ray.store.records import StoreIdentity
from imgcls_ray.store.verify import verify_store
from tests.conftest import SMALL_CLASSES, make_small_model
from tests.s3.proxy import Fault, Faults
from tests.store.stores import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imgcls_ray.models.folder import ModelFolder
    from tests.s3.proxy import S3Proxy
    from tests.s3.server import S3Server

IMGCLS = Path(sys.executable).with_name("imgcls")
_OF_THE_JOB = re.compile(r" INFO (run 0|starting Ray on this machine|starting \d+ (workers|process))")


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What was said of the failure: one line, and nothing beside it but the log's lines of the job itself."""
        lines = self.err.splitlines()
        own = [line for line in lines if line.startswith("imgcls: ")]
        assert len(own) == 1, self.err
        assert all(_OF_THE_JOB.search(line) for line in lines if line not in own), self.err
        return own[0].removeprefix("imgcls: ")


@pytest.fixture
def imgcls(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Ended]:
    """Run the command in this process, where units are labelled without Ray."""
    monkeypatch.setenv("COLUMNS", "200")
    # Other tests of the session may have joined this process to a Ray; a command begins without one.
    monkeypatch.setattr("imgcls_ray.workers.pool.is_cluster_given", lambda: False)

    def run(*args: object) -> Ended:
        forget_clients()
        capfd.readouterr()
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["imgcls", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capfd.readouterr()
        assert isinstance(left.value.code, int)
        assert [record for record in caplog.records if record.levelname != "INFO" and record.levelname != "DEBUG"] == []
        return Ended(left.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def imgcls_at(imgcls: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run the command in this process with an environment."""

    def run(*args: object, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return imgcls(*args)

    return run


def run_beside(*args: object, **environment: str) -> Ended:
    """Run the command in a process of its own."""
    command = [str(IMGCLS), *map(str, args)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=200, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def environment_of(s3: S3Server) -> dict[str, str]:
    """What a process needs to reach the server as the owner of its buckets."""
    return {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "COLUMNS": "200",
    }


def upload(s3: S3Server, bucket: str, files: Sequence[Path], prefix: str) -> list[str]:
    """Put files under a prefix; returns their URIs."""
    client = s3.client()

    def put(path: Path) -> str:
        client.put_object(Bucket=bucket, Key=f"{prefix}{path.name}", Body=path.read_bytes())
        return f"s3://{bucket}/{prefix}{path.name}"

    with ThreadPoolExecutor(8) as executor:
        return list(executor.map(put, files))


def draw(folder: Path, count: int) -> list[Path]:
    """Write distinct JPEG files."""
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=92)
    return sorted(folder.iterdir())


def act_as_other_user(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, *, allow: Mapping[str, str], deny: str = ""
) -> None:
    """Go on with the keys of a user whom the bucket's policy allows these actions on these resources.

    Args:
        allow: action to resource, which is behind the bucket's name: ``{"GetObject": "/*", "ListBucket": ""}``.
        deny: key of one object that may not be read.
    """
    name = f"user-{uuid.uuid4().hex[:8]}"
    keys = s3.add_user(name)
    about = {"Principal": {"AWS": f"arn:aws:iam:::user/{name}"}}
    statements = [
        {**about, "Effect": "Allow", "Action": f"s3:{action}", "Resource": f"arn:aws:s3:::{bucket}{resource}"}
        for action, resource in allow.items()
    ]
    if deny:
        resource = f"arn:aws:s3:::{bucket}/{deny}"
        statements.append({**about, "Effect": "Deny", "Action": "s3:GetObject", "Resource": resource})
    policy = {"Version": "2012-10-17", "Statement": statements}
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)


def rows_in(latest: str) -> dict[str, dict[str, Any]]:
    """What ``imgcls store latest`` printed, by URI."""
    rows = [json.loads(line) for line in latest.splitlines()]
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"]: row for row in rows}


def keys_under(s3: S3Server, bucket: str, prefix: str) -> list[str]:
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


# A whole job on Ray: input, model and store in one bucket


class Job(NamedTuple):
    """A finished job."""

    bucket: str
    images: list[Path]
    args: tuple[str, ...]
    """Of the command that did it."""
    ended: Ended
    ray_folder: Path
    """What Ray wrote: logs and sockets."""
    environment: dict[str, str]

    @property
    def store(self) -> str:
        return f"s3://{self.bucket}/store"


NUM_IMAGES = 150


@pytest.fixture(scope="module")
def job(s3: S3Server, small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """150 inputs, one of them no image, labelled by two workers."""
    images = draw(tmp_path_factory.mktemp("job") / "images", NUM_IMAGES)
    images[7].write_text("<html>404</html>")
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=bucket)
    upload(s3, bucket, images, "in/")
    upload(s3, bucket, [path for path in small_model.path.iterdir() if path.is_file()], "models/small/")
    options = ("--batch-size", "16", "-s", "unit_size=16", "--on", "ray")
    args = ("predict", f"s3://{bucket}/in/", "-m", f"s3://{bucket}/models/small", "-o", f"s3://{bucket}/store")
    # Not below the folder of the tests: the path of a socket has at most 107 bytes.
    ray_folder = Path(tempfile.mkdtemp(prefix="ik-"))
    environment = {**environment_of(s3), "RAY_TMPDIR": str(ray_folder)}
    ended = run_beside(*args, *options, **environment)
    yield Job(bucket, images, (*args, *options), ended, ray_folder, environment)
    shutil.rmtree(ray_folder, ignore_errors=True)


def test_a_job_on_s3_gives_every_object_the_row_that_its_bytes_have_as_a_local_file(
    imgcls_at: Callable[..., Ended], job: Job, small_model: ModelFolder
) -> None:
    assert job.ended.code == 0, job.ended.err
    latest = imgcls_at("store", "latest", job.store, **job.environment)
    assert latest.code == 0, latest.err
    rows = rows_in(latest.out)
    assert list(rows) == [f"s3://{job.bucket}/in/{path.name}" for path in job.images]
    expected = create_model(small_model.path).predict(job.images[0].parent, batch_size=16)
    for row, result in zip(rows.values(), expected, strict=True):
        if result.error is not None:
            assert row["error"] == result.error.code == "unsupported_format"
            continue
        assert row["labels"] == list(result.label_names)
        assert np.allclose(row["scores"], result.scores, atol=1e-6)


def test_a_second_command_on_s3_has_nothing_to_do(imgcls_at: Callable[..., Ended], job: Job) -> None:
    before = job.ended.code
    again = imgcls_at(*job.args, **job.environment)
    assert (before, again.code) == (0, 0), again.err
    assert f"nothing to label: 150 inputs, all have their row in {job.store}" in again.out


def test_a_store_on_s3_is_verified(imgcls_at: Callable[..., Ended], job: Job) -> None:
    verified = imgcls_at("store", "verify", job.store, **job.environment)
    assert verified.code == 0, verified.err
    assert f"{job.store}: 150 inputs planned, 150 rows (ok 149, unsupported_format 1)" in verified.out
    assert "every planned input has exactly one row" in verified.out


def test_a_store_on_s3_tells_its_status(imgcls_at: Callable[..., Ended], job: Job) -> None:
    status = imgcls_at("store", "status", job.store, **job.environment)
    assert status.code == 0, status.err
    assert status.out.startswith(f"{job.store}: small, 7 classes, top 5")
    assert "150 rows of 1 run (ok 149, unsupported_format 1)" in status.out
    assert "in use" not in status.out
    history = imgcls_at("store", "history", job.store, **job.environment)
    assert re.search(r"0001.*finished.*150.*149.*1 ", history.out)


def test_the_secret_is_in_nothing_that_the_job_leaves_or_says(job: Job, s3: S3Server) -> None:
    secret = s3.secret_key.encode()
    assert job.ended.code == 0
    assert s3.secret_key not in job.ended.out + job.ended.err
    client = s3.client()
    keys = keys_under(s3, job.bucket, "store/")
    assert len(keys) > 10
    for key in keys:
        content = client.get_object(Bucket=job.bucket, Key=key)["Body"].read()
        if key.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(content))
            content += repr((table.to_pylist(), table.schema.metadata)).encode()
        assert secret not in content, key
    logs = [path for path in job.ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("worker" in path.name for path in logs), "Ray's logs are elsewhere"
    assert [path for path in logs if secret in path.read_bytes()] == []


# New, changed, missing and refused objects: single units, which are labelled without Ray


def test_an_object_that_changed_is_labelled_again(
    imgcls: Callable[..., Ended],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    s3: S3Server,
    bucket: str,
) -> None:
    images = draw_images(6)
    uris = upload(s3, bucket, images, "in/")
    args = ("predict", f"s3://{bucket}/in/", "-m", small_model.path, "-o", f"s3://{bucket}/store")
    assert imgcls(*args).code == 0
    s3.client().put_object(Bucket=bucket, Key="in/00000.jpg", Body=images[1].read_bytes())
    upload(s3, bucket, draw_images(1, "more", seed=1), "in/new-")
    planned = imgcls(*args, "--dry-run").out
    assert "7 inputs, 2 to label (1 new, 1 changed, 0 to retry), 5 have their row" in planned
    assert imgcls(*args).code == 0
    rows = rows_in(imgcls("store", "latest", f"s3://{bucket}/store").out)
    assert len(rows) == 7
    assert rows[uris[0]]["scores"] == rows[uris[1]]["scores"]
    assert imgcls("store", "verify", f"s3://{bucket}/store").code == 0


def test_a_store_inside_its_input_on_s3_is_no_input(
    imgcls: Callable[..., Ended],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    s3: S3Server,
    bucket: str,
) -> None:
    upload(s3, bucket, draw_images(3), "in/")
    args = ("predict", f"s3://{bucket}", "-m", small_model.path, "-o", f"s3://{bucket}/in/store", "--save-images", 2)
    assert imgcls(*args).code == 0
    assert [key for key in keys_under(s3, bucket, "in/store/samples/") if key.endswith(".jpg")]
    assert "nothing to label: 3 inputs, all have their row" in imgcls(*args).out


def test_an_object_that_is_gone_when_its_turn_comes_is_a_row_that_says_so(
    imgcls: Callable[..., Ended],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = draw_images(5)
    uris = upload(s3, bucket, images, "in/")

    def change_after_planning(*args: Any, **kwargs: Any) -> None:
        write_plan(*args, **kwargs)
        s3.client().delete_object(Bucket=bucket, Key="in/00002.jpg")
        s3.client().put_object(Bucket=bucket, Key="in/00003.jpg", Body=images[0].read_bytes())

    monkeypatch.setattr("imgcls_ray.predict.job.write_plan", change_after_planning)
    assert imgcls("predict", f"s3://{bucket}/in/", "-m", small_model.path, "-o", tmp_path / "store").code == 0
    rows = rows_in(imgcls("store", "latest", tmp_path / "store").out)
    assert [rows[uri]["error"] for uri in uris] == [None, None, "not_found", "changed", None]


def test_an_object_that_may_not_be_read_costs_its_own_row_only_and_is_tried_again(
    imgcls: Callable[..., Ended],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uris = upload(s3, bucket, draw_images(8), "in/")
    args = ("predict", f"s3://{bucket}/in/", "-m", small_model.path, "-o", tmp_path / "store")
    with monkeypatch.context() as as_other:
        allow = {"ListBucket": "", "GetObject": "/*"}
        act_as_other_user(s3, bucket, as_other, allow=allow, deny="in/00003.jpg")
        ended = imgcls(*args)
        assert (ended.code, ended.err) == (0, "")
        rows = rows_in(imgcls("store", "latest", tmp_path / "store").out)
        assert {uri: row["error"] for uri, row in rows.items() if row["error"]} == {uris[3]: "access_denied"}
        assert len(rows) == 8
    assert imgcls(*args).code == 0
    rows = rows_in(imgcls("store", "latest", tmp_path / "store").out)
    assert [row["error"] for row in rows.values()] == [None] * 8
    assert imgcls("store", "verify", tmp_path / "store").code == 0


def test_the_endpoint_of_the_command_line_reaches_workers_and_store(
    imgcls: Callable[..., Ended],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(s3, bucket, draw_images(3), "in/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    endpoint = ("--endpoint-url", s3.endpoint_url)
    args = ("predict", f"s3://{bucket}/in/", "-m", small_model.path, "-o", f"s3://{bucket}/store", *endpoint)
    assert imgcls(*args).code == 0
    for command in ("verify", "status", "latest"):
        assert imgcls("store", command, f"s3://{bucket}/store", *endpoint).code == 0


# What ends a command: one line and an exit code, before anything is labelled


class Place(NamedTuple):
    """Three images in a bucket, and the model beside it."""

    bucket: str
    model: Path

    def args(self, *, source: str = "", output: str = "") -> tuple[object, ...]:
        source = source or f"s3://{self.bucket}/in/"
        return ("predict", source, "-m", self.model, "-o", output or f"s3://{self.bucket}/store")


@pytest.fixture
def place(draw_images: Callable[..., list[Path]], small_model: ModelFolder, s3: S3Server, bucket: str) -> Place:
    upload(s3, bucket, draw_images(3), "in/")
    return Place(bucket, small_model.path)


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_end_the_command(
    imgcls: Callable[..., Ended], place: Place, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong-and-confidential")
    ended = imgcls(*place.args())
    assert ended.code == 3
    assert ended.complaint.startswith(f"s3://{place.bucket}/in/: cannot be read: ")
    assert ended.complaint.endswith("; check credentials (environment, ~/.aws, role), region and endpoint")
    assert "confidential" not in ended.err.replace("InvalidAccessKeyId", "")


def test_no_keys_end_the_command(imgcls: Callable[..., Ended], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    ended = imgcls(*place.args())
    assert ended.code == 3
    assert "check credentials" in ended.complaint


def test_a_missing_input_bucket_ends_the_command(imgcls: Callable[..., Ended], place: Place, tmp_path: Path) -> None:
    ended = imgcls(*place.args(source="s3://test-is-nowhere/in/", output=str(tmp_path / "store")))
    assert ended.code == 2
    assert ended.complaint.startswith(
        "s3://test-is-nowhere/in/: there is no bucket 'test-is-nowhere' (404 NoSuchBucket"
    )
    assert ended.complaint.endswith("; check its name, and the endpoint")
    assert not (tmp_path / "store").exists()


def test_a_missing_input_prefix_ends_the_command(imgcls: Callable[..., Ended], place: Place, tmp_path: Path) -> None:
    ended = imgcls(*place.args(source=f"s3://{place.bucket}/inn", output=str(tmp_path / "store")))
    assert ended.code == 2
    inn = f"s3://{place.bucket}/inn"
    assert ended.complaint == f"{inn}: there is no such object, and none under {inn}/"
    assert not (tmp_path / "store").exists()


def test_a_missing_output_bucket_ends_the_command(imgcls: Callable[..., Ended], place: Place) -> None:
    ended = imgcls(*place.args(output="s3://test-is-nowhere/store"))
    assert ended.code == 2
    assert ended.complaint.startswith("s3://test-is-nowhere/store: there is no bucket 'test-is-nowhere' (")
    assert ended.complaint.endswith("; make it, or check its name")


@pytest.mark.parametrize("bucket_is_there", [True, False])
def test_a_missing_model_on_s3_ends_the_command(
    imgcls: Callable[..., Ended], place: Place, *, bucket_is_there: bool
) -> None:
    model = f"s3://{place.bucket if bucket_is_there else 'test-is-nowhere'}/models/small"
    ended = imgcls("predict", f"s3://{place.bucket}/in/", "-m", model, "-o", f"s3://{place.bucket}/store")
    assert ended.code == 2
    assert ended.complaint.startswith(model)


def test_an_input_that_may_not_be_listed_ends_the_command(
    imgcls: Callable[..., Ended], place: Place, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    act_as_other_user(s3, place.bucket, monkeypatch, allow={"GetObject": "/*"})
    ended = imgcls(*place.args(output=str(tmp_path / "store")))
    assert ended.code == 3
    assert ended.complaint.startswith(f"s3://{place.bucket}/in/: cannot be read: ")
    assert ended.complaint.endswith("; check the rights of your credentials on it")
    assert "403 AccessDenied" in ended.complaint
    assert not (tmp_path / "store").exists()


def test_an_output_that_may_not_be_written_ends_the_command(
    imgcls: Callable[..., Ended], place: Place, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as_other_user(s3, place.bucket, monkeypatch, allow={"ListBucket": "", "GetObject": "/*"})
    ended = imgcls(*place.args())
    assert ended.code == 3
    assert ended.complaint.startswith(f"s3://{place.bucket}/store/.create-only: cannot be written: ")
    assert "check the rights of your credentials on it" in ended.complaint
    assert keys_under(s3, place.bucket, "store") == []


def test_an_output_that_may_not_be_looked_into_ends_the_command(
    imgcls: Callable[..., Ended], place: Place, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = f"test-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=foreign)
    act_as_other_user(s3, place.bucket, monkeypatch, allow={"ListBucket": "", "GetObject": "/*"})
    ended = imgcls(*place.args(output=f"s3://{foreign}/store"))
    assert ended.code == 3
    assert ended.complaint.startswith(f"s3://{foreign}/store")
    assert ended.complaint.endswith("; check the rights of your credentials on it")


def test_a_server_that_cannot_be_reached_ends_the_command_within_seconds(
    imgcls: Callable[..., Ended], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest: list[float] = []

    def uniform(_least: float, most: float) -> float:
        longest.append(most)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    ended = imgcls(*place.args())
    assert ended.code == 3
    assert ended.complaint.startswith(f"s3://{place.bucket}/in/: cannot be read: ")
    assert "http://127.0.0.1:9" in ended.complaint
    assert ended.complaint.endswith("; check the endpoint and the network")
    # Pauses are random up to these; half of them are kept on average.
    assert sum(longest) / 2 <= 20


@pytest.mark.slow
def test_a_new_model_labels_what_a_store_on_s3_names_and_the_two_stores_are_compared(
    imgcls: Callable[..., Ended], s3: S3Server, bucket: str, small_model: ModelFolder, tmp_path: Path
) -> None:
    uris = upload(s3, bucket, draw(tmp_path / "images", 6), "images/")
    old, new = (f"s3://{bucket}/{name}" for name in ("labels", "labels-new"))
    first = ("predict", f"s3://{bucket}/images/", "-m", small_model.path, "-o", old)
    assert imgcls(*first).code == 0
    gone, *there = uris
    s3.client().delete_object(Bucket=bucket, Key=gone.removeprefix(f"s3://{bucket}/"))
    assert imgcls(*first).code == 0
    rows = rows_in(imgcls("store", "latest", old).out)
    assert {uri: row["present"] for uri, row in rows.items()} == {gone: False, **dict.fromkeys(there, True)}
    assert sorted(rows_in(imgcls("store", "latest", old, "--only-present").out)) == there

    # The same network, which is converted already, with its classes in another order.
    other = make_small_model(tmp_path / "other", seed=0, class_names=SMALL_CLASSES[::-1])
    assert imgcls("predict", "--like", old, "-m", other.path, "-o", new).code == 0
    answers = rows_in(imgcls("store", "latest", new).out)
    assert {uri: row["etag"] for uri, row in answers.items()} == {uri: rows[uri]["etag"] for uri in there}
    found = imgcls("store", "diff", old, new, "--json")
    assert found.code == 0
    record = json.loads(found.out)
    num_changed = sum(answers[uri]["label"] != rows[uri]["label"] for uri in there)
    assert (record["num_compared"], record["num_changed"]) == (len(there), num_changed)


@pytest.mark.parametrize("command", ["verify", "status", "latest"])
def test_a_place_on_s3_that_is_no_store_is_told(imgcls: Callable[..., Ended], place: Place, command: str) -> None:
    ended = imgcls("store", command, f"s3://{place.bucket}/in")
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith(f"s3://{place.bucket}/in: is not a label store")


# A bucket that disappears half-way


class Vanished(NamedTuple):
    """A job whose bucket went away in its middle, and the same command again."""

    store: str
    ended: Ended
    kept: dict[str, bytes]
    """The parts that were there when it had ended."""
    again: Ended
    parts: dict[str, bytes]
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["s3", pytest.param("local", marks=pytest.mark.slow)])
def vanished(
    request: pytest.FixtureRequest,
    small_model: ModelFolder,
    s3: S3Server,
    proxy_of_session: S3Proxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Vanished:
    """320 images in units of 16; the bucket is gone after some units."""
    folder = tmp_path_factory.mktemp("vanished")
    images = draw(folder / "images", 320)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=bucket)
    upload(s3, bucket, images, "in/")
    store = f"s3://{bucket}/store" if request.param == "s3" else str(folder / "store")

    def parts() -> dict[str, bytes]:
        if request.param == "local":
            return {path.name: path.read_bytes() for path in (folder / "store" / "predictions").glob("*.parquet")}
        keys = keys_under(s3, bucket, "store/predictions/")
        return {key: s3.client().get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    options = ("--batch-size", "16", "-s", "unit_size=16", "--num-workers", "2")
    args = ("predict", f"s3://{bucket}/in/", "-m", small_model.path, "-o", store, *options)
    environment = {**environment_of(s3), "AWS_ENDPOINT_URL": proxy_of_session.endpoint_url}
    proxy_of_session.set_faults(Faults((Fault("no_bucket", after=200),)))
    ended = run_beside(*args, **environment)
    proxy_of_session.set_faults(Faults())
    kept = parts()
    return Vanished(store, ended, kept, run_beside(*args, **environment), parts(), environment)


def test_a_bucket_that_disappears_costs_nothing_that_is_labelled_and_no_input_its_row(
    imgcls_at: Callable[..., Ended], vanished: Vanished
) -> None:
    assert vanished.ended.code != 0
    assert 0 < len(vanished.kept) < 20
    assert vanished.again.code == 0, vanished.again.err
    assert {name: vanished.parts[name] for name in vanished.kept} == vanished.kept
    verified = imgcls_at("store", "verify", vanished.store, **vanished.environment)
    assert verified.code == 0, verified.out
    rows = rows_in(imgcls_at("store", "latest", vanished.store, **vanished.environment).out)
    assert [row["error"] for row in rows.values()] == [None] * 320


def test_a_bucket_that_disappears_is_told_in_one_line_and_exit_code_3(vanished: Vanished) -> None:
    *_, last = vanished.ended.err.splitlines()
    assert "404 NoSuchBucket" in last
    assert last.endswith(
        f"; everything labelled so far is kept in {vanished.store}, and the same command goes on from there"
    )
    assert vanished.ended.code == 3
    assert vanished.ended.complaint == last.removeprefix("imgcls: ")


# Two runs on one store


def test_a_second_run_on_a_store_on_s3_is_told_who_is_first(imgcls: Callable[..., Ended], place: Place) -> None:
    assert imgcls(*place.args()).code == 0
    store = f"s3://{place.bucket}/store"
    with hold_lease(open_directory(store)):
        ended = imgcls(*place.args())
        status = imgcls("store", "status", store)
    assert ended.code == 75
    holder = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 20\d\d-\d\d-\d\dT[\d:]{{8}}\+00:00"
    words = rf"{store}: another run is using this store \({holder}\); wait for it, or stop it first"
    assert re.fullmatch(words, ended.complaint)
    assert re.search(f"in use by {holder}", status.out)


@pytest.mark.parametrize(("age_s", "code"), [(120, 0), (0, 75)])
def test_only_a_lease_that_is_stale_is_taken_over_from_another_host(
    imgcls: Callable[..., Ended], place: Place, age_s: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.store.lease._WATCH_S", 2.0)
    assert imgcls(*place.args()).code == 0
    lease = {"token": "other", "host": "elsewhere", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    directory = open_directory(f"s3://{place.bucket}/store")
    directory.replace(LEASE_FILE, json.dumps({**lease, "beat": time.time() - age_s}).encode())
    assert imgcls(*place.args()).code == code
    assert directory.exists(LEASE_FILE) == (code == 75)


def test_a_lease_on_s3_that_cannot_be_read_for_a_while_beats_again_afterwards(
    proxy: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.store.lease._HEARTBEAT_S", 0.01)
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    directory = open_directory(f"s3://{bucket}/store")
    with hold_lease(directory):
        proxy.set_faults(Faults((Fault("denied"),)))
        deadline = time.monotonic() + 10
        while proxy.counts().num_faults < 3 and not complaints:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        proxy.set_faults(Faults())
        assert complaints == []
        since = time.time()
        while json.loads(directory.read(LEASE_FILE))["beat"] < since:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_end_of_a_lease_that_cannot_be_read_does_not_hide_why_the_job_ended(proxy: S3Proxy, bucket: str) -> None:
    def fail() -> None:
        with hold_lease(open_directory(f"s3://{bucket}/store")):
            proxy.set_faults(Faults((Fault("no_bucket"),)))
            raise JobFailedError("a worker failed for good")

    with pytest.raises(JobFailedError, match="a worker failed for good"):
        fail()


# The command without its lease, which waits at a call until another one has come as far.
UNLEASED = """
import contextlib, os, pkgutil, sys, time
from pathlib import Path
import imgcls_ray.predict.job as predict
from imgcls_ray.cli import main

name, _, call = sys.argv.pop(1).rpartition(".")
meeting = Path(sys.argv.pop(1))
owner = pkgutil.resolve_name(name)
function = getattr(owner, call)

def meet(*args, **kwargs):
    (meeting / str(os.getpid())).touch()
    deadline = time.monotonic() + 100
    while len(list(meeting.iterdir())) < 2:
        assert time.monotonic() < deadline, "the other one has not come"
        time.sleep(0.01)
    return function(*args, **kwargs)

setattr(owner, call, meet)
predict.hold_lease = lambda directory: contextlib.nullcontext()
main()
"""


def run_two_at_once(call: str, place: Path, *args: object) -> list[Ended]:
    (place / "meeting").mkdir()
    command = [sys.executable, "-c", UNLEASED, call, str(place / "meeting"), *map(str, args)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        outputs = [job.communicate(timeout=200) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return [Ended(job.returncode, out, err) for job, (out, err) in zip(jobs, outputs, strict=True)]


# What a local store makes of a race is also shown by ``storage/test_local.py``, with many processes.
STORES = pytest.mark.parametrize("kind", [pytest.param("local", marks=pytest.mark.slow), "s3"])


@pytest.fixture
def output(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the store is to be."""
    return str(tmp_path / "store") if kind == "local" else f"s3://{request.getfixturevalue('bucket')}/store"


@pytest.mark.slow
@STORES
def test_two_runs_that_label_the_same_units_without_a_lease_double_nothing(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, output: str
) -> None:
    folder = draw_images(160)[0].parent
    identity = StoreIdentity(
        model=small_model.spec.name,
        fingerprint=small_model.spec.fingerprint,
        num_classes=small_model.spec.num_classes,
        top_k=5,
        embedding=False,
        logits=False,
    )
    store = create_or_open_store(open_directory(output), identity)
    plan(store, list_inputs(str(folder), ListingCounts()))
    options = ("--batch-size", "16", "--num-workers", "1")
    args = ("predict", folder, "-m", small_model.path, "-o", output, *options)
    jobs = run_two_at_once("imgcls_ray.predict.job.label_units", tmp_path, *args)
    # They may meet once more where both claim the next run, of nothing: only one of them gets it.
    assert sorted(job.code for job in jobs) in ([0, 0], [0, 75]), [job.err for job in jobs]
    report = verify_store(store)
    assert (report.problems, report.num_rows, report.num_doubled) == ([], 160, 0)


@STORES
def test_two_runs_that_plan_the_same_inputs_without_a_lease_double_nothing(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, output: str
) -> None:
    folder = draw_images(20)[0].parent
    args = ("predict", folder, "-m", small_model.path, "-o", output)
    jobs = sorted(run_two_at_once("imgcls_ray.store.label_store:LabelStore.claim_run", tmp_path, *args))
    assert [job.code for job in jobs] == [0, 75], [job.err for job in jobs]
    assert f"{output}: another command is planning into this store (run 0001 is claimed)" in jobs[1].complaint
    assert run_beside(*args).code == 0
    report = verify_store(open_store(open_directory(output)))
    assert (report.problems, report.num_rows, report.num_doubled) == ([], 20, 0)
