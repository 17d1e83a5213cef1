"""Folders, prefixes and patterns leave out what never is an image; lists do not, and nobody takes it for vanished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import ImageErrorCode, InputError, StorageError
from imgcls_ray.inputs import absence
from imgcls_ray.inputs.absence import MANY, ListedIn, check_absences
from imgcls_ray.inputs.checks import check_inputs
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.names import EVERY_NAME, NameRules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


IMAGES = ("a.jpg", "cat/0.jpg", "cat/1.jpg", "dog/IMG_1.JPG", "dog/scan")
LITTER = (
    "#recycle/cat/1.jpg",
    ".DS_Store",
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "@eaDir/cat/SYNOPHOTO_THUMB_S.jpg",
    "Thumbs.db",
    "__MACOSX/cat/._0.jpg",
    "cat/._0.jpg",
    "cat/.thumbnails/0.jpg",
    "cat/Thumbs.db",
    "dog/IMG_1.AAE",
    "dog/IMG_1.MOV",
    "dog/IMG_1.xmp",
    "dog/desktop.ini",
)
BY_NAME = {
    "#recycle/": 1,
    "@eaDir/": 1,
    "__MACOSX/": 1,
    "Thumbs.db": 2,
    "*.aae": 1,
    "*.mov": 1,
    "*.xmp": 1,
    "desktop.ini": 1,
}


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Images and litter, in a folder or in a bucket."""
    if request.param == "folder":
        for name in (*IMAGES, *LITTER):
            write(tmp_path / name)
        return str(tmp_path)
    server, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    for name in (*IMAGES, *LITTER):
        server.client().put_object(Bucket=bucket, Key=name, Body=b"x")
    return f"s3://{bucket}"


def listed(place: str, sources: str | Sequence[str], **options: Any) -> tuple[list[str], ListingCounts]:
    counts = ListingCounts()
    files = list(list_inputs(sources, counts, **options))
    return [info.uri.removeprefix(f"{place}/") for info in files], counts


@pytest.mark.parametrize("pattern", ["", "**"])
def test_litter_is_left_out_and_counted_by_rule(place: str, pattern: str) -> None:
    found, counts = listed(place, f"{place}/{pattern}")
    assert found == sorted(IMAGES)
    assert (counts.by_name, counts.hidden) == (BY_NAME, 3)
    assert counts.lines() == [
        "9 by their names: 2 Thumbs.db, 1 #recycle/, 1 *.aae, 1 *.mov, 1 *.xmp, 1 @eaDir/, 1 __MACOSX/, 1 desktop.ini",
        "3 names that begin with a dot",
    ]
    assert counts.to_record() == {**BY_NAME, "names that begin with a dot": 3}


def test_without_the_table_everything_is_an_input(place: str) -> None:
    found, counts = listed(place, f"{place}/", names=EVERY_NAME)
    assert found == sorted((*IMAGES, *LITTER))
    assert counts == ListingCounts()


def test_patterns_of_the_user_count_from_the_input(place: str) -> None:
    found, counts = listed(place, f"{place}/", names=NameRules(include=("*.jpg", "dog/"), exclude=("/a.jpg", "*1.*")))
    assert found == ["cat/0.jpg", "dog/scan"]
    assert counts.by_name == {**BY_NAME, "--exclude /a.jpg": 1, "--exclude *1.*": 2}
    found, counts = listed(place, f"{place}/", names=NameRules(exclude=("cat/",)))
    assert found == ["a.jpg", "dog/IMG_1.JPG", "dog/scan"]
    assert counts.by_name["--exclude cat/"] == 1
    found, counts = listed(place, f"{place}/", names=NameRules(include=("/cat",)))
    assert (found, counts.by_name["--include"]) == (["cat/0.jpg", "cat/1.jpg"], 3)
    assert "3 by pattern: 3 that match no --include" in counts.lines()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("dog/*.MOV", ["dog/IMG_1.MOV"]),
        ("@eaDir/**", ["@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/cat/SYNOPHOTO_THUMB_S.jpg"]),
        ("*/desktop.ini", ["dog/desktop.ini"]),
        ("cat/.thumbnails/*", ["cat/.thumbnails/0.jpg"]),
    ],
)
def test_what_a_pattern_of_input_names_is_an_input(place: str, pattern: str, expected: list[str]) -> None:
    assert listed(place, f"{place}/{pattern}")[0] == expected


def test_a_list_and_a_single_input_are_never_shortened(place: str, tmp_path: Path) -> None:
    path = write(tmp_path / "list" / "all.txt", "".join(f"{place}/{name}\n" for name in LITTER).encode())
    rules = NameRules(include=("*.png",), exclude=("*",))
    found, counts = listed(place, str(path), names=rules)
    assert (found, counts) == (sorted(LITTER), ListingCounts())
    assert listed(place, f"{place}/Thumbs.db", names=rules)[0] == ["Thumbs.db"]


def test_a_link_to_what_is_left_out_is_listed_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path / "@eaDir" / "a.jpg")
    (tmp_path / "thumbs").symlink_to("@eaDir")
    assert listed(str(tmp_path), str(tmp_path))[0] == ["thumbs/a.jpg"]


# --- several INPUTs ---------------------------------------------------------------------------------------------------


def test_several_inputs_are_one(place: str, tmp_path: Path) -> None:
    extra = write(tmp_path / "list" / "more.csv", f"uri\n{place}/dog/scan\n{place}/Thumbs.db\n".encode())
    found, counts = listed(place, [f"{place}/dog/", str(extra), f"{place}/a.jpg", f"{place}/cat/", f"{place}/a.jpg"])
    assert found == sorted([*IMAGES, "Thumbs.db"])
    assert counts.doubles == 2


def test_what_a_shell_found_is_left_out_as_in_the_folder(tmp_path: Path) -> None:
    for name in (*IMAGES, *LITTER, "table.xlsx"):
        write(tmp_path / name)
    found = sorted(str(path) for path in tmp_path.glob("[!.]*"))
    check_inputs(found)
    names, counts = listed(str(tmp_path), found)
    assert names == sorted(IMAGES)
    assert counts.by_name == {**BY_NAME, "*.xlsx": 1}


def test_a_list_among_the_files_of_its_folder_is_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    notes = write(tmp_path / "notes.txt", b"shot in May\n")
    with pytest.raises(InputError) as caught:
        check_inputs([str(tmp_path / "a.jpg"), str(notes)])
    assert str(caught.value) == (
        f"{notes}: is read as a list of images, and files of its folder are given beside it; give the folder "
        f"({tmp_path}/), or the list without them"
    )
    check_inputs([str(notes), str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.xlsx", "is a spreadsheet; save it as CSV (UTF-8)"),
        ("list.feather", "is a table of a kind that is not read as a list; save it as Parquet, CSV or JSON lines"),
        ("Thumbs.db", "is a file of the system, neither an image nor a list of images"),
        ("list.csv.zst", "is a list packed with zst; unpack it, or pack it with gzip (.gz)"),
    ],
)
def test_a_list_of_another_kind_is_no_image(name: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    with pytest.raises(InputError) as caught:
        check_inputs([str(path)])
    assert str(caught.value) == f"{path}: {text}"


# --- what is left out has not vanished --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "_looks", {})


def check(folder: Path, listed: ListedIn) -> None:
    import pyarrow as pa

    rows = pa.table({"uri": [f"{folder}/{i}.jpg" for i in range(MANY)], "etag": ["v"] * MANY})
    check_absences(rows, [ImageErrorCode.NOT_FOUND] * MANY, listed=listed, store="/nowhere", storage=DEFAULT_STORAGE)


def test_a_folder_that_holds_only_what_was_listed_then_is_there(tmp_path: Path) -> None:
    """With ``--exclude ''`` a film was an input: the folder that still holds one is not away."""
    write(tmp_path / "a.mov")
    check(tmp_path, ListedIn((str(tmp_path),), EVERY_NAME, is_only=True))
    absence._looks.clear()
    with pytest.raises(StorageError, match="it holds no images"):
        check(tmp_path, ListedIn((str(tmp_path),), is_only=True))


def test_of_several_inputs_the_one_that_held_them_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "here" / "a.jpg")
    (tmp_path / "away" / "deep").mkdir(parents=True)
    sources = (str(tmp_path / "here"), str(tmp_path / "away"))
    check(tmp_path / "here", ListedIn(sources))
    with pytest.raises(StorageError, match=f"^{tmp_path}/away: it holds no images"):
        check(tmp_path / "away" / "deep", ListedIn(sources))


def test_a_folder_beside_a_list_says_nothing_of_what_the_list_named(tmp_path: Path) -> None:
    write(tmp_path / "here" / "a.jpg")
    with pytest.raises(StorageError, match=f"^{tmp_path}/away: there is no such"):
        check(tmp_path / "away", ListedIn((str(tmp_path / "here"),)))


def test_of_files_that_were_given_their_folder_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "left.jpg")
    check(tmp_path, ListedIn((), NameRules(exclude=("*.jpg",))))
    with pytest.raises(StorageError, match=f"^{tmp_path}/away: there is no such"):
        check(tmp_path / "away", ListedIn(()))


def test_five_thousand_pieces_of_litter_between_five_thousand_images(tmp_path: Path) -> None:
    kinds = (
        "Thumbs.db",
        "{}.xmp",
        "{}.AAE",
        "{}.MOV",
        "._{}.jpg",
        "@eaDir/{}.jpg",
        "desktop.ini",
        "{}.jpg@SynoEAStream",
    )
    num_folders, num_images = 625, 8
    for i in range(num_folders):
        folder = tmp_path / f"{i:03d}"
        (folder / "@eaDir").mkdir(parents=True)
        for k in range(num_images):
            (folder / f"IMG_{k}.jpg").touch()
            (folder / kinds[k].format(f"IMG_{k}")).touch()
    found, counts = listed(str(tmp_path), str(tmp_path))
    assert found == [f"{i:03d}/IMG_{k}.jpg" for i in range(num_folders) for k in range(num_images)]
    rules = ("Thumbs.db", "*.xmp", "*.aae", "*.mov", "@eaDir/", "desktop.ini", "*@SynoEAStream")
    assert counts.by_name == dict.fromkeys(rules, num_folders)
    assert counts.hidden == num_folders
