"""Files that were deleted are told from files whose storage is away: the place that listed them is looked at again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from imgcls_ray.errors import ImageErrorCode, StorageError
from imgcls_ray.inputs import absence
from imgcls_ray.inputs.absence import MANY, ListedIn, check_absences
from imgcls_ray.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.s3.server import S3Server

MISSING = ImageErrorCode.NOT_FOUND


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test looks for itself."""
    monkeypatch.setattr(absence, "_looks", {})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "left.jpg").write_bytes(b"x")
    return folder


def check(
    source: str | None,
    errors: Sequence[ImageErrorCode | None],
    *,
    uris: Sequence[str] = (),
    etag: str | None = "v",
    store: str = "/nowhere",
) -> None:
    uris = uris or [f"{source}/{i}.jpg" for i in range(len(errors))]
    rows = pa.table({"uri": uris, "etag": pa.array([etag] * len(errors), pa.string())})
    listed = None if source is None else ListedIn((source,), is_only=True)
    check_absences(rows, errors, listed=listed, store=store, storage=DEFAULT_STORAGE)


def test_a_folder_that_is_empty_ends_the_job(photos: Path) -> None:
    (photos / "left.jpg").unlink()
    with pytest.raises(StorageError) as caught:
        check(str(photos), [MISSING] * MANY)
    assert str(caught.value).startswith(
        f"{photos}: it holds no images, and {MANY} images in a row that were listed there cannot be read. Nothing "
        "was recorded for them. Bring it back"
    )
    assert "--accept-missing" in str(caught.value)


def test_a_folder_that_is_gone_ends_the_job(photos: Path) -> None:
    shutil.rmtree(photos)
    with pytest.raises(StorageError, match="there is no such file or folder"):
        check(str(photos), [MISSING] * MANY)


def test_a_folder_that_still_lists_has_lost_files(photos: Path) -> None:
    check(str(photos), [MISSING] * 1000)


def test_the_store_in_it_is_no_sign_of_life(photos: Path) -> None:
    store = photos / "labels"
    (store / "predictions").mkdir(parents=True)
    (store / "store.json").write_text("{}")
    (store / "samples").mkdir()
    (store / "samples" / "1.jpg").write_bytes(b"x")
    (photos / "left.jpg").unlink()
    with pytest.raises(StorageError):
        check(str(photos), [MISSING] * MANY, store=str(store))


@pytest.mark.parametrize(
    "errors",
    [
        [MISSING] * (MANY - 1),
        ([MISSING] * (MANY - 1) + [None]) * 20,
        [ImageErrorCode.CORRUPT] * 100,
        [None] * 100,
        [],
    ],
    ids=["few", "never many in a row", "other errors", "none", "nothing"],
)
def test_a_few_missing_files_are_no_reason_to_look(errors: list[ImageErrorCode | None], tmp_path: Path) -> None:
    check(str(tmp_path / "gone"), errors)


def test_inputs_that_were_missing_when_they_were_listed_do_not_count(tmp_path: Path) -> None:
    check(str(tmp_path / "gone"), [MISSING] * 100, etag=None)


def test_without_a_place_nothing_is_looked_at() -> None:
    check(None, [MISSING] * 100)


def test_of_a_list_the_folder_of_its_missing_files_is_looked_at(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("")
    uris = [str(photos / "deep" / f"{i}.jpg") for i in range(MANY)]
    with pytest.raises(StorageError, match=f"^{photos}/deep: "):
        check(str(tmp_path / "list.txt"), [MISSING] * MANY, uris=uris)
    (photos / "deep").mkdir()
    (photos / "deep" / "new.jpg").write_bytes(b"x")
    check(str(tmp_path / "list.txt"), [MISSING] * MANY, uris=uris)


def test_a_place_that_lists_is_not_listed_for_every_unit(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(str(photos), [MISSING] * MANY)
    shutil.rmtree(photos)
    check(str(photos), [MISSING] * MANY)
    monkeypatch.setattr(absence, "_TRUSTED_S", 0.0)
    with pytest.raises(StorageError):
        check(str(photos), [MISSING] * MANY)


def test_a_prefix_that_is_empty_ends_the_job(s3: S3Server, bucket: str) -> None:
    with pytest.raises(StorageError, match=f"^s3://{bucket}/photos/: it holds no images"):
        check(f"s3://{bucket}/photos/", [MISSING] * MANY)
    s3.client().put_object(Bucket=bucket, Key="photos/left.jpg", Body=b"x")
    check(f"s3://{bucket}/photos/", [MISSING] * MANY)


def test_of_a_list_of_objects_their_bucket_is_looked_at(s3: S3Server, bucket: str) -> None:
    """Not their prefix: it may have been emptied on purpose, and no volume can be away in a bucket."""
    uris = [f"s3://{bucket}/a/b/{i}.jpg" for i in range(MANY)]
    with pytest.raises(StorageError, match=f"^s3://{bucket}/: it holds no images"):
        check("/lists/list.parquet", [MISSING] * MANY, uris=uris)
    s3.client().put_object(Bucket=bucket, Key="z/left.jpg", Body=b"x")
    check("/lists/list.parquet", [MISSING] * MANY, uris=uris)


@pytest.mark.parametrize("error", [ImageErrorCode.FETCH_FAILED, ImageErrorCode.ACCESS_DENIED])
def test_a_volume_may_be_away_by_other_errors_too(error: ImageErrorCode, photos: Path) -> None:
    """A dead mount answers EIO, ESTALE or ENOTCONN, one whose ticket expired EACCES."""
    check(str(photos), [error] * MANY)
    (photos / "left.jpg").unlink()
    absence._looks.clear()
    with pytest.raises(StorageError):
        check(str(photos), [error, MISSING] * (MANY // 2))


def test_objects_that_are_refused_say_nothing_of_their_prefix() -> None:
    check("s3://bucket/a/", [ImageErrorCode.ACCESS_DENIED] * 100)


def test_every_volume_of_a_list_is_looked_at(tmp_path: Path) -> None:
    for name in ("here", "away"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "left.jpg").write_bytes(b"x")
    uris = [str(tmp_path / "here" / f"{i}.jpg") for i in range(30)]
    uris += [str(tmp_path / "here" / "left.jpg")] + [str(tmp_path / "away" / f"{i}.jpg") for i in range(MANY)]
    with pytest.raises(StorageError, match=f"^{tmp_path}/away: it holds no images"):
        check(str(tmp_path / "list.txt"), [MISSING] * 30 + [None] + [MISSING] * MANY, uris=uris)


def test_names_that_are_not_utf8_have_a_folder_too(tmp_path: Path) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    uris = [str(folder / f"{i}.jpg") if i % 2 else f"file://{folder}/%FF{i}.jpg" for i in range(MANY)]
    with pytest.raises(StorageError, match=f"^{folder}: it holds no images"):
        check(str(tmp_path / "list.txt"), [MISSING] * MANY, uris=uris)
    (folder / "left.jpg").write_bytes(b"x")
    check(str(tmp_path / "list.txt"), [MISSING] * MANY, uris=uris)


def test_a_pattern_below_a_folder_whose_name_looks_like_one(tmp_path: Path) -> None:
    folder = tmp_path / "[2024]"
    folder.mkdir()
    (folder / "left.jpg").write_bytes(b"x")
    check(f"{folder}/*.jpg", [MISSING] * MANY, uris=[f"{folder}/{i}.jpg" for i in range(MANY)])
