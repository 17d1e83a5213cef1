"""Each image in a tar, zip or Parquet file is an input: listed in order, read again by its URI, failing alone."""

from __future__ import annotations

import itertools
import os
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode, InputError, UsageError
from imgcls_ray.inputs.checks import check_inputs, is_any_list, is_single_file
from imgcls_ray.inputs.listing import list_inputs
from imgcls_ray.inputs.tables import table_of
from imgcls_ray.packed import parquets, reading, tars
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.packed.parquets import GroupScan
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.members import Member, member_name, member_uri, split_member
from imgcls_ray.storage.names import NameRules
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, fetch_inputs
from tests.packed.making import write_parquet, write_tar, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.images.crops import Crop

LIMITS = FetchLimits(max_bytes=100_000)
MANY = [(f"{number:04d}.jpg", b"%d" % number * 100) for number in range(300)]


def listed(source: object, **options: Any) -> list[FileInfo]:
    found = list(list_inputs(str(source), options.pop("counts", ListingCounts()), **options))
    uris = [info.uri for info in found]
    assert uris == sorted(set(uris))
    return found


def read(found: list[FileInfo], limits: FetchLimits = LIMITS) -> list[bytes | Crop | ImageErrorCode]:
    """The contents as a worker reads them; and one by one by their URIs alone, which must be the same."""
    with ThreadPoolExecutor(NUM_FETCH_THREADS) as executor:
        together = list(fetch_inputs(table_of(found), limits, executor))
    contents = [result.code if isinstance(result, ImageError) else result for result in together]
    for info, content in zip(found, contents, strict=True):
        if info.source is not None:
            assert by_uri(info.uri, limits) == content
    return contents


def by_uri(uri: str, limits: FetchLimits = LIMITS) -> bytes | Crop | ImageErrorCode:
    try:
        return fetch_input(uri, None, limits)
    except ImageError as error:
        return error.code


def names_of(found: list[FileInfo], source: Path) -> list[str]:
    return [info.uri.removeprefix(str(source)) for info in found]


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_members_are_inputs_in_the_order_of_their_names(write: Callable[..., Path], tmp_path: Path) -> None:
    source = write(tmp_path / ("a.tar" if write is write_tar else "a.zip"), reversed(MANY[:30]))
    found = listed(source)
    assert names_of(found, source) == [f"#{name}" for name, _ in MANY[:30]]
    assert {info.etag for info in found} == {listed(source)[0].etag}
    assert read(found) == [content for _, content in MANY[:30]]


@pytest.mark.parametrize("group_rows", [1, 7, 1000])
def test_rows_of_parquet_are_inputs_in_their_order(group_rows: int, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", [c for _, c in MANY[:120]], group_rows=group_rows)
    found = listed(source)
    assert names_of(found, source) == [f"#row={row:03d}" for row in range(120)]
    assert read(found[::1]) == [content for _, content in MANY[:120]]
    assert by_uri(f"{source}#row=7") == MANY[7][1]
    assert by_uri(f"{source}#row=120") == ImageErrorCode.NOT_FOUND


def test_plain_binary_columns_are_images_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "jpg": [b"x", b"y"], "thumb": [b"1", b"2"]}), tmp_path / "a.parquet")
    assert read(listed(tmp_path / "a.parquet")) == [b"x", b"y"]


def test_parquet_with_a_column_of_uris_stays_a_list(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    pq.write_table(pa.table({"uri": ["x.jpg"], "image": [b"packed"]}), tmp_path / "a.parquet")
    assert read(listed(tmp_path / "a.parquet")) == [b"x"]
    assert is_any_list(f"{tmp_path}/a.parquet")


def test_parquet_without_images_is_refused_as_the_list_that_it_is_not(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has no column 'uri'"):
        check_inputs([f"{tmp_path}/a.parquet"])


def test_a_folder_of_parquet_with_images_is_opened(tmp_path: Path) -> None:
    for part in range(2):
        write_parquet(tmp_path / f"train-{part}.parquet", [b"%d" % part] * 2)
    check_inputs([str(tmp_path)])
    assert names_of(listed(tmp_path), tmp_path) == [
        f"/train-{part}.parquet#row={row}" for part, row in itertools.product(range(2), range(2))
    ]


def test_side_files_and_litter_are_left_out(tmp_path: Path) -> None:
    members = [("1.jpg", b"1"), ("1.json", b"{}"), ("1.cls", b"3"), ("__MACOSX/._1.jpg", b""), (".hid/2.jpg", b"2")]
    source = write_tar(tmp_path / "a.tar", [*members, ("./x/../3.jpg", b"3")])
    counts = ListingCounts()
    assert names_of(listed(source, counts=counts), source) == ["#./x/../3.jpg", "#1.jpg"]
    assert counts.by_name == {"*.json": 1, "*.cls": 1, "__MACOSX/": 1, ".*": 1}


def test_patterns_choose_members(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", [("cat/1.jpg", b"1"), ("dog/2.jpg", b"2"), ("dog/3_mask.jpg", b"3")])
    names = NameRules(include=("dog/",), exclude=("*_mask.jpg",))
    assert names_of(listed(source, names=NameRules(include=("*.jpg",), exclude=("*_mask.jpg",))), source) == [
        "#cat/1.jpg",
        "#dog/2.jpg",
    ]
    assert names_of(listed(source, names=names), source) == ["#dog/2.jpg"]


@pytest.mark.parametrize("by", ["*.tar", ""])
def test_tars_found_by_a_pattern_or_alone_in_a_folder_are_opened(by: str, tmp_path: Path) -> None:
    for shard in range(12):
        write_tar(tmp_path / f"{shard:02d}.tar", [(f"{shard}.jpg", b"%d" % shard), (f"{shard}.json", b"{}")])
    counts = ListingCounts()
    found = listed(f"{tmp_path}/{by}".rstrip("/"), counts=counts)
    assert read(found) == [b"%d" % shard for shard in range(12)]
    assert "*.tar" not in counts.by_name


def test_a_tar_beside_images_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    write_tar(tmp_path / "b.tar", MANY[:1])
    counts = ListingCounts()
    assert names_of(listed(tmp_path, counts=counts), tmp_path) == ["/a.jpg"]
    assert counts.by_name == {"*.tar": 1}


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    names = [
        "a#b.jpg",
        "a%23b.jpg",
        "a%#2",
        "ä.jpg",
        "\udcff.jpg",
        "%FF.jpg",
        "../up.jpg",
        "/abs.jpg",
        "x\n.jpg",
        "100%.jpg",
    ]
    source = write_tar(tmp_path / "s#1.tar", [(name, name.encode(errors="surrogateescape")) for name in names])
    found = listed(source)
    assert set(read(found)) == {name.encode(errors="surrogateescape") for name in names}


def test_members_of_one_name_are_told_apart(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("a.jpg!", b"other"),
        ("a.jpg", b"2"),
        ("b.jpg", b"b"),
        ("a.jpg", b"3"),
        ("a.jpg~", b""),
    ]
    source = write_tar(tmp_path / "a.tar", members)
    found = listed(source, names=NameRules(has_table=False))
    assert dict(zip(names_of(found, source), read(found), strict=True)) == {
        "#a.jpg": b"1",
        "#a.jpg!": b"other",
        "#a.jpg%#2": b"2",
        "#a.jpg%#3": b"3",
        "#a.jpg~": b"",
        "#b.jpg": b"b",
    }


def test_a_zip_name_with_a_nul_is_kept_apart(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", [("aXb.jpg", b"nul"), ("a", b"plain")])
    source.write_bytes(source.read_bytes().replace(b"aXb.jpg", b"a\0b.jpg"))
    found = listed(source)
    assert dict(zip(names_of(found, source), read(found), strict=True)) == {"#a": b"plain", "#a%00b.jpg": b"nul"}


def test_a_file_whose_own_name_has_a_member_in_it_is_that_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("b.jpg", b"packed"), ("c.jpg", b"c")])
    (tmp_path / "a.tar#b.jpg").write_bytes(b"loose")
    (tmp_path / "a.tar 2.jpg").write_bytes(b"between")
    assert by_uri(f"{tmp_path}/a.tar#b.jpg") == b"loose"
    found = listed(f"{tmp_path}/a*", names=NameRules(has_table=False))
    assert names_of(found, tmp_path) == ["/a.tar 2.jpg", "/a.tar#b.jpg", "/a.tar#c.jpg"]
    assert read(found) == [b"between", b"loose", b"c"]


def test_one_member_is_an_input_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", [("x/1.jpg", b"1")])
    monkeypatch.chdir(tmp_path)
    check_inputs(["a.tar#x/1.jpg"])
    assert (is_single_file("a.tar#x/1.jpg"), is_single_file("a.tar")) == (True, False)
    assert read(listed("a.tar#x/1.jpg")) == [b"1"]
    assert listed("a.tar#x/1.jpg") == listed("a.tar")
    assert by_uri("a.tar#none.jpg") == by_uri("none.tar#1.jpg") == ImageErrorCode.NOT_FOUND
    with pytest.raises(InputError, match="there is no such file"):
        check_inputs(["none.tar#1.jpg"])


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.7z"])
def test_compressed_archives_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no single image can be read; unpack it, or make a \.tar"):
        check_inputs([f"{tmp_path}/{name}"])


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_tar_that_is_cut_off_says_so_and_keeps_what_is_whole(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", MANY[:3])
    source.write_bytes(source.read_bytes()[: 2 * 1024 + 512 + 50])
    assert dict(zip(names_of(found := listed(source), source), read(found), strict=True)) == {
        "": ImageErrorCode.TRUNCATED,
        "#0000.jpg": MANY[0][1],
        "#0001.jpg": MANY[1][1],
        "#0002.jpg": ImageErrorCode.TRUNCATED,
    }


def test_a_damaged_header_says_that_members_may_be_missing(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", MANY[:3])
    content = bytearray(source.read_bytes())
    content[1024 + 10] ^= 0xFF
    source.write_bytes(content)
    assert dict(zip(names_of(found := listed(source), source), read(found), strict=True)) == {
        "": ImageErrorCode.CORRUPT,
        "#0000.jpg": MANY[0][1],
    }


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.tar", b"", ImageErrorCode.EMPTY),
        ("a.tar", b"\x1f\x8b" + b"x" * 2000, ImageErrorCode.UNSUPPORTED_FORMAT),
        ("a.tar", b"x" * 2000, ImageErrorCode.CORRUPT),
        ("a.tar", b"x" * 20, ImageErrorCode.CORRUPT),
        ("a.zip", b"", ImageErrorCode.EMPTY),
        ("a.zip", b"PK\x03\x04" + b"x" * 2000, ImageErrorCode.CORRUPT),
    ],
)
def test_what_is_no_packed_file_is_one_row_with_a_typed_error(
    name: str, content: bytes, code: ImageErrorCode, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = listed(tmp_path / name)
    assert [info.uri for info in found] == [f"{tmp_path}/{name}"]
    assert read(found) == [code]


def test_links_in_a_tar_are_no_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert read(listed(tmp_path / "a.tar")) == [ImageErrorCode.NOT_A_FILE] * 2


def test_a_header_of_a_negative_size_ends_the_listing(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (-1024 & (2**96 - 1)).to_bytes(12, "big")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(512) * 0 + block + block)
    assert ImageErrorCode.CORRUPT in read(listed(tmp_path / "a.tar"))


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 2**31)
    assert read(listed(path)) == [ImageErrorCode.CORRUPT]


def test_an_encrypted_member_of_a_zip_costs_its_row(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", [("a.jpg", b"a" * 50), ("b.jpg", b"b")])
    content = bytearray(source.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    assert read(listed(source)) == [ImageErrorCode.UNSUPPORTED_FORMAT, b"b"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_zip(method: int, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", [("a.jpg", b"content" * 99)], method=method)
    expected = ImageErrorCode.UNSUPPORTED_FORMAT if method == zipfile.ZIP_LZMA else b"content" * 99
    assert read(listed(source)) == [expected]


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", [("a.jpg", bytes(20_000_000))])
    assert read(listed(source)) == [ImageErrorCode.TOO_MANY_BYTES]
    # One whose directory lies is unpacked up to what it says.
    content = bytearray(source.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 1000)
    source.write_bytes(content)
    assert read(listed(source)) == [ImageErrorCode.CORRUPT]


def test_overlapping_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", [("a.jpg", os.urandom(500)), ("b.jpg", b"b" * 500)])
    content = bytearray(source.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", content, second + 42, 10)
    source.write_bytes(content)
    assert ImageErrorCode.CORRUPT in read(listed(source))


def test_a_zip_member_behind_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    directory = b""
    for name, offset in ((b"a.jpg", 2**63), (b"b.jpg", 2**63 + 10**6)):
        extra = struct.pack("<HHQ", 1, 8, offset)
        numbers = (20, 0, 20, 0, 0, 0, 0, 0, 0, 1, 1, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
        directory += struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", *numbers) + name + extra
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), 0, 0)
    (tmp_path / "a.zip").write_bytes(directory + end)
    assert read(listed(tmp_path / "a.zip")) == [ImageErrorCode.CORRUPT] * 2


def test_members_over_the_limit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = [("a.jpg", bytes(200_000))]
    sources = [write_tar(tmp_path / "a.tar", large), write_zip(tmp_path / "a.zip", large, method=zipfile.ZIP_STORED)]
    found = [info for source in sources for info in listed(source)]
    monkeypatch.setattr(reading, "fetch_range", None)
    assert read(found) == [ImageErrorCode.TOO_MANY_BYTES] * 2


def test_rows_of_parquet_fail_alone(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", [b"a", None, bytes(200_000), b""])
    assert read(listed(source)) == [b"a", ImageErrorCode.EMPTY, ImageErrorCode.TOO_MANY_BYTES, b""]


def test_rows_that_share_one_value_are_not_copied_together(tmp_path: Path) -> None:
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array([bytes(4_000_000)]))
    source = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": rows}), source, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**30
    )
    found = listed(source)
    before = pa.total_allocated_bytes()
    scan = GroupScan(FileInfo(str(source), source.stat().st_size, None, None), 0, FetchLimits(max_bytes=4_000_000))
    assert len(found) == 100
    assert scan.take(0, [0]) == [bytes(4_000_000)]
    assert pa.total_allocated_bytes() - before < 20_000_000


def test_a_footer_that_claims_more_rows_than_bytes_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_parquet(tmp_path / "a.parquet", [b"a"])
    monkeypatch.setattr(parquets, "_MAX_ROWS_PER_BYTE", 0.5 / source.stat().st_size)
    (info,) = listed(source)
    assert info.locator is not None
    assert info.locator.startswith("broken:corrupt:it claims 1 rows in ")


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", [os.urandom(1000) for _ in range(20)], group_rows=10)
    content = bytearray(source.read_bytes())
    start = pq.read_metadata(source).row_group(1).column(0).data_page_offset
    content[start : start + 400] = bytes(400)
    source.write_bytes(content)
    codes = read(listed(source))
    assert all(isinstance(code, bytes) for code in codes[:10])
    assert set(codes[10:]) == {ImageErrorCode.CORRUPT}


def test_another_version_of_the_file_is_not_read(tmp_path: Path) -> None:
    for source in (write_tar(tmp_path / "a.tar", MANY[:3]), write_parquet(tmp_path / "a.parquet", [b"a"] * 3)):
        found = listed(source)
        os.utime(source, (1, 1))
        with ThreadPoolExecutor(4) as executor:
            results = list(fetch_inputs(table_of(found), LIMITS, executor))
        assert {getattr(result, "code", result) for result in results} == {ImageErrorCode.CHANGED}


# --- names and indexes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a#b", "%", "%%", "%41", "%#2", "\udc80\udcff", "\0", "é", "row=1", "a/../b"])
def test_a_name_comes_back_out_of_its_uri(name: str) -> None:
    uri = member_uri("/x.tar", name)
    uri.encode()
    member = split_member(uri)
    assert member is not None
    assert (member.source, member_name(member.name), member.occurrence) == ("/x.tar", name, 1)


def test_what_names_no_member() -> None:
    assert (
        split_member("/a.jpg") is split_member("/a.tar") is split_member("/a.tar#") is split_member("/a#b.tar") is None
    )
    assert split_member("s3://b/A.ZIP#x%#3") == Member("s3://b/A.ZIP", "x", 3)


def indexed(tmp_path: Path, members: list[tuple[str, bytes]]) -> Path:
    source = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(source) as tar:
        lines = [f"jpg {info.offset_data} {info.size} {info.name}" for info in tar]
    (tmp_path / "a.idx").write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))
    return source


def test_an_index_beside_a_tar_saves_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = indexed(tmp_path, MANY[:30])
    without = [info._replace(etag=None) for info in listed(source)]
    monkeypatch.setattr(tars, "RangeFile", None)
    assert [info._replace(etag=None) for info in listed(source)] == without
    assert read(listed(source)) == [content for _, content in MANY[:30]]


LARGE = [f"v1.2 1\njpg {'9' * digits} 100 0000.jpg\n" for digits in (18, 30, 5000)]


@pytest.mark.parametrize("change", ["", "v1.1 1\njpg 512 100\n", "v1.2 1\njpg 512 9 none.jpg\n", "v1.2 1\nx\n", *LARGE])
def test_an_index_of_another_tar_is_not_used(change: str, tmp_path: Path) -> None:
    source = indexed(tmp_path, MANY[:3])
    if change:
        (tmp_path / "a.idx").write_text(change)
    else:
        write_tar(source, MANY[:5])
    assert len(listed(source)) == (3 if change else 5)
