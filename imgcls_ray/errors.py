"""What can go wrong, named once.

Two families. An ``ImgclsError`` ends a command: its text says what, where, what came and the way out, and it carries
the exit code. An ``ImageError`` is a result: it costs one image its prediction and nothing else, and its code is one
of a closed set that is written into the label store.

::

    ImgclsError                 exit code
    ├── UsageError                  2   refused: nothing was started
    │   ├── ConfigError             2
    │   ├── InputError              2
    │   ├── UnknownModelError       2
    │   ├── ModelFolderError        2
    │   ├── WeightsError            2
    │   ├── LabelStoreError         2   no place for these labels
    │   └── ResourceError           2
    ├── LabelStoreDamagedError      2   files of a label store are damaged or lost
    ├── StoreInUseError            75   try again later
    ├── StorageError                3   a disk, volume or bucket fails or is away
    ├── JobFailedError              1
    ├── CheckFailedError            1
    └── StoppedError              130
    ImageError                          costs one image its prediction
"""

from __future__ import annotations

from enum import StrEnum


class ImgclsError(Exception):
    """Ends the command with one line for people and ``exit_code``."""

    exit_code = 1


class UsageError(ImgclsError):
    """The request cannot be carried out as it was made; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, key or value that does not fit.

    Args:
        message: for people; it begins with the key, where it is about one.
        key: with dots for keys of tables. A command says in its place how the key was given.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class MissingKeyError(ConfigError):
    """A key that has no default and was not given.

    Args:
        key: with dots for keys of tables.
        meaning: what it is, for people.
    """

    def __init__(self, key: str, meaning: str = "") -> None:
        super().__init__(f"{key}: is needed" + (f"; {meaning}" if meaning else ""), key=key)
        self.meaning = meaning

    def __reduce__(self) -> tuple[type[MissingKeyError], tuple[str, str]]:
        # The default would pass the message where the key belongs.
        return (MissingKeyError, (self.key, self.meaning))


class InputError(UsageError):
    """An input path, list or address that cannot be read as a whole."""


class UnknownModelError(UsageError):
    """A model name that is not in the zoo."""


class ModelFolderError(UsageError):
    """A model folder that is unreadable or does not fit together."""


class WeightsError(UsageError):
    """Weights that cannot be found, read or put into the network."""


class LabelStoreError(UsageError):
    """The directory is no place for these labels: it is no label store, or one of another model or other columns, or
    on a storage that cannot keep one."""


class ResourceError(UsageError):
    """The plan needs more than the machine or cluster has."""


class LabelStoreDamagedError(ImgclsError):
    """Files of the label store are damaged or lost, as may be found only while a command works on it.

    What it has labelled so far stays. The same command will not go on before the files are brought back: this is the
    store's content, where ``StorageError`` is the disk or bucket that holds it.
    """

    exit_code = 2


class StoreInUseError(ImgclsError):
    """Another run holds the label store, or planned into it meanwhile.

    A scheduler may try again later, as ``EX_TEMPFAIL`` of sysexits.h says.
    """

    exit_code = 75


class StorageError(ImgclsError):
    """A disk, volume or bucket fails, is full or is away, wherever a command reads or writes.

    What is durable stays, and the same command goes on from there when the storage is back.
    """

    exit_code = 3


class JobFailedError(ImgclsError):
    """The job ended, but its outcome is not acceptable (every input failed, or too many did)."""

    exit_code = 1


class CheckFailedError(ImgclsError):
    """The dataset has errors; the report says which."""

    exit_code = 1


class StoppedError(ImgclsError):
    """Someone stopped the command."""

    exit_code = 130


class ImageErrorCode(StrEnum):
    """Why one input has no prediction. A closed set: new meanings get new codes, old ones never change theirs."""

    NOT_FOUND = "not_found"
    ACCESS_DENIED = "access_denied"
    ARCHIVED = "archived"
    NOT_A_FILE = "not_a_file"
    UNSUPPORTED_STORAGE = "unsupported_storage"
    FETCH_FAILED = "fetch_failed"
    CHANGED = "changed"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_SCANS = "too_many_scans"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    BAD_BOX = "bad_box"
    DECODER_CRASHED = "decoder_crashed"
    DECODE_TIMEOUT = "decode_timeout"
    NON_FINITE_OUTPUT = "non_finite_output"

    @property
    def message(self) -> str:
        """The stable sentence for people."""
        return _MESSAGES[self]

    @property
    def is_transient(self) -> bool:
        """Whether the same version of an input may be readable later: such rows are planned again."""
        return self in _TRANSIENT


_MESSAGES = {
    ImageErrorCode.NOT_FOUND: "there is no such file or object",
    ImageErrorCode.ACCESS_DENIED: "reading it is not allowed",
    ImageErrorCode.ARCHIVED: "it is in an archive storage class and has to be restored first",
    ImageErrorCode.NOT_A_FILE: "it is a directory, pipe, socket or device, not a file",
    ImageErrorCode.UNSUPPORTED_STORAGE: "it is in a kind of storage that cannot be read",
    ImageErrorCode.FETCH_FAILED: "reading it failed or took too long",
    ImageErrorCode.CHANGED: "it changed after the run was planned",
    ImageErrorCode.EMPTY: "it has no bytes",
    ImageErrorCode.TOO_MANY_BYTES: "it is larger than the limit on bytes",
    ImageErrorCode.UNSUPPORTED_FORMAT: (
        "its content is not a JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, HEIF or JPEG XL that can be read"
    ),
    ImageErrorCode.TOO_MANY_PIXELS: "it has more pixels than the limit",
    ImageErrorCode.TOO_MANY_SCANS: "it is a progressive JPEG with more scans than the limit",
    ImageErrorCode.TRUNCATED: "its end is missing",
    ImageErrorCode.CORRUPT: "its content is damaged",
    ImageErrorCode.BAD_BOX: "its box is not in the picture, or has no area",
    ImageErrorCode.DECODER_CRASHED: "decoding it ends the process that tries",
    ImageErrorCode.DECODE_TIMEOUT: "decoding it takes longer than the limit",
    ImageErrorCode.NON_FINITE_OUTPUT: "the model's output for it is not a finite number",
}
_TRANSIENT = frozenset(
    {
        ImageErrorCode.ACCESS_DENIED,
        ImageErrorCode.ARCHIVED,
        ImageErrorCode.FETCH_FAILED,
        ImageErrorCode.CHANGED,
    }
)


class ImageError(Exception):
    """One image's failure: a code of the closed set and, where it helps, what was seen."""

    def __init__(self, code: ImageErrorCode, detail: str = "") -> None:
        super().__init__(f"{code.message} ({detail})" if detail else code.message)
        self.code = code
        self.detail = detail

    def as_value(self) -> ImageError:
        """The same error without the way it came: its frames would keep the file's bytes for as long as the result."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def __reduce__(self) -> tuple[type[ImageError], tuple[ImageErrorCode, str]]:
        # Errors cross process boundaries as values; the default would pass the sentence where the code belongs.
        return (ImageError, (self.code, self.detail))
