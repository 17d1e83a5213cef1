"""Everything that a storage may do wrong, through a proxy in front of a real S3 server, and what became of the job.

Input and store lie on S3. Each fault stays for the whole job, which must finish all the same; ``imgcls store verify``
then counts rows lost and doubled, and every row is compared with that of an undisturbed job. The proxy counts requests:
retries are bounded. Two last faults cannot be outlived, a server that turns everything away from some moment on and a
bucket that disappears: there the job must end with its exit code, and finish when it is run again without the fault.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from benchmarks.common import emit, imgcls, isolated_environment, keep_conversion, print_table
from benchmarks.kills_jobs import draw_small_images, rows_of
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.options import StorageOptions
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.conftest import make_small_model
from tests.s3.proxy import Fault, Faults, s3_proxy
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.s3.proxy import S3Proxy

_BUCKET = "faults"
_UNIT_SIZE = 64

OUTLIVED = {
    "none": Faults(),
    "503 for 1 % of all requests": Faults((Fault("slow_down", rate=0.01),)),
    "503 for 10 %": Faults((Fault("slow_down", rate=0.1),)),
    "503 for 50 %": Faults((Fault("slow_down", rate=0.5),)),
    "500 for 10 %": Faults((Fault("internal_error", rate=0.1),)),
    "502 with a page of HTML for 10 %": Faults((Fault("bad_gateway", rate=0.1),)),
    "connection reset for 10 %": Faults((Fault("reset", rate=0.1),)),
    "reset in the middle of 10 % of the bodies": Faults((Fault("reset_midway", ("get",), rate=0.1),)),
    "10 % of the bodies truncated": Faults((Fault("truncate", ("get",), rate=0.1),)),
    "no answer at all to 0.5 %": Faults((Fault("stall", rate=0.005),)),
    "0.5 % of the bodies stop half-way": Faults((Fault("stall_midway", ("get",), rate=0.005),)),
    "answers to 50 % of the PUTs lost": Faults((Fault("lose_answer", ("put",), rate=0.5),)),
    "half of the listing's pages fail": Faults((Fault("internal_error", ("list",), rate=0.5),)),
    "half of the listing's pages come again": Faults((Fault("repeat_page", ("list",), rate=0.5),)),
}
NOT_OUTLIVED = {
    "503 for everything, from request 1,000 on": Faults((Fault("slow_down", after=1000),)),
    "the bucket is gone, from request 1,000 on": Faults((Fault("no_bucket", after=1000),)),
}


class Outcome(NamedTuple):
    """One job under one fault."""

    fault: str
    exit_code: int
    rerun_exit_code: int | None
    rows_kept: int
    """Durable when the job ended."""
    rows_lost: int
    rows_doubled: int
    rows_different: int
    """From those of an undisturbed job."""
    problems: int
    num_faults: int
    num_requests: int
    seconds: float
    lines: int
    """Of errors on stderr: one."""


def run_job(command: list[str], environment: dict[str, str]) -> tuple[int, float, int]:
    """Exit code, seconds, and the lines that name an error."""
    start = time.monotonic()
    job = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in job.stderr.splitlines() if line.startswith("imgcls:") or "ERROR" in line]
    for line in errors:
        print(line, file=sys.stderr)
    return job.returncode, time.monotonic() - start, len(errors)


def disturb(
    number: int,
    fault: str,
    faults: Faults,
    proxy: S3Proxy,
    environment: dict[str, str],
    model: Path,
    expected: dict[str, tuple[object, ...]],
    *,
    rerun: bool,
) -> Outcome:
    uri = f"s3://{_BUCKET}/store-{number}"
    command = imgcls(
        *("predict", f"s3://{_BUCKET}/in/", "-m", model, "-o", uri, "-s", f"unit_size={_UNIT_SIZE}", "-s", "grace_s=5")
    )
    proxy.set_faults(faults)
    exit_code, seconds, lines = run_job(command, environment)
    counts = proxy.counts()
    proxy.set_faults(Faults())
    store = open_store(open_directory(uri, StorageOptions(os.environ["AWS_ENDPOINT_URL"])))
    rows_kept = verify_store(store).num_rows
    rerun_exit_code = run_job(command, environment)[0] if rerun else None
    verified = verify_store(store)
    rows = rows_of(store)
    expected = expected or rows
    return Outcome(
        fault=fault,
        exit_code=exit_code,
        rerun_exit_code=rerun_exit_code,
        rows_kept=rows_kept,
        rows_lost=verified.num_missing + len(expected.keys() - rows.keys()),
        rows_doubled=verified.num_doubled,
        rows_different=sum(expected[name] != row for name, row in rows.items()),
        problems=verified.num_problems,
        num_faults=counts.num_faults,
        num_requests=counts.num_requests,
        seconds=round(seconds, 1),
        lines=lines,
    )


def tell(outcomes: Sequence[Outcome]) -> None:
    columns = ("fault", "faults", "requests", "s", "exit code", "kept", "rerun", "lost", "doubled", "different")
    rows = [
        (
            o.fault,
            f"{o.num_faults:,}",
            f"{o.num_requests:,} (x {o.num_requests / outcomes[0].num_requests:.2f})",
            f"{o.seconds:.0f}",
            f"{o.exit_code}",
            f"{o.rows_kept:,}",
            "-" if o.rerun_exit_code is None else f"{o.rerun_exit_code}",
            f"{o.rows_lost}",
            f"{o.rows_doubled}",
            f"{o.rows_different}",
        )
        for o in outcomes
    ]
    print_table(columns, rows, title="faults of the storage", console=Console(stderr=True, width=140))


def is_as_promised(outcome: Outcome, *, outlived: bool) -> bool:
    ended = outcome.exit_code == 0 if outlived else (outcome.exit_code == 3 and outcome.rerun_exit_code == 0)
    wrong = outcome.rows_lost or outcome.rows_doubled or outcome.rows_different or outcome.problems
    return ended and not wrong and outcome.lines == (0 if outlived else 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", "--count", type=int, default=3000, help="images per job [default: 3000]")
    count = parser.parse_args().count
    outcomes = []
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="if-", ignore_cleanup_errors=True)))
        server = stack.enter_context(s3_server(temporary / "s3"))
        proxy = stack.enter_context(s3_proxy(server.endpoint_url))
        environment = stack.enter_context(isolated_environment())
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        os.environ |= {**keys, "AWS_ENDPOINT_URL": server.endpoint_url}
        environment |= {**keys, "AWS_ENDPOINT_URL": proxy.endpoint_url, "RAY_AUTH_MODE": "disabled"}
        images, model = temporary / "images", temporary / "model"
        draw_small_images(images, count)
        make_small_model(model, seed=0)
        keep_conversion(model, next(images.iterdir()), environment)
        client = server.client()
        client.create_bucket(Bucket=_BUCKET)
        with ThreadPoolExecutor(8) as executor:
            list(
                executor.map(
                    lambda path: client.put_object(Bucket=_BUCKET, Key=f"in/{path.name}", Body=path.read_bytes()),
                    images.iterdir(),
                )
            )
        expected: dict[str, tuple[object, ...]] = {}
        store = f"s3://{_BUCKET}/store-0"
        for number, (fault, faults) in enumerate({**OUTLIVED, **NOT_OUTLIVED}.items()):
            outlived = fault in OUTLIVED
            outcome = disturb(number, fault, faults, proxy, environment, model, expected, rerun=not outlived)
            expected = expected or rows_of(open_store(open_directory(store, StorageOptions(server.endpoint_url))))
            outcomes.append(outcome)
            promised = is_as_promised(outcome, outlived=outlived)
            emit("faults", "as_promised", promised, "bool", images=count, **outcome._asdict())
    tell(outcomes)
    sys.exit(0 if all(is_as_promised(outcome, outlived=outcome.fault in OUTLIVED) for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
