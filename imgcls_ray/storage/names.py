"""Decide by its name whether a file or folder is left out of a listing: the default table, and patterns of the user.

The default table has what never is an image (texts, tables, weights, videos, side files, archives, ...) and what
belongs to operating systems, NAS boxes and archives (``Thumbs.db``, ``@eaDir/``, ``__MACOSX/``, ...). Upper and lower
case are the same to it. Names that begin with a dot are left out with it; ``patterns`` has their rule. Only names that
a listing finds are judged: what a list, a pattern or INPUT itself names is an input.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXCLUDED = "--exclude "
"""Before the pattern, in the name of the rule that left a file out."""
NOT_INCLUDED = "--include"
"""The rule that left out what matches no pattern of ``include``."""

_TEXTS_AND_TABLES = (
    "txt csv tsv json jsonl ndjson geojson xml yaml yml toml ini cfg conf md rst tex html htm css js ts log bak py "
    "ipynb pdf doc docx odt rtf xls xlsx ods ppt pptx odp parquet arrow feather avro orc db sqlite sqlite3 lmdb "
    "npy npz pkl pickle h5 hdf5 mat tfrecord tfrecords"
)
_WEIGHTS = "safetensors onnx pt pt2 pth ckpt tflite pdparams pdiparams pdmodel pdopt engine gguf mlmodel"
_FILMS_AND_SOUNDS = (
    "mov mp4 m4v avi mkv webm wmv mpg mpeg mts m2ts 3gp 3g2 flv vob mxf ogv insv lrv braw "
    "mp3 wav m4a aac flac ogg opus wma aif aiff amr mid srt vtt sub"
)
# Beside pictures: what cameras, phones and editors write. An unfinished download may be an image all the same.
_SIDE_FILES = (
    "aae xmp dop pp3 cos cot nksc on1 mrk ctg gpx kml icc icm lrcat lrprev lrdata cocatalog jbf "
    "md5 sha1 sha256 crc par2 torrent lnk url webloc desktop thm"
)
_ARCHIVES_AND_PROGRAMS = (
    "zip tar gz tgz bz2 xz zst 7z rar iso dmg exe dll msi bat cmd ps1 sh so jar apk class pyc ttf otf woff woff2"
)
_NEVER_IMAGES = (_TEXTS_AND_TABLES, _WEIGHTS, _FILMS_AND_SOUNDS, _SIDE_FILES, _ARCHIVES_AND_PROGRAMS)
_EXTENSIONS = {f".{extension}": f"*.{extension}" for extensions in _NEVER_IMAGES for extension in extensions.split()}
# Windows and Samba keep a second stream of a file under such a name where the file system has no streams.
_EXTENSIONS[".identifier"] = "*:Zone.Identifier"
_ENDINGS = ("@SynoEAStream", "@SynoResource", ":AFP_AfpInfo", ":AFP_Resource", "~")
_LOWER_ENDINGS = tuple(ending.lower() for ending in _ENDINGS)
# What Microsoft Office keeps beside an open document.
_BEGINNING = "~$"

_SYSTEM_FILES = {
    name.lower(): name
    for name in (
        "Thumbs.db",
        "Thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "folder.htt",
        "autorun.inf",
        "Icon\r",
        "Picasa.ini",
        "ZbThumbnail.info",
        "BridgeCache",
        "BridgeCacheT",
        "IndexerVolumeGuid",
        "WPSettings.dat",
        "sync.ffs_db",
        "sync.ffs_lock",
        "_SUCCESS",
        "README",
        "LICENSE",
    )
}
_SYSTEM_FOLDERS = {
    name.lower(): f"{name}/"
    for name in (
        "@eaDir",
        "@Recycle",
        "@Recently-Snapshot",
        "@sharebin",
        "@tmp",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "RECYCLER",
        "RECYCLED",
        "LOST.DIR",
        "lost+found",
        "System Volume Information",
        "__MACOSX",
        "Network Trash Folder",
        "Temporary Items",
        "TheVolumeSettingsFolder",
        "__pycache__",
    )
}

# Where Windows' chkdsk puts what it finds.
_FOUND_FOLDER = re.compile(r"found\.[0-9]{3}")


def is_system_file(name: str) -> bool:
    """Whether a file has the name of one that systems and programs leave beside images, e.g. ``Thumbs.db``."""
    return name.lower() in _SYSTEM_FILES


def rule_of_file(name: str) -> str | None:
    """The rule of the default table for a file, e.g. ``*.mov``; ``None`` if it may be an image.

    >>> rule_of_file("IMG_0001.MOV"), rule_of_file("thumbs.db"), rule_of_file("IMG_0001.JPG")
    ('*.mov', 'Thumbs.db', None)
    """
    lower = name.lower()
    if (rule := _SYSTEM_FILES.get(lower)) is not None:
        return rule
    dot = lower.rfind(".")
    if dot > 0 and (rule := _EXTENSIONS.get(lower[dot:])) is not None:
        return rule
    if lower.startswith(_BEGINNING):
        return f"{_BEGINNING}*"
    if lower.endswith(_LOWER_ENDINGS) and lower not in _LOWER_ENDINGS:
        return next(f"*{ending}" for ending in _ENDINGS if lower.endswith(ending.lower()))
    return None


def rule_of_folder(name: str) -> str | None:
    """The rule of the default table for a folder, e.g. ``@eaDir/``; ``None`` if it may hold images."""
    lower = name.lower()
    if _FOUND_FOLDER.fullmatch(lower):
        return "FOUND.*/"
    return "*.lrdata/" if lower.endswith(".lrdata") else _SYSTEM_FOLDERS.get(lower)


@dataclass(frozen=True)
class NameRules:
    """Which names of a listing are left out.

    A pattern is a line of ``.gitignore``, without ``!`` and ``#``: ``*``, ``?`` and ``[..]`` match within a name, and
    ``**`` matches any number of folders. Without a ``/`` before its end, it matches at any depth; with one, from the
    INPUT on. With a ``/`` at its end it matches folders only. What is below a match is matched, too.
    """

    include: tuple[str, ...] = ()
    """Only files that match one of these are inputs; none means all."""
    exclude: tuple[str, ...] = ()
    """What matches one of these is left out, whatever ``include`` says."""
    has_table: bool = True
    """Whether the default table counts, and names that begin with a dot are left out."""

    @classmethod
    def given(cls, include: Sequence[str], exclude: Sequence[str] | None) -> Self:
        """The rules of these patterns; an empty ``exclude`` takes all names.

        Raises:
            ConfigError: a pattern is none.
        """
        return cls(tuple(include), tuple(exclude or ()), has_table=exclude is None or bool(exclude))

    def of_table(self, name: str) -> str | None:
        """The rule of the default table that leaves a name out; a folder's name ends with ``/``."""
        if not self.has_table:
            return None
        if name[-1] == "/":
            return rule_of_folder(name[:-1])
        rule = rule_of_file(name)
        # Who includes *.mov wants them.
        return rule if rule and os.path.splitext(name)[1].lower() not in self._included_extensions else None

    def of_patterns(self, path: str) -> str | None:
        """The pattern that leaves a path out, relative to INPUT; a folder's ends with ``/``."""
        excluding = (text for text, pattern in zip(self.exclude, self._excluded, strict=True) if pattern.match(path))
        if (rule := next(excluding, None)) is not None:
            return f"{EXCLUDED}{rule}"
        if not self.include or path.endswith("/") or any(pattern.match(path) for pattern in self._included):
            return None
        return NOT_INCLUDED

    @property
    def has_patterns(self) -> bool:
        return bool(self.include or self.exclude)

    def __post_init__(self) -> None:
        for option in ("include", "exclude"):
            for pattern in getattr(self, option):
                _check(option, pattern, getattr(self, option))

    @cached_property
    def _included(self) -> list[re.Pattern[str]]:
        return [_compile(pattern) for pattern in self.include]

    @cached_property
    def _excluded(self) -> list[re.Pattern[str]]:
        return [_compile(pattern) for pattern in self.exclude]

    @cached_property
    def _included_extensions(self) -> frozenset[str]:
        return frozenset(os.path.splitext(pattern)[1].lower() for pattern in self.include) - {""}


DEFAULT_NAMES = NameRules()
EVERY_NAME = NameRules(has_table=False)

_CLASS = re.compile(r"\[!?\]?[^\]]*\]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_OUTSIDE_BRACES = re.compile(r"(?:[^,{}]|\{[^{}]*\})+")
_MAX_MEANT = 20
_PARTS = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_SPECIAL_IN_CLASS = re.compile(r"[\\\[\]^&~|]")


def _without_braces(text: str) -> list[str]:
    """What a shell makes of patterns with braces, at most ``_MAX_MEANT``: ``*.a`` and ``*.b`` of ``*.{a,b}``."""
    todo: list[str] = _OUTSIDE_BRACES.findall(text)[::-1]
    done: list[str] = []
    while todo and len(done) < _MAX_MEANT:
        pattern = todo.pop()
        if (inner := _BRACES.search(pattern)) is None:
            done.append(pattern)
            continue
        before, after = pattern[: inner.start()], pattern[inner.end() :]
        todo += [f"{before}{part.strip()}{after}" for part in reversed(inner[1].split(","))]
    return done


def _check(option: str, pattern: str, all_patterns: Sequence[str]) -> None:
    if not pattern.strip("/"):
        raise ConfigError(f"{option}: {pattern!r} is no pattern; write e.g. *.bmp or backup/")
    if pattern.startswith("!"):
        other = "include" if option == "exclude" else "exclude"
        raise ConfigError(f"{option}: {pattern!r}: a pattern is not turned round with !; use --{other} {pattern[1:]!r}")
    # A shell reads *.{tmp,bak} and .gitignore does not; its comma has parted it into two patterns.
    if "{" in _CLASS.sub("", pattern):
        text = ",".join(all_patterns)
        meant = ",".join(_without_braces(text))
        raise ConfigError(f"{option}: {text!r}: braces are not read; give {meant!r}, or [{{] for a brace in a name")
    if empty := next((part for part in _PARTS.findall(pattern) if part in ("[]", "[!]")), None):
        raise ConfigError(f"{option}: {pattern!r} is no pattern: {empty} names no character")
    try:
        _compile(pattern)
    except re.error as error:
        # Its position is one in what the pattern is made into.
        raise ConfigError(f"{option}: {pattern!r} is no pattern: {error.msg}") from error


def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern for paths relative to INPUT, those of folders with a ``/`` at their end."""
    names = pattern.strip("/").split("/")
    is_anchored = len(names) > 1 or pattern.startswith("/")
    regex = "" if is_anchored else "(?:.*/)?"
    for number, name in enumerate(names):
        is_last = number == len(names) - 1
        if name == "**":
            regex += ".*" if is_last else "(?:.*/)?"
        else:
            regex += "".join(map(_regex_of, _PARTS.findall(name))) + "/" * (not is_last)
    ending = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    return re.compile(f"(?s:{regex}{ending})\\Z")


def _regex_of(part: str) -> str:
    if part[0] == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if len(part) == 1:
        return re.escape(part)
    inner = _SPECIAL_IN_CLASS.sub(r"\\\g<0>", part[1:-1].removeprefix("!"))
    return f"[^/{inner}]" if part.startswith("[!") else f"[{inner}]"
