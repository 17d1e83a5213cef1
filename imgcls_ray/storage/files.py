"""Properties of listed files: URIs, absolute paths, versions."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from imgcls_ray.errors import InputError
from imgcls_ray.storage.schemes import ADDRESSES, KIND_OF_SCHEME

_STORAGES = (*KIND_OF_SCHEME, "http", "https", "file")
_OTHER_STORAGES = ("s3a", "s3n", "gcs", "hdfs", "wasb", "wasbs", "adl", "oss", "ftp")
_MISTYPED = re.compile(
    rf"({'|'.join((*_STORAGES, *_OTHER_STORAGES))})(:/(?!/)|:?\\+/*|//|:(?=[^/\\]))(.*)",
    re.IGNORECASE | re.DOTALL,
)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


class FileInfo(NamedTuple):
    """One file as it was listed."""

    uri: str
    size: int | None
    """Size in bytes; ``None`` if it is unknown before reading."""
    etag: str | None
    """Version of the content; ``None`` if the storage gives none."""
    mtime: datetime | None
    source: str | None = None
    """URI of the file or object that holds it, if it is a member of one; its version is ``etag``."""
    locator: str | None = None
    """Where its bytes are in ``source``: ``tar:OFFSET:LENGTH`` and others, see ``storage.members``."""
    values: str | None = None
    """What a list has of it in other columns, as ``inputs.kept`` writes it."""


def check_address(uri: str) -> None:
    """Refuse a mistyped address, which would be taken for a path of this machine: ``s3:/bucket``, ``S3:\\bucket``.

    Raises:
        InputError: with the address that was meant.
    """
    if (match := _MISTYPED.match(uri)) is None:
        return
    scheme, mark, rest = match[1].lower(), match[2], match[3].lstrip("/\\").replace("\\", "/")
    what = {":/": "has one slash", "//": "has no colon", ":": "has no slashes"}.get(mark, "has backslashes")
    if scheme in _STORAGES:
        meant = f"{scheme}://{'/' * (scheme == 'file')}{rest}"
        raise InputError(f"{uri}: {what}; write {meant} (a path of that name is ./{uri})")
    raise InputError(f"{uri}: {scheme}:// is not a kind of storage that can be used; give a path or {ADDRESSES}")


def scheme_of(uri: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def host_of_file(uri: str) -> str:
    """The host in a ``file://`` URI; empty for this machine and for other URIs."""
    if uri[:7].lower() != "file://":
        return ""
    host = uri[7:].partition("/")[0]
    return "" if host.lower() == "localhost" else host


def path_from_uri(uri: str) -> str:
    """The path of a local URI; bytes that are not UTF-8 travel as surrogate escapes, as everywhere in Python.

    Raises:
        InputError: it names a file of another machine.
    """
    if uri[:7].lower() != "file://":
        return uri
    if host := host_of_file(uri):
        raise InputError(f"{uri}: names a file of the host {host!r}; write file:///PATH for a file of this machine")
    return os.fsdecode(unquote_to_bytes(uri[7:].removeprefix(uri[7:].partition("/")[0])))


def uri_from_path(path: str) -> str:
    """The path itself, or a percent-encoded ``file://`` URI for a name that is not UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def absolute_path(path: str) -> str:
    """The absolute path, without ``.`` and ``..``, of the same file.

    ``os.path.abspath`` takes ``link/..`` for the folder of the link; the system takes it for the parent of its target.
    A ``..`` behind something that is no folder stays, because such a path does not exist.
    """
    if not path.startswith("/"):
        path = os.path.join(os.getcwd(), path)
    if "/.." not in path:
        return os.path.normpath(path).replace("//", "/", 1)
    whole = "/"
    for part in path.split("/"):
        if part == "..":
            whole = _above(whole)
        elif part not in ("", "."):
            whole = os.path.join(whole, part)
    return whole


def _above(folder: str) -> str:
    try:
        mode = os.lstat(folder).st_mode
        if stat.S_ISDIR(mode):
            return os.path.dirname(folder)
        if stat.S_ISLNK(mode) and os.path.isdir(folder):
            return os.path.dirname(os.path.realpath(folder))
    except (OSError, ValueError):
        pass
    return os.path.join(folder, "..")


def stat_file(path: str) -> FileInfo:
    """Describe one path; without a version if its properties cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a list may hold null characters
        return FileInfo(uri_from_path(path), None, None, None)
    try:
        mtime = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    except (ValueError, OverflowError):  # a broken clock wrote a year that has five digits
        mtime = None
    return FileInfo(uri_from_path(path), status.st_size, version_of(status), mtime)


def version_of(status: os.stat_result) -> str:
    """Version of a file: modification time and size in hexadecimal, as in web servers."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def opaque_etag(etag: str) -> str:
    """The value of an ETag in HTTP's form, ``"abc"`` or the weak ``W/"abc"``, for comparing versions."""
    return etag.strip().removeprefix("W/").strip('"')
