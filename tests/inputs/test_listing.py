"""Every kind of INPUT becomes one sorted stream of files, and what cannot is refused in words."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.inputs import sorting
from imgcls_ray.inputs.checks import check_input, is_single_file
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.storage import FetchLimits, fetch
from imgcls_ray.storage.files import FileInfo, stat_file
from tests.storage.test_walking import folders_read

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def uris(source: str | Path, **options: Any) -> list[str]:
    return [info.uri for info in list_inputs(str(source), ListingCounts(), **options)]


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Three images in a folder; their paths, sorted."""
    return [str(write(tmp_path / "in" / name, name.encode())) for name in ("a.jpg", "b/c.png", "d")]


# --- folders, files, globs, addresses --------------------------------------------------------------------------------


def test_a_folder_gives_its_files_with_their_versions(tmp_path: Path, images: list[str]) -> None:
    assert list(list_inputs(f"{tmp_path}/in", ListingCounts())) == [stat_file(path) for path in images]
    assert uris(f"file://{tmp_path}/in/") == images


def test_a_relative_folder_gives_whole_paths(
    tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert uris("in") == uris("./in/../in") == uris("in/**/*") == images
    monkeypatch.chdir(tmp_path / "in")
    assert uris("a.jpg") == uris("*.jpg") == images[:1]


def test_texts_and_tables_of_a_folder_are_counted_and_left_out(tmp_path: Path, images: list[str]) -> None:
    for name in ("labels.txt", "b/meta.JSON", "list.parquet", "README.md"):
        write(tmp_path / "in" / name)
    counts = ListingCounts()
    assert [info.uri for info in list_inputs(f"{tmp_path}/in", counts)] == images
    assert counts.by_name.total() == 4


def test_a_folder_without_images_is_empty(tmp_path: Path) -> None:
    assert uris(tmp_path) == []


def test_a_folder_that_is_named_like_a_list_is_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt" / "a.jpg")
    assert uris(tmp_path / "in.txt") == [str(path)]


@pytest.mark.parametrize("pattern", ["{0}/in", "{0}/**/*.jpg", "{0}/in/*/*/*.jpg"])
def test_the_store_inside_the_input_is_left_out(pattern: str, tmp_path: Path) -> None:
    image = write(tmp_path / "in" / "x" / "y" / "a.jpg")
    sample = write(tmp_path / "in" / "labels" / "samples" / "b.jpg")
    neighbour = write(tmp_path / "in" / "labels2" / "z" / "c.jpg")
    source = pattern.format(tmp_path)
    assert uris(source) == sorted(map(str, (image, sample, neighbour)))
    assert uris(source, leave_out=str(tmp_path / "in" / "labels")) == sorted(map(str, (image, neighbour)))


def test_a_glob_gives_matching_files_sorted(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "a.png", ".hidden.jpg", "sub/c.jpg", "folder.jpg/x"):
        write(tmp_path / name)
    assert uris(f"{tmp_path}/*.jpg") == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert uris(f"{tmp_path}/**/*.jpg") == [f"{tmp_path}/{name}" for name in ("a.jpg", "b.jpg", "sub/c.jpg")]
    assert uris(f"{tmp_path}/*.gif") == []


def test_a_name_that_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].jpg")
    write(tmp_path / "a1.jpg")
    assert uris(path) == [str(path)]


def test_a_single_file_and_an_address_are_one_input(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg")
    assert list(list_inputs(str(path), ListingCounts())) == [stat_file(str(path))]
    address = "https://example.com/a.jpg"
    assert list(list_inputs(address, ListingCounts())) == [FileInfo(address, None, None, None)]


def test_what_is_one_image_is_told_from_places_of_many(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "list.txt")
    single = {
        source: is_single_file(source) for source in (f"{tmp_path}/a.jpg", "https://example.com/a", f"{tmp_path}")
    }
    assert list(single.values()) == [True, True, False]
    assert not is_single_file(f"{tmp_path}/list.txt")
    assert not is_single_file("https://example.com/list.csv")


def test_a_dangling_link_is_one_input_without_a_version(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone")
    assert list(list_inputs(f"{tmp_path}/a.jpg", ListingCounts())) == [FileInfo(f"{tmp_path}/a.jpg", None, None, None)]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{0}/missing", "{0}/missing: there is no such file or folder"),
        ("", ": there is no such file or folder"),
        ("{0}/missing.txt", "{0}/missing.txt: there is no such file or folder"),
        ("{0}/missing/*.jpg", "{0}/missing/*.jpg: there is no folder {0}/missing"),
        (
            "hdfs://bucket/in",
            "hdfs://bucket/in: hdfs:// is not a kind of storage that can be read; give a path, an s3://, gs://, az:// ",
        ),
        ("https://host/list.csv", "https://host/list.csv: lists are read from files and objects; download it first"),
    ],
)
def test_an_input_that_cannot_be_listed_is_refused_before_anything_starts(
    source: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        check_input(source.format(tmp_path))
    assert str(caught.value).startswith(text.format(tmp_path))
    with pytest.raises(InputError):
        list_inputs(source.format(tmp_path), ListingCounts())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "file://nas/photos",
            "file://nas/photos: names a file of the host 'nas'; write file:///PATH for a file of this",
        ),
        ("{0}/*/../x.jpg", "{0}/*/../x.jpg: .. cannot stand behind a wildcard; write the folder that it leads to"),
        ("{0}/null\0", "{0}/null\0: there is no such file or folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(source: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_input(source.format(tmp_path))
    assert str(caught.value).startswith(text.format(tmp_path))


def test_a_uri_with_localhost_is_a_path(tmp_path: Path, images: list[str]) -> None:
    assert uris(f"file://localhost{tmp_path}/in") == images
    listed = write(tmp_path / "list.txt", f"file://localhost{images[0]}\nfile://nas/a.jpg\n".encode())
    assert uris(listed) == [images[0], "file://nas/a.jpg"]
    with pytest.raises(ImageError) as caught:
        fetch("file://nas/a.jpg", None, FetchLimits())
    assert caught.value.code is ImageErrorCode.UNSUPPORTED_STORAGE


def test_what_exists_is_taken_as_it_is_written(tmp_path: Path) -> None:
    for name in (
        "photos [2020]/a.jpg",
        "photos [2020]/b/c.jpg",
        "photos 2/other.jpg",
        "what?/d.jpg",
        "whats/other.jpg",
    ):
        write(tmp_path / name)
    both = [f"{tmp_path}/photos [2020]/{name}" for name in ("a.jpg", "b/c.jpg")]
    assert uris(f"{tmp_path}/photos [2020]") == uris(f"{tmp_path}/photos [2020]/") == both
    assert uris(f"file://{tmp_path}/photos%20%5B2020%5D/") == both
    assert uris(f"{tmp_path}/photos [2020]/*.jpg") == both[:1]
    assert uris(f"{tmp_path}/what?/*") == [f"{tmp_path}/what?/d.jpg"]
    assert uris(f"{tmp_path}/photos [3-9]/*") == []


def test_a_pattern_that_ends_with_a_slash_is_everything_below(tmp_path: Path) -> None:
    for name in ("2026-01/a.jpg", "2026-02/b/c.jpg", "2025/d.jpg", "2026.jpg"):
        write(tmp_path / name)
    assert uris(f"{tmp_path}/2026*/") == [f"{tmp_path}/2026-01/a.jpg", f"{tmp_path}/2026-02/b/c.jpg"]


def test_two_dots_behind_a_link_mean_what_the_system_opens(tmp_path: Path) -> None:
    """``link/..`` is the folder above what the link leads to, in every kind of INPUT."""
    here, there = write(tmp_path / "here" / "x.jpg", b"here"), write(tmp_path / "far" / "x.jpg", b"far")
    (tmp_path / "far" / "folder").mkdir()
    (tmp_path / "here" / "link").symlink_to("../far/folder")
    list_path = write(here.parent / "list.txt", b"link/../x.jpg\n")
    csv_path = write(here.parent / "list.csv", b"uri\nlink/../x.jpg\n")
    for source in (f"{here.parent}/link/../x.jpg", f"{here.parent}/link/..", list_path, csv_path):
        assert uris(source) == [str(there)], source
    assert uris(f"{here.parent}/link/../*.jpg") == [str(there)]
    gone = write(here.parent / "gone.txt", b"gone/../x.jpg\n")
    [info] = list_inputs(str(gone), ListingCounts())
    with pytest.raises(ImageError, match="no such file"):
        fetch(info.uri, info.etag, FetchLimits())


def test_folders_and_patterns_are_listed_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        write(tmp_path / f"{i:02d}" / "x.jpg")
    read = folders_read(monkeypatch)
    for source in (f"{tmp_path}", f"{tmp_path}/**/*.jpg"):
        read.clear()
        assert next(iter(list_inputs(source, ListingCounts()))).uri == f"{tmp_path}/00/x.jpg"
        # The folder itself twice: also to see whether it is a list of Parquet files.
        assert len(read) <= 4


# --- one rule for folders, buckets, and patterns of both --------------------------------------------------------------

TREE = (
    "a.jpg",
    "b",
    "b.weird",
    ".dot.jpg",
    ".dots/c.jpg",
    "in/.dot.jpg",
    "in/.dots/d/e.jpg",
    "in/f.dat",
    "in/notes.TXT",
    "in/table.parquet",
    "in/w.safetensors",
    "in/w.onnx",
    "in/w.pt2",
    "labels/store.json",
    "labels/samples/s.jpg",
    "labels/plans/0001/000000.parquet",
    "mine/store.json",
    "mine/samples/s.jpg",
    "mine/exports/t.jpg",
    "mine/incoming/u.jpg",
    "model/model.json",
    "model/model.xml",
    "model/model.bin",
    "samples/kept.jpg",
)
LEFT_OUT_BY_NAME = Counter(
    {"*.json": 2, "*.onnx": 1, "*.parquet": 2, "*.pt2": 1, "*.safetensors": 1, "*.txt": 1, "*.xml": 1, "model.bin": 1}
)
KEPT = ["a.jpg", "b", "b.weird", "in/f.dat", "mine/incoming/u.jpg", "samples/kept.jpg"]


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """``TREE``, in a folder or in a bucket."""
    if request.param == "folder":
        for name in TREE:
            write(tmp_path / name)
        return str(tmp_path)
    server, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    for name in TREE:
        server.client().put_object(Bucket=bucket, Key=name, Body=b"x")
    return f"s3://{bucket}"


def listed(place: str, pattern: str, **options: Any) -> tuple[list[str], ListingCounts]:
    counts = ListingCounts()
    files = list(list_inputs(f"{place}/{pattern}", counts, **options))
    return [info.uri.removeprefix(f"{place}/") for info in files], counts


@pytest.mark.parametrize("pattern", ["", "**", "**/*"])
def test_the_same_is_left_out_everywhere(place: str, pattern: str) -> None:
    found, counts = listed(place, pattern, leave_out=f"{place}/mine")
    assert found == KEPT
    assert counts == ListingCounts(LEFT_OUT_BY_NAME, hidden=4, stores=1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.jpg", "b", "b.weird"]),
        (".*", [".dot.jpg"]),
        (".*/*", [".dots/c.jpg"]),
        ("**/.dots/**", [".dots/c.jpg", "in/.dots/d/e.jpg"]),
        ("**/*.jpg", ["a.jpg", "mine/incoming/u.jpg", "samples/kept.jpg"]),
        ("in/*", ["in/f.dat"]),
        ("in/*.txt", []),
        ("in/*.TXT", ["in/notes.TXT"]),
        ("*/*.safetensors", ["in/w.safetensors"]),
        ("*/w.*", []),
        ("samples/*", ["samples/kept.jpg"]),
        ("m*/", ["mine/incoming/u.jpg"]),
    ],
)
def test_a_pattern_means_the_same_everywhere(place: str, pattern: str, expected: list[str]) -> None:
    found, _ = listed(place, pattern, leave_out=f"{place}/mine")
    assert found == expected


def test_an_input_below_the_store_is_an_input(place: str) -> None:
    assert listed(place, "mine/incoming/", leave_out=f"{place}/mine")[0] == ["mine/incoming/u.jpg"]
    assert listed(place, "mine/", leave_out=f"{place}/mine")[0] == ["mine/incoming/u.jpg"]
    assert listed(place, "mine/samples/", leave_out=f"{place}/mine")[0] == []
    # The store at the top: its own folders are left out, others are inputs.
    found, _ = listed(place, "", leave_out=place)
    assert found == ["a.jpg", "b", "b.weird", "in/f.dat", "mine/exports/t.jpg", "mine/incoming/u.jpg"]


def test_who_names_a_file_gets_it(place: str) -> None:
    for name in (".dot.jpg", "in/w.onnx", "labels/samples/s.jpg"):
        assert listed(place, name)[0] == [name]


def test_a_list_names_everything(place: str, tmp_path: Path) -> None:
    names = sorted((".dot.jpg", "in/w.onnx", "labels/samples/s.jpg"))
    path = write(tmp_path / "list.csv", "\n".join(["uri", *(f"{place}/{name}" for name in names)]).encode())
    counts = ListingCounts()
    assert [info.uri for info in list_inputs(str(path), counts)] == [f"{place}/{name}" for name in names]
    assert counts == ListingCounts()


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "b/c.png\na.jpg\nd\n",
        "b/c.png\na.jpg\nd",
        "b/c.png\r\na.jpg\r\nd\r\n",
        "\ufeffb/c.png\na.jpg\nd\n",
        "\n\nb/c.png\n\na.jpg\r\n\r\nd\n\n",
        "./b/../b/c.png\n{0}/in/a.jpg\nfile://{0}/in/d\n",
    ],
    ids=["plain", "no-final-newline", "crlf", "bom", "blank-lines", "absolute"],
)
def test_a_text_list_counts_from_its_own_folder(content: str, tmp_path: Path, images: list[str]) -> None:
    path = write(tmp_path / "in" / "list.txt", content.format(tmp_path).encode())
    assert list(list_inputs(str(path), ListingCounts())) == [stat_file(image) for image in images]


def test_a_text_list_may_name_files_that_are_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / os.fsdecode(b"\xff.jpg"), b"content")
    [info] = list_inputs(str(write(tmp_path / "list.txt", b"\xff.jpg\n")), ListingCounts())
    assert info.uri == f"file://{tmp_path}/%FF.jpg"
    assert fetch(info.uri, info.etag, FetchLimits()) == b"content"


def test_an_address_that_is_not_utf8_becomes_one(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "http://host/é".encode() + b"\xff%41\n")
    assert uris(path) == ["http://host/é%FF%41"]


def test_a_null_character_costs_one_row(tmp_path: Path, images: list[str]) -> None:
    path = write(tmp_path / "in" / "list.txt", b"a.jpg\nnull\0.jpg\n")
    good, bad = list_inputs(str(path), ListingCounts())
    assert (good.uri, bad.etag) == (images[0], None)
    with pytest.raises(ImageError) as caught:
        fetch(bad.uri, bad.etag, FetchLimits())
    assert caught.value.code is ImageErrorCode.NOT_FOUND


@pytest.mark.parametrize(
    "content",
    [
        "uri\nb/c.png\na.jpg\nd\n",
        "\ufefflabel,uri\r\n1,b/c.png\r\n2,a.jpg\r\n3,d",
        'uri,note\n"b/c.png","x\ny"\na.jpg\n\nd,\n,\n',
    ],
)
def test_a_csv_list_counts_from_its_own_folder(content: str, tmp_path: Path, images: list[str]) -> None:
    path = write(tmp_path / "in" / "list.CSV", content.encode())
    assert uris(path) == images


def test_a_parquet_list_holds_any_name(tmp_path: Path) -> None:
    names = ["line\nbreak.jpg", 'comma,quote".jpg', " "]
    for name in names:
        write(tmp_path / name)
    pq.write_table(pa.table({"uri": [*names, None, ""], "other": range(5)}), tmp_path / "list.parquet")
    assert uris(tmp_path / "list.parquet") == sorted(f"{tmp_path}/{name}" for name in names)


def test_a_list_tells_versions_of_addresses_only(tmp_path: Path, images: list[str]) -> None:
    """A file's own version counts, whatever the list says."""
    mtime = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    columns = {"uri": [images[0], "http://h/b"], "size": [7, 8], "etag": ["x", "y"], "mtime": [mtime, mtime]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = list(list_inputs(f"{tmp_path}/list.parquet", ListingCounts()))
    assert found == [stat_file(images[0]), FileInfo("http://h/b", 8, "y", mtime)]


def test_a_folder_that_is_given_twice_is_one_input(
    tmp_path: Path, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "in" / "Thumbs.db")
    counts = ListingCounts()
    sources = [f"{tmp_path}/in", f"{tmp_path}/in/", f"{tmp_path}/in/b/.."]
    assert [info.uri for info in list_inputs(sources, counts)] == images
    assert counts == ListingCounts(by_name=Counter({"Thumbs.db": 1}))
    assert caplog.messages == [f"{again}: is the same folder as {sources[0]}; it is read once" for again in sources[1:]]


def test_doubles_are_listed_once_and_counted(tmp_path: Path, images: list[str]) -> None:
    path = write(tmp_path / "in" / "list.txt", f"d\na.jpg\n./d\n{images[2]}\n".encode())
    counts = ListingCounts()
    assert [info.uri for info in list_inputs(str(path), counts)] == [images[0], images[2]]
    assert counts.doubles == 2


def test_missing_entries_are_listed_without_a_version(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", b"gone.jpg\nfolder/gone.jpg\ns3://bucket/a.jpg\n")
    assert list(list_inputs(str(path), ListingCounts())) == [
        FileInfo(uri, None, None, None)
        for uri in (f"{tmp_path}/folder/gone.jpg", f"{tmp_path}/gone.jpg", "s3://bucket/a.jpg")
    ]


def test_an_empty_list_is_empty(tmp_path: Path) -> None:
    assert uris(write(tmp_path / "a.txt", b"")) == []
    assert uris(write(tmp_path / "b.csv", b"uri\n")) == []


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"path,label\na.jpg,1\n", ":1: has no column 'uri', it has path, label; if the images are in"),
        ("a.csv", b"", ": is empty; the first line of a table names its columns, one of them 'uri'"),
        ("a.csv", b"uri\nb.jpg\na\xfe\n", ":3: is not UTF-8 (byte 0xFE at column 2); save it as UTF-8, e.g. "),
        ("a.csv", b"uri,size\nhttp://h/a,12 KB\n", ":2: the column 'size' is '12 KB', needs a whole number of bytes"),
        ("a.csv", b'uri\n"' + b"x" * 200_000, ":2: is not a row of a table: field larger than field limit"),
        ("a.parquet", b"PAR1 and then nonsense", ": is not a readable .parquet list: Parquet magic bytes not found"),
        ("a.parquet", b"", ": is not a readable .parquet list: Parquet file size is 0 bytes"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_with_the_reason(
    name: str, content: bytes, text: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        uris(path)
    assert str(caught.value).startswith(f"{path}{text}")
    assert "\n" not in str(caught.value)


def test_a_parquet_list_needs_a_uri_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'uri', it has url, label; .* --uri-column url$"):
        uris(tmp_path / "a.parquet")


def test_a_cut_parquet_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uri": [f"{i}.jpg" for i in range(1000)]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: is not a readable \.parquet list"):
        uris(path)


def test_a_list_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("gone.txt")
    with pytest.raises(InputError, match=r"a\.txt: cannot be read: No such file or directory"):
        uris(tmp_path / "a.txt")


# --- long lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [0, 1, 9, 10, 11, 100, 1234])
def test_a_list_that_is_sorted_on_disk_is_sorted_the_same(
    num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mtime = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    lines = [f"http://h/{i * 7919 % 1009:04d}é\U0001f408" for i in range(num_rows)]
    columns: dict[str, Any] = {
        "uri": pa.array(lines, pa.string()),
        "size": pa.array([i or None for i in range(num_rows)], pa.int64()),
        "etag": pa.array([None if i % 3 else "v" for i in range(num_rows)], pa.string()),
        "mtime": pa.array([mtime] * num_rows, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    plain, on_disk = ListingCounts(), ListingCounts()
    want = list(list_inputs(f"{tmp_path}/a.parquet", plain))
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 10)
    assert list(list_inputs(f"{tmp_path}/a.parquet", on_disk)) == want
    assert [info.uri for info in want] == sorted(set(lines))
    assert on_disk == plain == ListingCounts(doubles=max(0, num_rows - 1009))


def test_sorting_on_disk_leaves_nothing_behind_not_even_when_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 10)
    path = write(tmp_path / "a.txt", b"".join(b"http://h/%d\n" % i for i in range(100)))
    files = iter(list_inputs(str(path), ListingCounts()))
    next(files)
    # In the middle of the merge already: the file on disk has no name.
    assert os.listdir(tmp_path / "tmp") == []
