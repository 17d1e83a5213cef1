"""Write how far the images of a run are from those of the model's evaluation: a file for programs, a page for people.

::

    OUTPUT/drift_result.json    what ``imgcls drift --json`` prints; written last
    OUTPUT/drift/report.html    everything in one page, which needs no other file

Each file appears whole. An earlier report at the same place is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls_ray.json_files import encode_json
from imgcls_ray.report.page import render_template
from imgcls_ray.report.small_pictures import thumbnails_of
from imgcls_ray.storage import open_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.store.drift import Drift
    from imgcls_ray.store.label_store import LabelStore

RESULT_NAME = "drift_result.json"
PAGE_NAME = "drift/report.html"


def write_report(
    drift: Drift,
    store: LabelStore,
    run: int,
    rows: Sequence[dict[str, Any]],
    output: str,
    *,
    fetch_limits: FetchLimits,
    decode_limits: DecodeLimits,
) -> None:
    """Write the report under ``output``. The images are read again.

    Args:
        drift: what was found.
        store: of the run.
        run: which.
        rows: of the images that are shown.
        output: local folder, made if it is not there, or ``s3://BUCKET/PREFIX``.
        fetch_limits: bounds on reading an image, and the object storage of images and report.
        decode_limits: bounds on decoding an image.

    Raises:
        StorageError: a file cannot be written.
    """
    directory = open_directory(output, fetch_limits.storage)
    # While the files are replaced, nothing says that they belong together.
    directory.remove(RESULT_NAME)
    thumbnails = thumbnails_of(
        {row["uri"]: row["etag"] for row in rows}, fetch_limits=fetch_limits, decode_limits=decode_limits
    )
    page = render_template(
        "drift.html",
        drift=drift,
        store=store.uri,
        model=store.identity.model,
        run=f"{run:04d}",
        pictured=[(thumbnails[row["uri"]], row) for row in rows],
    )
    directory.replace(PAGE_NAME, page.encode())
    directory.replace(RESULT_NAME, encode_json({"store": store.uri, "run": run, **drift.to_record()}))
