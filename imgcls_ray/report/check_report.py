"""Write the result of a check: files for programs, and one page for people.

::

    OUTPUT/check_dataset_result.json          PaddleX's keys in PaddleX's order, then ``findings``; written last
    OUTPUT/check_dataset/report.html          everything in one page, which needs no other file
    OUTPUT/check_dataset/findings.parquet     every finding of the result, by ``FINDING_SCHEMA``
    OUTPUT/check_dataset/histogram.png        images per class and split
    OUTPUT/check_dataset/demo_img/*.jpg       some images with their class names

Each file appears whole. An earlier report at the same place is replaced, its samples too.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.datasets.findings import FINDING_SCHEMA, Finding, FindingCode, Severity
from imgcls_ray.json_files import encode_json
from imgcls_ray.report.histogram import draw_histogram
from imgcls_ray.report.page import render_page
from imgcls_ray.report.pictures import draw_samples
from imgcls_ray.report.small_pictures import draw_thumbnails
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import path_from_uri, scheme_of

if TYPE_CHECKING:
    from imgcls_ray.datasets.check_result import CheckResult
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.json_files import Json
    from imgcls_ray.report.pictures import DrawnSample
    from imgcls_ray.storage import Directory, FetchLimits

RESULT_NAME = "check_dataset_result.json"
FOLDER = "check_dataset"
SAMPLES_FOLDER = f"{FOLDER}/demo_img"
HISTOGRAM_NAME = f"{FOLDER}/histogram.png"
PAGE_NAME = f"{FOLDER}/report.html"
FINDINGS_NAME = f"{FOLDER}/findings.parquet"

_NUM_FIRST = 10  # findings of each code in the JSON
_SAMPLE_NAME = re.compile(r"(train|val|test)_\d\d(_.*)?\.jpg", re.DOTALL)


def write_report(result: CheckResult, output: str, *, fetch_limits: FetchLimits, decode_limits: DecodeLimits) -> None:
    """Write the report of a check under ``output``.

    Images of samples and findings are read once more. In place of an unreadable one, the page has the reason.

    Args:
        result: the result of the check.
        output: folder, made if it is not there, or prefix of a bucket.
        fetch_limits: bounds on reading an image, and the object storage of images and report.
        decode_limits: bounds on decoding an image.

    Raises:
        InputError: the kind of storage is unknown.
        StorageError: a file cannot be written.
    """
    directory = open_directory(output, fetch_limits.storage)
    samples = {
        split: draw_samples(
            split, result.samples.get(split, ()), fetch_limits=fetch_limits, decode_limits=decode_limits
        )
        for split in result.num_images
    }
    thumbnails = draw_thumbnails(result.findings, fetch_limits=fetch_limits, decode_limits=decode_limits)
    histogram = draw_histogram(result)
    for sample in (sample for drawn in samples.values() for sample in drawn):
        directory.replace(f"{SAMPLES_FOLDER}/{sample.name}", sample.jpeg)
    directory.replace(HISTOGRAM_NAME, histogram.png)
    directory.replace(FINDINGS_NAME, _findings_parquet(result.findings))
    page = render_page(result, samples=samples, thumbnails=thumbnails, histogram=histogram)
    directory.replace(PAGE_NAME, page.encode())
    directory.replace(RESULT_NAME, encode_json(_summary(result, output, samples)))
    _remove_old_samples(directory, {sample.name for drawn in samples.values() for sample in drawn})


def _summary(result: CheckResult, output: str, samples: dict[str, list[DrawnSample]]) -> dict[str, Json]:
    attributes: dict[str, Json] = {
        "label_file": _label_file(result, output),
        # Ids that no class has count too: a network has an output for each.
        "num_classes": len(result.class_names),
    }
    # PaddleX's readers look for train and val, whether or not the dataset has them.
    for split in dict.fromkeys(["train", "val", *result.num_images]):
        attributes[f"{split}_samples"] = result.num_images.get(split, 0)
        attributes[f"{split}_sample_paths"] = [f"{SAMPLES_FOLDER}/{sample.name}" for sample in samples.get(split, ())]
    return {
        "done_flag": True,
        "check_pass": result.passed,
        "attributes": attributes,
        "analysis": {"histogram": HISTOGRAM_NAME},
        "dataset_path": result.dataset,
        "show_type": "image",
        "dataset_type": "ClsDataset",
        "findings": _findings_summary(result),
    }


def _findings_summary(result: CheckResult) -> dict[str, Json]:
    found = [code for code in FindingCode if result.num_findings[code]]
    first = [finding for code in found for finding in [f for f in result.findings if f.code is code][:_NUM_FIRST]]
    return {
        "num_errors": sum(result.num_findings[code] for code in found if code.severity is Severity.ERROR),
        "num_warnings": sum(result.num_findings[code] for code in found if code.severity is Severity.WARNING),
        "codes": [
            {"code": code, "severity": code.severity, "meaning": code.meaning, "count": result.num_findings[code]}
            for code in found
        ],
        "first": [finding._asdict() for finding in first],
    }


def _label_file(result: CheckResult, output: str) -> str | None:
    """Relative to the folder ``check_dataset`` of the report, as PaddleX has it; whole where one of both is remote."""
    if result.label_file is None:
        return None
    if scheme_of(result.dataset) not in ("", "file"):
        return f"{result.dataset.rstrip('/')}/{result.label_file}"
    path = os.path.abspath(os.path.join(path_from_uri(result.dataset), result.label_file))
    if scheme_of(output) not in ("", "file"):
        return path
    return os.path.relpath(path, os.path.abspath(os.path.join(path_from_uri(output), FOLDER)))


def _findings_parquet(findings: list[Finding]) -> bytes:
    rows = [
        {
            name: _utf8(value) if isinstance(value, str) else value
            for name, value in {**finding._asdict(), "severity": finding.code.severity}.items()
        }
        for finding in findings
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=FINDING_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def _utf8(text: str) -> str:
    """Text that Parquet can hold: bytes of a name that are not UTF-8 become ``\\udc80``."""
    return text.encode(errors="backslashreplace").decode()


def _remove_old_samples(directory: Directory, names: set[str]) -> None:
    for name in list(directory.entries(SAMPLES_FOLDER)):
        # What someone else put there is not ours to remove.
        if name not in names and _SAMPLE_NAME.fullmatch(name):
            directory.remove(f"{SAMPLES_FOLDER}/{name}")
