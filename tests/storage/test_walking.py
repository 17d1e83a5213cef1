"""A walk comes by every real folder once, in order, whatever links, names and failures it meets."""

from __future__ import annotations

import errno
import glob
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import InputError, StorageError
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.patterns import Pattern
from imgcls_ray.storage.walking import list_folder
from tests.storage.test_local import as_nobody, public_folder, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["public_folder"]


def names_in(folder: Path, **options: Any) -> list[str]:
    return [path_from_uri(info.uri).removeprefix(f"{folder}/") for info in list_folder(str(folder), **options)]


@pytest.fixture
def deep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for trees that are too deep for pytest to remove; it is also where the test is."""
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)


def nest(name: str, count: int) -> None:
    """Make a file below so many folders of one name, and come back."""
    before = os.getcwd()
    for _ in range(count):
        os.mkdir(name)
        os.chdir(name)
    write_here("deep.jpg")
    os.chdir(before)


def folders_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are read from now on."""
    read: list[str] = []
    scandir = os.scandir

    def scan(path: Any) -> Any:
        read.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return read


def fail_to_list(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """``os.scandir`` fails on this one folder."""
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if str(path) == str(folder):
            raise OSError(number, os.strerror(number))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)


# Folders that cannot be listed


def test_a_denied_folder_is_told_and_what_follows_is_listed(public_folder: Path) -> None:
    for name in ("a", "locked", "z"):
        write(public_folder / name / "x.jpg")
    (public_folder / "locked").chmod(0o700)

    def walk() -> tuple[list[str], ListingCounts]:
        counts = ListingCounts()
        return names_in(public_folder, counts=counts), counts

    outcome = as_nobody(walk)
    assert isinstance(outcome, tuple)
    found, counts = outcome
    assert found == ["a/x.jpg", "z/x.jpg"]
    assert list(map(str, counts.unlisted)) == [f"{public_folder}/locked: Permission denied"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_folder_that_fails_is_told_and_what_follows_is_listed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b/c", "z"):
        write(tmp_path / name / "x.jpg")
    fail_to_list(monkeypatch, tmp_path / "b", number)
    counts = ListingCounts()
    assert names_in(tmp_path, counts=counts) == ["a/x.jpg", "z/x.jpg"]
    assert [tuple(unlisted) for unlisted in counts.unlisted] == [(f"{tmp_path}/b", os.strerror(number))]
    pattern = Pattern(["*", "**", "*.jpg"])
    assert names_in(tmp_path, counts=ListingCounts(), pattern=pattern) == ["a/x.jpg", "z/x.jpg"]


def test_a_folder_that_fails_half_way_gives_what_it_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        write(tmp_path / name)
    scandir = os.scandir

    class Half:
        def __init__(self, entries: Any) -> None:
            self._entries = entries

        def __enter__(self) -> Any:
            return self._half()

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def _half(self) -> Any:
            yield next(self._entries)
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "scandir", lambda path: Half(scandir(path)) if str(path).endswith("/b") else scandir(path))
    counts = ListingCounts()
    found = names_in(tmp_path, counts=counts)
    assert found[0] == "a/x.jpg"
    assert len(found) == 2
    assert counts.num_unlisted == 1


def test_a_root_that_goes_away_while_it_is_listed_is_told_behind_what_was_found(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(b"x")
    files = list_folder(str(root), counts=ListingCounts())
    assert next(files).uri == f"{root}/a.jpg"
    shutil.rmtree(root)
    assert next(files).uri == f"{root}/b.jpg"
    with pytest.raises(StorageError, match="went away while it was listed; run the command again"):
        next(files)


def test_a_folder_that_is_gone_when_its_turn_comes_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "b" / "x.jpg")
    counts = ListingCounts()
    files = list_folder(str(tmp_path), counts=counts)
    next(files)
    (tmp_path / "b" / "x.jpg").unlink()
    (tmp_path / "b").rmdir()
    assert list(files) == []
    assert counts == ListingCounts()


def test_many_folders_that_cannot_be_listed_are_told_in_bounds(tmp_path: Path) -> None:
    counts = ListingCounts()
    for i in range(250):
        counts.add_unlisted(f"/{'x' * 5000}{i}", "Permission denied")
    assert len(counts.unlisted) == 100
    with pytest.raises(
        StorageError, match=r"^250 folders of the input cannot be listed .*; and 247 more\); what"
    ) as ended:
        counts.check_complete()
    assert len(str(ended.value)) < 1500
    ListingCounts().check_complete()


def test_the_root_itself_must_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_list(monkeypatch, tmp_path, errno.EIO)
    with pytest.raises(InputError, match=rf"^{tmp_path}: cannot be listed: Input/output error$"):
        names_in(tmp_path, counts=ListingCounts())


def test_without_counts_the_walk_goes_on_and_then_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "z"):
        write(tmp_path / name / "x.jpg")
    fail_to_list(monkeypatch, tmp_path / "b", errno.EIO)
    with pytest.raises(
        InputError, match=rf"^1 folder of the input cannot be listed \({tmp_path}/b: Input/output error"
    ):
        list(list_folder(str(tmp_path)))
    files = list_folder(str(tmp_path))
    assert [next(files).uri for _ in range(2)] == [f"{tmp_path}/a/x.jpg", f"{tmp_path}/z/x.jpg"]


def test_a_thousand_nested_folders_are_walked(deep_folder: Path) -> None:
    nest("d", 1200)
    assert names_in(deep_folder, counts=ListingCounts()) == ["d/" * 1200 + "deep.jpg"]
    assert names_in(deep_folder, pattern=Pattern(["**", "*.jpg"])) == ["d/" * 1200 + "deep.jpg"]


@pytest.mark.parametrize("pattern", [["**"], ["**", "*.jpg"]])
def test_a_folder_whose_path_is_too_long_is_told(pattern: list[str], deep_folder: Path) -> None:
    nest("n" * 250, 20)
    write(deep_folder / "z.jpg")
    counts = ListingCounts()
    assert names_in(deep_folder, pattern=Pattern(pattern), counts=counts) == ["z.jpg"]
    assert [unlisted.reason for unlisted in counts.unlisted] == ["File name too long"]


def write_here(name: str) -> None:
    with open(name, "wb") as file:
        file.write(b"x")


def test_what_a_pattern_names_is_found_in_folders_that_may_only_be_entered(public_folder: Path) -> None:
    write(public_folder / "home" / "photos" / "x.jpg")
    write(public_folder / "home" / "other" / "y.jpg")
    (public_folder / "home").chmod(0o711)

    def walk() -> tuple[list[str], ListingCounts]:
        counts = ListingCounts()
        return names_in(public_folder, pattern=Pattern(["*", "photos", "*.jpg"]), counts=counts), counts

    assert as_nobody(walk) == (["home/photos/x.jpg"], ListingCounts())


# Links


def test_links_to_their_own_folder_add_nothing(tmp_path: Path) -> None:
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg"):
        write(tmp_path / name)
    for folder in ("", "a", "a/b"):
        (tmp_path / folder / "self").symlink_to(".")
        (tmp_path / folder / "top").symlink_to(tmp_path)
    everything = ["1.jpg", "a/2.jpg", "a/b/3.jpg"]
    counts = ListingCounts()
    assert names_in(tmp_path, counts=counts) == everything
    assert counts.linked == 6
    assert names_in(tmp_path, pattern=Pattern(["**", "*.jpg"])) == everything


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path) -> None:
    folders = [f"f{i}" for i in range(12)]
    for folder in folders:
        write(tmp_path / folder / "x.jpg")
        for other in folders:
            (tmp_path / folder / f"to_{other}").symlink_to(f"../{other}")
    everything = [f"{folder}/x.jpg" for folder in sorted(folders)]
    assert names_in(tmp_path) == everything
    assert names_in(tmp_path, pattern=Pattern(["**"])) == everything
    assert names_in(tmp_path, pattern=Pattern(["**", "x.*"])) == everything


def test_a_folder_keeps_its_own_name_whatever_link_leads_to_it(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "2026" / "x.jpg")
    before = names_in(tmp_path)
    (tmp_path / "a-link").symlink_to("photos")
    (tmp_path / "b-link").symlink_to("photos/2026")
    assert names_in(tmp_path) == before == ["photos/2026/x.jpg"]
    # What no own name reaches is listed under the link's.
    assert names_in(tmp_path, pattern=Pattern(["b-*", "*"])) == ["b-link/x.jpg"]
    assert names_in(tmp_path, pattern=Pattern(["**", "b-link", "*"])) == ["b-link/x.jpg"]


def test_a_folder_that_only_a_link_reaches_is_listed(tmp_path: Path, public_folder: Path) -> None:
    write(public_folder / "o.jpg")
    write(public_folder / "below" / "p.jpg")
    write(tmp_path / ".hidden" / "sub" / "h.jpg")
    (tmp_path / "a").symlink_to(public_folder)
    (tmp_path / "b").symlink_to(public_folder / "below")
    (tmp_path / "c").symlink_to(".hidden/sub")
    (tmp_path / "d").symlink_to(".hidden")
    # The first name in order is the one: "b" and "d/sub" lead to what "a" and "c" have led to.
    assert names_in(tmp_path) == ["a/below/p.jpg", "a/o.jpg", "c/h.jpg"]


def test_a_folder_below_one_that_is_denied_is_listed_by_its_link(public_folder: Path) -> None:
    write(public_folder / "closed" / "open" / "x.jpg")
    (public_folder / "a").symlink_to("closed/open")
    (public_folder / "z").symlink_to("closed/open")
    (public_folder / "closed").chmod(0o711)
    counts = ListingCounts()
    assert as_nobody(lambda: names_in(public_folder, counts=counts)) == ["a/x.jpg"]


def test_a_link_to_a_folder_above_lists_its_other_folders_once(tmp_path: Path) -> None:
    write(tmp_path / "root" / "x.jpg")
    write(tmp_path / "other" / "y.jpg")
    (tmp_path / "root" / "up").symlink_to("..")
    assert names_in(tmp_path / "root") == ["up/other/y.jpg", "x.jpg"]


def test_a_dataset_sees_a_folder_under_each_of_its_names(tmp_path: Path) -> None:
    write(tmp_path / "all" / "cat" / "x.jpg")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat").symlink_to("../all/cat")
    (tmp_path / "all" / "cat" / "up").symlink_to("..")
    assert names_in(tmp_path, every_name=True) == ["all/cat/x.jpg", "train/cat/x.jpg"]


# What is left out


def test_samples_of_a_label_store_are_left_out_under_every_name(tmp_path: Path) -> None:
    write(tmp_path / "labels" / "store.json")
    write(tmp_path / "labels" / "samples" / "s.jpg")
    write(tmp_path / "labels" / "incoming" / "x.jpg")
    write(tmp_path / "samples" / "kept.jpg")
    (tmp_path / "link").symlink_to("labels/samples")
    (tmp_path / "link2").symlink_to("labels")
    counts = ListingCounts()
    assert names_in(tmp_path, counts=counts) == ["labels/incoming/x.jpg", "samples/kept.jpg"]
    assert (counts.stores, counts.by_name) == (1, {"*.json": 1})


def test_of_the_own_store_only_what_it_wrote_is_left_out(tmp_path: Path) -> None:
    store = tmp_path / "raw"
    for name in ("plans/1.jpg", "predictions/2.jpg", "runs/3.jpg", "exports/4.jpg", "samples/5.jpg", ".6.jpg"):
        write(store / name)
    for name in ("incoming/a.jpg", "incoming/samples/b.jpg", "c.jpg", "plans.jpg", "report/d.jpg"):
        write(store / name)
    (store / "incoming" / "link").symlink_to("../samples")
    # The page of a store has no images: those in a folder of its name are somebody's inputs.
    kept = ["c.jpg", "incoming/a.jpg", "incoming/samples/b.jpg", "plans.jpg", "report/d.jpg"]
    assert names_in(store, store=str(store)) == kept
    assert names_in(tmp_path, store=str(store)) == [f"raw/{name}" for name in kept]
    assert names_in(store / "incoming", store=str(store)) == ["a.jpg", "samples/b.jpg"]
    assert names_in(store / "samples", store=str(store)) == []
    assert names_in(tmp_path, store=str(tmp_path / "not-yet")) != []


def test_the_files_of_a_model_folder_are_left_out(tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors", "model.onnx", "model.xml", "model.bin", "model.pt2", "photo.jpg"):
        write(tmp_path / "model" / name)
    for name in ("network.json", "network.xml", "network.bin"):
        write(tmp_path / "model" / "openvino" / name)
    write(tmp_path / "model.bin")
    write(tmp_path / "network.bin")
    counts = ListingCounts()
    assert names_in(tmp_path, counts=counts) == ["model.bin", "model/photo.jpg", "network.bin"]
    assert counts.by_name.total() == 9


# All together


def reference(root: str) -> set[str]:
    """The real paths of all files that a walk has to come by, in the plainest way."""
    found, todo, seen = set(), [root], set()
    while todo:
        folder = os.path.realpath(todo.pop())
        if folder in seen:
            continue
        seen.add(folder)
        for name in os.listdir(folder):
            if name.startswith("."):
                continue
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                todo.append(path)
            else:
                found.add(path)
    return found


def grow(root: str, rng: random.Random, *, links: bool = True) -> None:
    odd = ["a", "a.b", "a b", "A", "é", "z\n", "-", "~", "[x]", "*", "🐈", os.fsdecode(b"\xff"), "a\x01", ".d", "%41"]
    folders = [root]
    for _ in range(rng.randint(1, 25)):
        path = os.path.join(rng.choice(folders), rng.choice(odd))
        if os.path.lexists(path):
            continue
        kind = rng.random()
        if kind < 0.45:
            os.mkdir(path)
            folders.append(path)
        elif kind < 0.75:
            write_here(path)
        elif links:
            target = rng.choice([*folders, os.path.dirname(root), "gone", "."])
            os.symlink(target, path)


@pytest.mark.parametrize("seed", range(150))
def test_any_tree_is_listed_once_and_in_order(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    outside, root = tmp_path / "outside", str(tmp_path / "outside" / "root")
    write(outside / "beside" / "o.jpg")
    os.mkdir(root)
    grow(root, rng)
    counts = ListingCounts()
    uris = [info.uri for info in list_folder(root, counts=counts)]
    assert uris == sorted(set(uris))
    assert counts.num_unlisted == 0
    # Folders by their real names; the files in them by their own, links to files too.
    paths = map(path_from_uri, uris)
    real = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in paths]
    assert len(real) == len(set(real))
    assert set(real) == reference(root)
    # A pattern that matches everything is the same walk.
    for pattern in (["**", "*"], ["**", "**"], [""]):
        assert [info.uri for info in list_folder(root, pattern=Pattern(pattern))] == uris


@pytest.mark.parametrize("seed", range(60))
def test_a_pattern_lists_the_files_that_python_finds(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    root = str(tmp_path / "root")
    os.mkdir(root)
    grow(root, rng, links=False)  # in links Python's glob goes round until the system refuses
    for parts in (
        ["*"],
        ["*", "*"],
        ["a*", "**"],
        ["**", "a*"],
        ["*", "a", "*"],
        ["[!a]*", "**", "?"],
        ["**", "a", "**"],
    ):
        uris = [info.uri for info in list_folder(root, pattern=Pattern(parts))]
        assert uris == sorted(set(uris)), parts
        found = glob.iglob(os.path.join(glob.escape(root), *parts), recursive=True)
        assert set(map(path_from_uri, uris)) == {path for path in found if os.path.isfile(path)}, parts


def test_the_names_of_an_odd_root_are_not_kept(tmp_path: Path) -> None:
    """A root that is not UTF-8 is walked in the order of its URIs, one folder's names at a time."""
    root = tmp_path / os.fsdecode(b"\xff")
    for name in ("é/b", "é/a", "a", "~", "z/q", "%", "é.x"):
        write(root / name)
    uris = [info.uri for info in list_folder(str(root))]
    assert uris == sorted(uris)
    assert len(uris) == 7
    files = list_folder(str(root))
    next(files)
    write(root / "é" / "late")
    assert any(info.uri.endswith("/late") for info in files)


@pytest.mark.parametrize(
    "many", [lambda root: list_folder(root), lambda root: list_folder(root, pattern=Pattern(["**"]))]
)
def test_the_first_file_comes_before_the_last_folder_is_read(
    many: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(50):
        write(tmp_path / f"{i:02d}" / "x.jpg")
    read = folders_read(monkeypatch)
    next(iter(many(str(tmp_path))))
    assert len(read) <= 3
