"""Which names a listing leaves out: the default table, and patterns as in .gitignore."""

from __future__ import annotations

import re

import pytest

from imgcls_ray.errors import ConfigError
from imgcls_ray.storage.names import NameRules, rule_of_file, rule_of_folder


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Thumbs.db", "Thumbs.db"),
        ("THUMBS.DB", "Thumbs.db"),
        ("desktop.ini", "desktop.ini"),
        ("IMG_0001.AAE", "*.aae"),
        ("IMG_0001.MOV", "*.mov"),
        ("IMG_0001.jpg.xmp", "*.xmp"),
        ("photo.jpg:Zone.Identifier", "*:Zone.Identifier"),
        ("photo.jpg@SynoEAStream", "*@SynoEAStream"),
        ("archive.tar.gz", "*.gz"),
        ("notes.TXT", "*.txt"),
        ("GOPR0001.THM", "*.thm"),
        ("photo.jpg~", "*~"),
        ("~$report.jpg", "~$*"),
        ("sync.ffs_db", "sync.ffs_db"),
        ("Icon\r", "Icon\r"),
        ("IMG_0001.JPG", None),
        ("IMG_0001.NEF", None),
        ("scan", None),
        ("x.weird", None),
        ("txt", None),
        ("mov.jpg", None),
        ("~photo.jpg", None),
        ("~", None),
    ],
)
def test_the_table_knows_what_never_is_an_image(name: str, rule: str | None) -> None:
    assert rule_of_file(name) == rule


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("@eaDir", "@eaDir/"),
        ("#recycle", "#recycle/"),
        ("__MACOSX", "__MACOSX/"),
        ("$Recycle.bin", "$RECYCLE.BIN/"),
        ("System Volume Information", "System Volume Information/"),
        ("Previews.lrdata", "*.lrdata/"),
        ("recycle", None),
        ("photos.mov", None),
        ("lost+found", "lost+found/"),
        ("lost.dir", "LOST.DIR/"),
        ("RECYCLED", "RECYCLED/"),
        ("@__thumb", "@__thumb/"),
        ("FOUND.000", "FOUND.*/"),
        ("found.new", None),
        ("lost", None),
    ],
)
def test_the_table_knows_the_folders_of_systems(name: str, rule: str | None) -> None:
    assert rule_of_folder(name) == rule


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.bmp", ["a.bmp", "x/y/a.bmp", "x.bmp/a.jpg"], ["a.bmp2", "a.BMP", "abmp"]),
        ("backup", ["backup", "backup/", "x/backup/a.jpg"], ["backup2/a.jpg", "my backup"]),
        ("backup/", ["backup/", "x/backup/", "x/backup/y/a.jpg"], ["backup", "x/backup"]),
        ("/backup", ["backup", "backup/a.jpg"], ["x/backup"]),
        ("x/backup", ["x/backup", "x/backup/a.jpg"], ["y/x/backup"]),
        ("**/raw/*.jpg", ["raw/a.jpg", "x/y/raw/a.jpg"], ["raw/x/a.jpg", "raw.jpg"]),
        ("raw/**", ["raw/", "raw/x/a.jpg"], ["x/raw/a.jpg", "raw"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("IMG_??.jpg", ["IMG_01.jpg"], ["IMG_1.jpg", "IMG_0/.jpg"]),
        ("[0-9]*", ["1.jpg", "x/22"], ["a1.jpg"]),
        ("[!0-9]*", ["a.jpg"], ["1.jpg"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("a[b", ["a[b"], ["ab"]),
        ("#recycle", ["#recycle/", "x/#recycle/a.jpg"], ["recycle/"]),
        ("*", ["a", "x/"], []),
        ("line\nbreak*", ["line\nbreak.jpg"], ["line"]),
    ],
)
def test_patterns_are_those_of_gitignore(pattern: str, matching: list[str], others: list[str]) -> None:
    rules = NameRules(exclude=(pattern,))
    assert {path: rules.of_patterns(path) for path in matching} == dict.fromkeys(matching, f"--exclude {pattern}")
    assert {path: rules.of_patterns(path) for path in others} == dict.fromkeys(others)


def test_exclude_wins_over_include_and_folders_are_walked_for_what_is_included() -> None:
    rules = NameRules(include=("*.jpg",), exclude=("old/",))
    assert rules.of_patterns("x/") is None
    assert rules.of_patterns("x/a.jpg") is None
    assert rules.of_patterns("x/a.png") == "--include"
    assert rules.of_patterns("old/") == "--exclude old/"


def test_an_extension_that_is_included_is_not_left_out_by_the_table() -> None:
    assert NameRules(include=("*.txt",)).of_table("notes.TXT") is None
    assert NameRules(include=("photos/",)).of_table("notes.txt") == "*.txt"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("!keep.jpg", "a pattern is not turned round with !; use --include 'keep.jpg'"),
        ("/", "is no pattern; write e.g. *.bmp or backup/"),
        ("", "is no pattern"),
        ("[z-a]", "is no pattern: bad character range z-a"),
        ("[]", "is no pattern: [] names no character"),
        ("a[!]b", "is no pattern: [!] names no character"),
        ("*.{tmp,bak}", "braces are not read; give '*.tmp,*.bak', or [{] for"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NameRules(exclude=(pattern,))
    assert str(caught.value).startswith(f"exclude: {pattern!r}")
    assert text in str(caught.value)


def test_braces_are_answered_with_a_pattern_for_each() -> None:
    """An option is cut at its commas before it comes here."""
    with pytest.raises(ConfigError, match=re.escape("give 'a/*.tmp,a/*.bak,b/', or [{] for a brace in a name")):
        NameRules(exclude=("a/*.{tmp", "bak}", "b/"))
    with pytest.raises(ConfigError) as caught:
        NameRules(exclude=("{a,b}" * 1000,))
    assert len(str(caught.value)) < 200_000
    assert NameRules(exclude=("[{]id}.jpg",)).of_patterns("{id}.jpg") == "--exclude [{]id}.jpg"
