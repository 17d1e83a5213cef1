"""Images in tar, zip and Parquet files get the rows that they get as loose files, in far fewer requests from S3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray import cli
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.samples import save_samples
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.packed.making import write_parquet, write_tar, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.store.label_store import LabelStore
    from tests.s3.proxy import S3Proxy
    from tests.s3.server import S3Server

_SAME = ("status", "error", "label", "labels", "scores", "width", "height")


@pytest.fixture
def label(small_model: ModelFolder, tmp_path: Path) -> Callable[..., PredictReport]:
    """Runs ``imgcls predict`` on so few images that no Ray is started."""

    def run(source: object, store: str, **values: Any) -> PredictReport:
        inputs = {} if source is None else {"input": str(source)}
        paths = {**inputs, "model": str(small_model.path), "output": str(tmp_path / store)}
        return predict(make_config(PredictConfig, {**paths, **values}), Console(stderr=True, force_terminal=False))

    return run


@pytest.fixture
def contents(draw_images: Callable[..., list[Path]], tmp_path: Path) -> dict[str, bytes]:
    """Some images, one of them cut off and one that is none, as loose files in ``images/`` too."""
    images = draw_images(40)
    images[3].write_bytes(images[3].read_bytes()[:300])
    images[7].write_bytes(b"no image at all")
    return {path.name: path.read_bytes() for path in sorted(images)}


def store_of(tmp_path: Path, name: str) -> LabelStore:
    return open_store(open_directory(str(tmp_path / name)))


def rows_of(tmp_path: Path, name: str) -> list[tuple[Any, ...]]:
    """What was found out of each image, in the order of the URIs."""
    return [
        tuple(row[key] for key in _SAME) for table in latest_rows(store_of(tmp_path, name)) for row in table.to_pylist()
    ]


def uris_of(tmp_path: Path, name: str, **options: Any) -> list[str]:
    tables = latest_rows(store_of(tmp_path, name), **options)
    return [uri.removeprefix(f"{tmp_path}/") for table in tables for uri in table.column("uri").to_pylist()]


def test_packed_images_have_the_rows_of_loose_files(
    label: Callable[..., PredictReport], contents: dict[str, bytes], tmp_path: Path
) -> None:
    label(tmp_path / "images", "loose")
    loose = rows_of(tmp_path, "loose")
    assert len({row[1] for row in loose}) == 3
    sources = {
        "tar": write_tar(tmp_path / "a.tar", [(f"./{name}", data) for name, data in contents.items()]),
        "zip": write_zip(tmp_path / "a.zip", contents.items()),
        "parquet": write_parquet(tmp_path / "a.parquet", list(contents.values()), group_rows=9),
    }
    for kind, source in sources.items():
        report = label(source, kind)
        assert rows_of(tmp_path, kind) == loose, kind
        assert report.plan.planned == len(contents)
        # All is answered, and a plan can be compared with its rows.
        assert label(source, kind).plan.planned == 0
        assert verify_store(store_of(tmp_path, kind)).is_sound


def test_another_store_is_labelled_again_by_its_uris(
    label: Callable[..., PredictReport], contents: dict[str, bytes], tmp_path: Path
) -> None:
    label(write_tar(tmp_path / "a.tar", contents.items()), "first")
    label(None, "second", like=str(tmp_path / "first"))
    assert rows_of(tmp_path, "second") == rows_of(tmp_path, "first")
    values = {"input": "x", "model": "m", "output": str(tmp_path / "second"), "save_images": 2}
    save_samples(store_of(tmp_path, "second"), make_config(PredictConfig, values))
    assert len(list((tmp_path / "second" / "samples").iterdir())) == 2
    assert uris_of(tmp_path, "first") == [f"a.tar#{name}" for name in contents]


def test_a_tar_that_was_written_again_is_labelled_again_and_what_it_lacks_is_gone(
    label: Callable[..., PredictReport], contents: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    for shard in ("a", "b"):
        write_tar(tmp_path / "shards" / f"{shard}.tar", list(contents.items())[:5])
    label(tmp_path / "shards", "store")
    write_tar(tmp_path / "shards" / "a.tar", list(contents.items())[:2])
    report = label(tmp_path / "shards", "store")
    assert (report.plan.changed, report.plan.answered) == (2, 5)
    names = list(contents)
    kept = [f"shards/a.tar#{name}" for name in names[:2]] + [f"shards/b.tar#{name}" for name in names[:5]]
    assert uris_of(tmp_path, "store", only_present=True) == kept
    # A loose image beside them says nothing of what is in them.
    (tmp_path / "shards" / "c.jpg").write_bytes(contents[names[0]])
    label(tmp_path / "shards", "store")
    assert uris_of(tmp_path, "store", only_present=True) == [*kept, "shards/c.jpg"]


def test_one_member_is_labelled_without_a_store(
    small_model: ModelFolder,
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, (name, *_) = write_tar(tmp_path / "a.tar", contents.items()), contents

    def run(given: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["imgcls", "predict", given, "--model", str(small_model.path)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out + told.err

    code, told = run(f"{source}#{name}")
    assert (code, f"a.tar#{name}" in told) == (0, True), told
    code, told = run(f"{source}#none.jpg")
    assert (code, "not_found" in told) == (1, True), told
    code, told = run(str(source))
    assert (code, "more than one image needs --output STORE" in told) == (2, True), told


def test_packed_images_come_from_s3_in_a_tenth_of_the_requests(
    label: Callable[..., PredictReport],
    contents: dict[str, bytes],
    s3: S3Server,
    bucket: str,
    proxy: S3Proxy,
    tmp_path: Path,
) -> None:
    images = {f"{copy}-{name}": data for copy in range(4) for name, data in contents.items()}
    for name, data in images.items():
        s3.client().put_object(Bucket=bucket, Key=f"loose/{name}", Body=data)
    packed = {
        "a.tar": write_tar(tmp_path / "a.tar", sorted(images.items())),
        "a.zip": write_zip(tmp_path / "a.zip", sorted(images.items())),
        "a.parquet": write_parquet(tmp_path / "a.parquet", [data for _, data in sorted(images.items())]),
    }
    for key, path in packed.items():
        s3.client().put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def gets(source: str, store: str) -> int:
        before = proxy.counts().requests.get("get", 0)
        label(source, store)
        return proxy.counts().requests.get("get", 0) - before

    num_loose = gets(f"s3://{bucket}/loose/", "loose")
    assert num_loose >= len(images)
    for key in packed:
        assert 10 * gets(f"s3://{bucket}/{key}", f"of-{key}") <= num_loose, key
        assert rows_of(tmp_path, f"of-{key}") == rows_of(tmp_path, "loose"), key
