"""Inputs on the Hugging Face Hub: listed, read, versions, refusals."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import ImageError, ImageErrorCode, InputError, LabelStoreError, StorageError
from imgcls_ray.inputs.listing import list_found, list_inputs
from imgcls_ray.storage import FetchLimits, fetch, fetch_range, open_directory, open_file
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.object_client import forget_clients
from imgcls_ray.storage.options import StorageOptions
from imgcls_ray.storage.schemes import split_uri
from tests.hub.server import TOKEN

if TYPE_CHECKING:
    from imgcls_ray.storage.files import FileInfo
    from tests.hub.server import HubServer

LARGE = random.Random(0).randbytes(5000)
PLACE = "hf://datasets/org/photos"


def put(hub: HubServer, *names: str, repository: str = "dataset org/photos@main") -> None:
    hub.files.setdefault(repository, {}).update({name: f"content of {name}".encode() for name in names})


def listed(source: str, options: StorageOptions | None = None) -> list[FileInfo]:
    return list(list_found(source, ListingCounts(), options or StorageOptions()))


def code_of(uri: str, etag: str | None = None, limits: FetchLimits | None = None) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        fetch(uri, etag, limits or FetchLimits())
    return caught.value.code


@pytest.mark.parametrize(
    ("uri", "repository", "path"),
    [
        ("hf://datasets/o/n", "hf://datasets/o/n", ""),
        ("hf://o/n/a/b.jpg", "hf://o/n", "a/b.jpg"),
        ("HF://spaces/o/n@v1/a b.jpg", "hf://spaces/o/n@v1", "a b.jpg"),
        ("hf://datasets/o/n@refs/convert/parquet/x/0.parquet", "hf://datasets/o/n@refs/convert/parquet", "x/0.parquet"),
        ("hf://datasets/o/n@refs%2Fpr%2F3/x", "hf://datasets/o/n@refs%2Fpr%2F3", "x"),
        ("hf://datasets/o/n/a@b.jpg", "hf://datasets/o/n", "a@b.jpg"),
    ],
)
def test_an_address_names_a_repository_and_a_path(uri: str, repository: str, path: str) -> None:
    assert split_uri(uri) == (repository, path)


@pytest.mark.parametrize("uri", ["hf://", "hf://datasets/mnist", "hf://gpt2", "hf://o/n@", "hf://o//a.jpg"])
def test_an_address_without_a_repository_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="names no repository; write hf://datasets/OWNER/NAME/PATH"):
        split_uri(uri)


@pytest.mark.parametrize("uri", ["hf://datasets/mnist", "hf://buckets/o/n/a.jpg", "s3:///a.jpg"])
def test_such_an_address_in_a_list_costs_its_row(uri: str) -> None:
    assert code_of(uri) == ImageErrorCode.NOT_FOUND


def test_the_hubs_buckets_are_refused() -> None:
    with pytest.raises(InputError, match="buckets are not read"):
        split_uri("hf://buckets/o/n/a.jpg")


def test_inputs_are_listed_in_order_with_sizes_and_versions(hub: HubServer) -> None:
    """In several pages, that come in another order; with small files, and a large one that lies elsewhere."""
    names = ["a/1.jpg", "a/b/2.jpg", "a-b/3.jpg", "a.jpg", "é ü/4%20.jpg", "#?&/5.jpg", *map("{}.jpg".format, range(9))]
    put(hub, *names, ".gitattributes", "README.md")
    hub.files["dataset org/photos@main"]["large.jpg"] = LARGE
    found = listed(PLACE)
    assert [info.uri for info in found] == sorted(f"{PLACE}/{name}" for name in [*names, "large.jpg"])
    contents = [LARGE if "large" in info.uri else f"content of {info.uri[len(PLACE) + 1 :]}".encode() for info in found]
    assert [fetch(info.uri, info.etag, FetchLimits()) for info in found] == contents
    assert [info.size for info in found] == list(map(len, contents))
    assert all(info.etag for info in found)


def test_a_folder_a_pattern_and_a_revision_are_inputs(hub: HubServer) -> None:
    put(hub, "a/1.jpg", "a/2.png", "b/3.jpg")
    put(hub, "old.jpg", repository="dataset org/photos@refs/pr/1")
    assert [info.uri for info in listed(f"{PLACE}/a")] == [f"{PLACE}/a/1.jpg", f"{PLACE}/a/2.png"]
    assert [info.uri for info in listed(f"{PLACE}/*/*.jpg")] == [f"{PLACE}/a/1.jpg", f"{PLACE}/b/3.jpg"]
    assert [info.uri for info in listed(f"{PLACE}@refs/pr/1")] == [f"{PLACE}@refs/pr/1/old.jpg"]
    assert fetch(f"{PLACE}@refs/pr/1/old.jpg", None, FetchLimits()) == b"content of old.jpg"
    (info,) = listed(f"{PLACE}/b/3.jpg")
    assert info == next(iter(listed(f"{PLACE}/b/")))


def test_a_list_on_the_hub_names_files_beside_it(hub: HubServer) -> None:
    put(hub, "a/1.jpg")
    hub.files["dataset org/photos@main"]["list.csv"] = f"uri\na/1.jpg\n{PLACE}/a/2.jpg\n".encode()
    files = list_inputs(f"{PLACE}/list.csv", ListingCounts())
    assert [info.uri for info in files] == [f"{PLACE}/a/1.jpg", f"{PLACE}/a/2.jpg"]
    assert code_of(f"{PLACE}/a/2.jpg") == ImageErrorCode.NOT_FOUND


@pytest.mark.parametrize("content", [b"a small picture", LARGE])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_range_is_read_of_the_version_that_was_planned(hub: HubServer, content: bytes, knows_ranges: bool) -> None:
    hub.files["dataset org/photos@main"] = {"1.jpg": content}
    hub.knows_ranges = knows_ranges
    (info,) = listed(f"{PLACE}/1.jpg")
    limits = FetchLimits(max_bytes=10)
    assert fetch_range(info.uri, 3, 7, info.etag, limits) == content[3:10]
    assert fetch_range(info.uri, len(content) - 2, 7, info.etag, limits) == content[-2:]
    assert fetch_range(info.uri, len(content), 7, info.etag, limits) == b""
    hub.files["dataset org/photos@main"]["1.jpg"] = content + b"!"
    with pytest.raises(ImageError) as caught:
        fetch_range(info.uri, 3, 7, info.etag, limits)
    assert caught.value.code == ImageErrorCode.CHANGED
    assert code_of(info.uri, info.etag) == ImageErrorCode.CHANGED
    assert code_of(info.uri, None, limits) == ImageErrorCode.TOO_MANY_BYTES


def test_files_of_a_dataset_are_opened_seekable(hub: HubServer) -> None:
    hub.files["dataset org/photos@main"] = {"data/large.bin": LARGE, "data/b/1": b"1"}
    directory = open_directory(f"{PLACE}/data", only_read=True)
    assert sorted(directory.entries()) == ["b", "large.bin"]
    with directory.open("large.bin") as file:
        file.seek(-10, io.SEEK_END)
        assert file.read() == LARGE[-10:]
    with open_file(f"{PLACE}/data/large.bin", StorageOptions()) as file:
        assert file.read() == LARGE


@pytest.mark.parametrize("content", [b"a small picture", LARGE])
def test_a_fault_that_passes_costs_no_input(hub: HubServer, content: bytes) -> None:
    hub.files["dataset org/photos@main"] = {f"{i}.jpg": content for i in range(25)}
    hub.faults += [503, 200 + 229, 500, 502]
    found = listed(PLACE)
    assert len(found) == 25
    hub.faults += [503, 0, 0, 429]
    assert fetch(found[0].uri, found[0].etag, FetchLimits()) == content


def test_a_token_is_sent_to_the_hub_alone(hub: HubServer) -> None:
    """A private repository is read with it; the server of large files does not get it, nor what else is known here."""
    hub.private.add("org/photos")
    hub.files["dataset org/photos@main"] = {"large.jpg": LARGE}
    assert len(listed(PLACE)) == 1
    assert fetch(f"{PLACE}/large.jpg", None, FetchLimits()) == LARGE
    tokens = {target.split()[1].split("/")[1]: token for target, token, _ in hub.asked}
    assert tokens == {"api": f"Bearer {TOKEN}", "datasets": f"Bearer {TOKEN}", "elsewhere": None}


def test_what_is_private_or_not_there_is_refused_with_a_way_out(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private.add("org/photos")
    put(hub, "1.jpg")
    told = "there is no repository 'datasets/org/photos' .*; check its name, and HF_TOKEN if it is private"
    with pytest.raises(InputError, match=told):
        listed(PLACE, StorageOptions(anonymous=True))
    with pytest.raises(InputError, match="there is no repository 'datasets/org/other'"):
        listed("hf://datasets/org/other/x/")
    with pytest.raises(LabelStoreError, match=r"there is no repository 'org/model' .*; check its name, and HF_TOKEN"):
        open_directory("hf://org/model", only_read=True).read("model.json")
    with pytest.raises(InputError, match="no such branch, tag or commit"):
        listed(f"{PLACE}@v2/")
    with pytest.raises(InputError, match="there is no such object, and none under"):
        listed(f"{PLACE}/2.jpg")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    forget_clients()
    with pytest.raises(StorageError, match=r"401 .*; check the token \(HF_TOKEN, or that of `hf auth login`\)"):
        listed(PLACE)


def test_a_gated_repository_is_refused_with_a_way_out(hub: HubServer) -> None:
    hub.gated.add("org/photos")
    put(hub, "1.jpg")
    with pytest.raises(StorageError, match="its owner gives access to those who ask for it on its page"):
        listed(PLACE)
    assert code_of(f"{PLACE}/1.jpg") == ImageErrorCode.ACCESS_DENIED


def test_a_hub_that_is_not_there_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)
    forget_clients()
    with pytest.raises(StorageError, match=r"Hugging Face Hub: no connection.*check the endpoint and the network"):
        fetch(f"{PLACE}/1.jpg", None, FetchLimits())
    forget_clients()


def test_offline_it_is_said_who_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="Hugging Face Hub: HF_HUB_OFFLINE is set"):
        listed(PLACE)
    assert hub.asked == []


def test_requests_are_not_logged(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    """Their addresses may be signed."""
    hub.files["dataset org/photos@main"] = {"large.jpg": LARGE}
    with caplog.at_level(logging.INFO):
        assert fetch(f"{PLACE}/large.jpg", None, FetchLimits()) == LARGE
    assert any("signature" in target for target, *_ in hub.asked)
    assert caplog.text == ""


def test_nothing_is_written_to_the_hub() -> None:
    with pytest.raises(InputError, match=r"nothing is written there; give a local directory or s3://BUCKET/PREFIX"):
        open_directory(f"{PLACE}/labels")


def test_a_folder_of_parquet_has_images_and_labels(hub: HubServer) -> None:
    """As the Hub's datasets have it: packed inputs, and a labelled dataset."""
    data = io.BytesIO()
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": b"no picture", "path": "1.jpg"}] * 3, "label": [0, 1, 0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), data)
    name = "data/train-00000-of-00001.parquet"
    hub.files["dataset org/photos@main"] = {name: data.getvalue(), "README.md": b"x", ".gitattributes": b"x"}
    files = list(list_inputs(f"{PLACE}/data", ListingCounts()))
    assert [info.uri for info in files] == [f"{PLACE}/{name}#row={row}" for row in range(3)]
    assert {info.etag for info in files} == {hashlib.sha256(data.getvalue()).hexdigest()}
    dataset = read_dataset(f"{PLACE}/data", storage=StorageOptions())
    assert list(dataset.class_names) == ["cat", "dog"]
