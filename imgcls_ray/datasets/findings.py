"""Faults of a labelled dataset: a closed set of codes, each with a severity and a text for people."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa


class Severity(StrEnum):
    """Errors fail the check; warnings are for people to judge."""

    ERROR = "error"
    WARNING = "warning"


class FindingCode(StrEnum):
    """Code of a fault, as it is written in ``findings.parquet``."""

    severity: Severity
    meaning: str

    def __new__(cls, value: str, severity: Severity, meaning: str) -> FindingCode:
        """A string with a severity and a text."""
        code = str.__new__(cls, value)
        code._value_ = value
        code.severity = severity
        code.meaning = meaning
        return code

    UNREADABLE_LIST = "unreadable_list", Severity.ERROR, "the list cannot be read"
    UNREADABLE_LABELS = "unreadable_labels", Severity.ERROR, "the file of class names cannot be read"
    BAD_LINE = "bad_line", Severity.ERROR, "the line is not a path and a class id"
    UNKNOWN_DELIMITER = "unknown_delimiter", Severity.ERROR, "path and class id are not parted by a space or a tab"
    LABEL_NOT_INTEGER = "label_not_integer", Severity.ERROR, "the class id is not a whole number"
    LABEL_OUT_OF_RANGE = "label_out_of_range", Severity.ERROR, "no class has this id"
    DUPLICATE_CLASS_ID = "duplicate_class_id", Severity.ERROR, "two classes have the same id"
    ONE_CLASS = "one_class", Severity.ERROR, "one class alone cannot be learnt"
    EMPTY_SPLIT = "empty_split", Severity.ERROR, "there is no image to train or to validate with"
    MISSING_IMAGE = "missing_image", Severity.ERROR, "there is no such image"
    UNREADABLE_IMAGE = "unreadable_image", Severity.ERROR, "the image cannot be read or decoded"
    CONFLICTING_LABELS = "conflicting_labels", Severity.ERROR, "the same picture has two class ids"

    LEAKAGE_UNKNOWN = "leakage_unknown", Severity.ERROR, "too many look alike to compare it with all of other splits"

    DUPLICATE_CLASS_NAME = "duplicate_class_name", Severity.WARNING, "two classes have the same name"
    BACKSLASHES = "backslashes", Severity.WARNING, "paths have backslashes, as on Windows; they are read as separators"
    GAP_IN_IDS = "gap_in_ids", Severity.WARNING, "no class has this id, although a higher one is used"
    CLASS_WITHOUT_IMAGES = "class_without_images", Severity.WARNING, "the class has no image in this split"
    IMBALANCE = "imbalance", Severity.WARNING, "some classes have many times the images of others"
    DUPLICATE_LINE = "duplicate_line", Severity.WARNING, "the image is listed twice"
    EXACT_DUPLICATE = "exact_duplicate", Severity.WARNING, "two files have the same bytes"
    NEAR_DUPLICATE = "near_duplicate", Severity.WARNING, "two pictures are nearly the same"
    LEAKAGE = "leakage", Severity.WARNING, "the same or nearly the same picture is in two splits"
    DUPLICATES_UNKNOWN = (
        "duplicates_unknown",
        Severity.WARNING,
        "too many look alike to compare it with all of its split",
    )
    DARK = "dark", Severity.WARNING, "nearly black"
    BRIGHT = "bright", Severity.WARNING, "nearly white"
    BLURRED = "blurred", Severity.WARNING, "without any sharp edge"
    UNIFORM = "uniform", Severity.WARNING, "one colour"
    TINY = "tiny", Severity.WARNING, "much smaller than what a network sees"
    ODD_SHAPE = "odd_shape", Severity.WARNING, "so long that a square crop loses most of it"
    ROTATED = "rotated", Severity.WARNING, "stored on its side; it is turned upright, which other tools may not do"
    ODD_COLOURS = "odd_colours", Severity.WARNING, "grey, CMYK or of 16 bits among RGB images"
    NAME_TWINS = "name_twins", Severity.WARNING, "two names differ only in case or in how an accent is written"
    HIDDEN = "hidden", Severity.WARNING, "the name, or a folder above, begins with a dot: other tools pass it over"


class Finding(NamedTuple):
    """One fault of a dataset, as a row of ``findings.parquet``."""

    code: FindingCode
    file: str = ""
    """List, label file or table with the fault, relative to the dataset if it is inside it."""
    line: int | None = None
    """Number of the line in ``file``, from 1."""
    split: str = ""
    class_name: str = ""
    path: str = ""
    """Path of the image, as it is written in the dataset."""
    detail: str = ""
    """The wrong value, e.g. ``'7x'``, or the code and message of the decoder."""
    uri: str = ""
    """URI of the image, if the finding is about one."""
    other_uri: str = ""
    """URI of the other image, if the finding is about a pair."""

    @property
    def text(self) -> str:
        """One line for people: ``train.txt:3: the class id is not a whole number ('a.jpg x')``."""
        where = f"{self.file}:{self.line}" if self.line else self.file or self.path
        return f"{where}: " * bool(where) + self.code.meaning + f" ({self.detail})" * bool(self.detail)


class ImageFinding(NamedTuple):
    """A finding about an image, before its line and path are looked up."""

    code: FindingCode
    number: int
    """Of the image's entry, in the order in which the dataset lists them."""
    detail: str
    other: int | None = None
    """Number of the other image of a pair."""


FINDING_SCHEMA = pa.schema(
    [
        ("code", pa.string()),
        ("severity", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("split", pa.string()),
        ("class_name", pa.string()),
        ("path", pa.string()),
        ("detail", pa.string()),
        ("uri", pa.string()),
        ("other_uri", pa.string()),
    ]
)
