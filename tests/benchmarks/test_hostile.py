"""The attacks of the benchmark are what they say, and what it counts is what happened."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from benchmarks.hostile_attacks import choose, make_attacks
from benchmarks.hostile_bodies import (
    HostileBody,
    base64_not_ascii,
    for_paddlex,
    form_of_huge_headers,
    form_of_tiny_parts,
    gzip_of_zeros,
    hostile_bodies,
    json_of_escapes,
    json_of_one_image,
    kserve_strings,
    make_kinds,
)
from benchmarks.hostile_connections import ConnectionAttack, Target, hold_connections
from benchmarks.hostile_images import (
    DEFLATE,
    HOSTILE_IMAGES,
    avif_larger_than_it_says,
    bmp_runs,
    deflated_zeros,
    gif_comments,
    gif_frames,
    gif_sub_blocks,
    gif_unknown_extensions,
    jpeg_scans,
    png,
    png_empty_chunks,
    tiff_giant_tile,
    tiff_planes,
    tiff_strips,
    tiff_tags,
    tiff_tiles,
    webp_chunks,
    webp_frames,
)
from benchmarks.hostile_outcome import Outcome, checks_of, columns, describe, row_of
from benchmarks.hostile_watch import (
    Answers,
    Request,
    Used,
    proportional_bytes,
    requests_of,
    summarise,
    used_memory,
    well_after,
)
from benchmarks.http_load import LoadResult
from benchmarks.http_load import Outcome as LoadOutcome
from imgcls_ray.images.sniff import ImageFormat, sniff_format

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent

# --- images -----------------------------------------------------------------------------------------------------------

SMALL_ONES: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "TIFF, strips": (lambda: tiff_strips(300), (1, 300)),
    "TIFF, compressed strips": (lambda: tiff_strips(300, DEFLATE), (1, 300)),
    "TIFF, tiles": (lambda: tiff_tiles(100, 40), (100, 40)),
    "TIFF, one tile": (lambda: tiff_tiles(10, 10, 64, deflated_zeros(64 * 64), DEFLATE), (10, 10)),
    "TIFF, tags": (lambda: tiff_tags(20, 300), (10, 10)),
    "TIFF, giant tile": (lambda: tiff_giant_tile(64), (10, 10)),
    "TIFF, planes": (lambda: tiff_planes(50), (50, 50)),
    "PNG, empty chunks": (lambda: png_empty_chunks(20), (8, 8)),
    "PNG, RGBA": (lambda: png(50, 30, colour_type=6), (50, 30)),
    "PNG, interlaced": (lambda: png(50, 31, colour_type=2, is_interlaced=True), (50, 31)),
    "PNG, interlaced, thin": (lambda: png(1, 9, colour_type=2, is_interlaced=True), (1, 9)),
    "GIF, comments": (lambda: gif_comments(20), (8, 8)),
    "GIF, sub-blocks": (lambda: gif_sub_blocks(20), (8, 8)),
    "GIF, unknown extensions": (lambda: gif_unknown_extensions(20), (8, 8)),
    "GIF, frames": (lambda: gif_frames(30, 5), (30, 30)),
    "BMP, runs": (lambda: bmp_runs(20, 10), (20, 10)),
    "WebP, chunks": (lambda: webp_chunks(20), (64, 64)),
    "WebP, frames": (lambda: webp_frames(30, 5), (30, 30)),
    "JPEG, scans": (lambda: jpeg_scans(40, 30), (40, 40)),
}
# Of the decoder's tests alone, or for a rule of the format.
_NO_ATTACKS = {"TIFF, compressed strips", "TIFF, one tile", "PNG, interlaced, thin"}


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("name", SMALL_ONES)
def test_an_image_of_its_kind_is_one_that_a_decoder_reads(name: str) -> None:
    make, size = SMALL_ONES[name]
    encoded = make()
    image_format = sniff_format(encoded)
    assert image_format is ImageFormat[name.partition(",")[0].upper()]
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.size) == (image_format.name, size)
        image.load()


def test_each_kind_of_image_is_among_the_attacks() -> None:
    tried = {*SMALL_ONES, "AVIF, larger than it says"} - _NO_ATTACKS
    for name in HOSTILE_IMAGES:
        assert any(name.startswith(kind) for kind in tried), f"{name} is tried by no test"
    for kind in tried:
        assert any(name.startswith(kind) for name in HOSTILE_IMAGES), f"{kind} is no attack"


def test_an_image_is_sent_as_what_it_is() -> None:
    for name, image in HOSTILE_IMAGES.items():
        assert image.content_type == f"image/{name.partition(',')[0].lower()}"


@pytest.mark.parametrize(("make", "count"), [(gif_frames, 5), (webp_frames, 5)])
def test_an_animation_has_its_frames(make: Callable[[int, int], bytes], count: int) -> None:
    with Image.open(io.BytesIO(make(30, count))) as image:
        assert getattr(image, "n_frames", 1) == count


def test_a_jpeg_has_its_scans() -> None:
    assert jpeg_scans(40, 30).count(b"\xff\xda") == 30


def test_the_avif_holds_more_than_its_container_says() -> None:
    encoded = avif_larger_than_it_says(200)
    assert sniff_format(encoded) is ImageFormat.AVIF
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.size == (64, 64)


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_text_in_base64_has_one_letter_that_is_not_ascii() -> None:
    [image] = json.loads(base64_not_ascii(1000))["images"]
    assert image["base64"] == 1000 * "A" + "é"


def test_the_shape_of_a_kserve_request_fits_its_empty_strings() -> None:
    [tensor] = json.loads(kserve_strings(50))["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([50], [""] * 50)


@pytest.mark.parametrize("make", [json_of_one_image, json_of_escapes])
def test_a_large_json_is_one_and_as_large_as_was_asked(make: Callable[[int], bytes]) -> None:
    body = make(5000)
    assert 4990 < len(body) <= 5000
    assert isinstance(json.loads(body), dict)


def test_forms_begin_and_end_as_forms() -> None:
    boundary = b"--imgcls-hostile-boundary"
    parts = form_of_tiny_parts(30)
    headers = form_of_huge_headers(1200)
    assert (parts.count(boundary), headers.count(boundary)) == (31, 2)
    assert parts.endswith(boundary + b"--\r\n")
    assert headers.endswith(boundary + b"--\r\n")
    assert 1200 <= len(headers) < 1500


def test_gzip_holds_so_many_zeros() -> None:
    assert gzip.decompress(gzip_of_zeros(100_000)) == bytes(100_000)


def test_an_image_for_paddlex_is_to_be_drawn_on() -> None:
    assert json.loads(for_paddlex(b"image")) == {"image": "aW1hZ2U=", "visualize": True}
    with pytest.raises(ValueError, match="too large in base64"):
        for_paddlex(bytes(26_000_000))


def test_every_attack_of_the_list_is_there() -> None:
    attacks = {body.attack for body in hostile_bodies("model")}
    assert set(HOSTILE_IMAGES) < attacks
    assert {"base64 that is not ASCII", "KServe, empty strings", "gzip", "JSON, nested", "JSON of 32 MB"} < attacks
    assert {body.path for body in hostile_bodies("model")} == {
        "/v1/classify",
        "/image-classification",
        "/v2/models/model/infer",
    }


def test_an_image_that_is_to_be_drawn_on_goes_where_that_is_done() -> None:
    paths = {body.path for body in hostile_bodies("model") if body.attack.startswith("PaddleX, visualize")}
    assert paths == {"/image-classification"}


def test_bodies_are_made_once_and_each_attack_has_one_turn_in_a_mix(tmp_path: Path) -> None:
    made: list[str] = []

    def maker(name: str) -> Callable[[], bytes]:
        def make() -> bytes:
            made.append(name)
            return name.encode()

        return make

    bodies = [
        HostileBody("two", maker("a"), "image/png", headers=("X: 1",)),
        HostileBody("two", maker("b"), "image/png"),
        HostileBody("one", maker("c"), "application/json", "/path"),
    ]
    first, second = (make_kinds(bodies, tmp_path, "the-key") for _ in range(2))
    assert first == second
    assert made == ["a", "b", "c"]
    assert [kind.weight for kind in first["two"]] == [0.5, 0.5]
    [one] = first["one"]
    assert one.name == "one"
    assert one.weight == 1
    assert one.content.startswith(b"POST /path HTTP/1.1\r\n")
    assert b"\r\nX-API-Key: the-key\r\n" in one.content
    assert one.content.endswith(b"\r\n\r\nc")
    assert b"\r\nX: 1\r\n" in first["two"][0].content


def test_attacks_are_chosen_by_words_in_their_names() -> None:
    names = ["TIFF, tiles", "TIFF, tags", "slow headers"]
    assert choose(names, []) == names
    assert choose(names, ["tags", "SLOW"]) == ["TIFF, tags", "slow headers"]
    with pytest.raises(SystemExit, match="--only psd: no such attack; there are: TIFF, tiles;"):
        choose(names, ["tags", "psd"])


def test_only_what_is_chosen_is_made(tmp_path: Path) -> None:
    [strips, headers] = make_attacks(["300 kB", "slow headers"], tmp_path, model="model", key="the-key")
    assert (strips.name, strips.connections) == ("TIFF, strips, 300 kB", ())
    [kind] = strips.kinds
    assert 300_000 < len(kind.content) < 301_000
    assert (headers.name, headers.kinds) == ("slow headers", ())
    [connections] = headers.connections
    assert connections.name == "slow headers"
    assert len(list(tmp_path.iterdir())) == 1


# --- connections ------------------------------------------------------------------------------------------------------


def hold(attack: ConnectionAttack, *, closes: bool = False) -> tuple[dict[str, int], list[tuple[str, bytes]]]:
    """What the attack counts against a small server, and who came to it with what."""
    came: list[tuple[str, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(len(attack.first))
        if not closes:
            first += await reader.read(100)
        came.append((writer.get_extra_info("peername")[0], first))
        writer.close()

    async def run() -> dict[str, int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        result = await hold_connections(attack, Target("127.0.0.1", port, "127.0.0.66"), 0.5)
        server.close()
        return result.counts

    return asyncio.run(run()), came


def test_slow_senders_come_from_their_own_address_and_send_on() -> None:
    counts, came = hold(ConnectionAttack("slow", 3, b"head", b"more", every_s=0.05))
    assert counts["opened"] == 3
    assert came == [("127.0.0.66", b"headmore")] * 3


def test_connections_that_the_server_closes_are_counted() -> None:
    counts, _ = hold(ConnectionAttack("readers", 4, b"head", every_s=0.05), closes=True)
    assert counts == {"opened": 4, "closed": 4}


def test_connections_that_cannot_be_made_are_counted() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = Target("127.0.0.1", probe.getsockname()[1], "127.0.0.66")
        result = asyncio.run(hold_connections(ConnectionAttack("slow", 2, b"head"), target, 0.2))
    assert result.counts == {"refused": 2}


# --- figures ----------------------------------------------------------------------------------------------------------


def asked(num: int, *, start: float = 100.0, every_s: float = 0.2, took_s: float = 0.01) -> list[Request]:
    return [Request(start + i * every_s, start + i * every_s + took_s, "200") for i in range(num)]


def test_answers_are_counted_by_their_status_and_only_those_due_in_the_time() -> None:
    requests = [*asked(50), Request(103.0, 103.1, "503"), Request(104.0, 139.0, "timeout")]
    answers = summarise([*requests, Request(99.0, 103.0, "500"), Request(111.0, 111.1, "400")], 100.0, 110.0)
    assert answers.counts == {"200": 50, "503": 1, "timeout": 1}
    assert answers.num_wrong == 2
    assert answers.p50_s == pytest.approx(0.01)
    assert answers.max_s == pytest.approx(35.0)


def test_requests_without_a_good_answer_count_in_the_latencies() -> None:
    requests = [*asked(98), *[Request(105.0, 125.0, "timeout")] * 2]
    assert summarise(requests, 100.0, 120.0).p99_s > 19


def test_the_silence_is_the_longest_time_without_a_good_answer() -> None:
    requests = [*asked(10), Request(102.5, 102.6, "503"), *asked(10, start=105.0)]
    # The last before it came at 101.81, the first after it at 105.01.
    assert summarise(requests, 100.0, 107.0).silence_s == pytest.approx(3.2)


def test_a_silence_at_the_beginning_and_one_beyond_the_end_count() -> None:
    assert summarise(asked(10, start=104.0), 100.0, 106.0).silence_s == pytest.approx(4.01)
    late = [*asked(10), Request(103.0, 120.0, "200"), Request(103.2, 138.2, "timeout")]
    assert summarise(late, 100.0, 105.0).silence_s == pytest.approx(120.0 - 101.81)
    never = [*asked(10), Request(103.0, 138.0, "timeout")]
    assert summarise(never, 100.0, 105.0).silence_s == pytest.approx(138.0 - 101.81)


def test_it_is_well_after_the_last_answer_that_was_bad_or_slow() -> None:
    assert well_after(asked(100), 105.0) == 0
    assert well_after([Request(103.0, 104.9, "200"), *asked(100)], 105.0) == 0
    assert well_after([Request(103.0, 107.5, "200"), *asked(100)], 105.0) == 2.5
    assert well_after([Request(108.0, 108.1, "503"), Request(103.0, 107.5, "200")], 105.0) == pytest.approx(3.1)


def test_of_nothing_asked_nothing_is_told() -> None:
    answers = summarise([], 100.0, 105.0)
    assert answers.counts == {}
    assert answers.silence_s == 5.0
    assert math.isnan(answers.p99_s)


def test_requests_have_the_moments_of_their_load() -> None:
    result = LoadResult(
        start=100.0,
        seconds=5.0,
        outcomes=[LoadOutcome("kept", "200"), LoadOutcome("kept", "503")],
        codes=np.array([0, 1], dtype=np.int16),
        ended=np.array([1.0, 2.0]),
        latencies=np.array([0.25, 0.5], dtype=np.float32),
        cpu_share=0.0,
        max_lag_s=0.0,
    )
    assert requests_of(result) == [(100.75, 101.0, "200"), (101.5, 102.0, "503")]


def test_the_memory_of_a_process_is_read() -> None:
    assert 1e6 < proportional_bytes(os.getpid()) < 1e11


def test_memory_is_that_of_all_and_of_the_largest_replica_with_what_it_started() -> None:
    sizes = {1: 100, 2: 10, 3: 20, 4: 1, 5: 2, 6: 4}
    # 2 and 3 are replicas; 2 started 4, which started 5; 6 is something else's.
    parents = {2: 1, 3: 1, 4: 2, 5: 4, 6: 1}
    assert used_memory(sizes, parents, {2, 3}) == Used(137, 20)
    assert used_memory({**sizes, 5: 30}, parents, {2, 3}) == Used(165, 41)
    assert used_memory(sizes, parents, set()) == Used(137, 0)


IDLE = Answers({"200": 200}, 0.008, 0.015, 0.02, 0.2)


def outcome(
    *,
    counts: dict[str, int] | None = None,
    p99_s: float = 0.03,
    lost: int | None = 0,
    replica_mb: int | None = 3000,
    is_well: bool = True,
) -> Outcome:
    answers = Answers({"200": 200} if counts is None else counts, 0.01, p99_s, 2 * p99_s, 0.3)
    usual = Used(2_000_000_000, 500_000_000)
    memory = None if replica_mb is None else (usual, Used(9_000_000_000, replica_mb * 1_000_000), usual)
    return Outcome(
        "attack", answers, IDLE, 0.5 if is_well else None, is_well, lost, memory, {"422": 100}, {"422": "why"}
    )


def broken(*outcomes: Outcome, max_bytes: float | None = 3.5e9) -> set[str]:
    return {name for name, is_kept in checks_of([outcome(), *outcomes], max_bytes).items() if not is_kept}


def test_all_promises_are_kept_where_nothing_happened() -> None:
    assert broken() == set()
    assert len(checks_of([outcome()], 3.5e9)) == 6


@pytest.mark.parametrize(
    ("bad", "promises"),
    [
        (outcome(counts={"200": 199, "503": 1}), {"the bystander got nothing but 200"}),
        (outcome(counts={}), {"the bystander got nothing but 200"}),
        (outcome(p99_s=0.08), {"its p99 is at most 5 times the idle one"}),
        (outcome(p99_s=1.1), {"its p99 is at most 5 times the idle one", "its p99 is never above 1 s"}),
        (
            outcome(p99_s=float("nan")),
            {"its p99 is at most 5 times the idle one", "its p99 is never above 1 s"},
        ),
        (outcome(lost=1), {"no replica was restarted"}),
        (outcome(replica_mb=3600), {"no replica took more than 3,500 MB"}),
        (outcome(is_well=False), {"the service got well again by itself"}),
    ],
    ids=["status", "no-answers", "ratio", "p99", "no-p99", "replica", "memory", "not-well"],
)
def test_one_attack_that_breaks_a_promise_breaks_it(bad: Outcome, promises: set[str]) -> None:
    assert broken(bad) == promises


def test_what_was_not_looked_at_is_not_told() -> None:
    assert not any("replica" in name for name in checks_of([outcome(lost=None, replica_mb=None)], 3.5e9))
    assert not any("MB" in name for name in checks_of([outcome()], None))


def test_a_row_has_what_another_run_found_in_brackets() -> None:
    line = json.loads(json.dumps(describe(outcome(counts={"200": 198, "503": 2}))))
    before = json.loads(json.dumps(describe(outcome(counts={"timeout": 200}, p99_s=35.0, is_well=False))))
    row = dict(zip(columns(), row_of(line), strict=True))
    assert (row["attack"], row["not 200"], row["p99, ms"], row["p99/idle"]) == ("attack", "2 x 503", "30", "2.0")
    assert (row["all, MB"], row["replica, MB"]) == ("9,000, 2,000", "3,000, 500")
    assert row["well after, s"] == "0.5"
    unseen = dict(zip(columns(), row_of(describe(outcome(lost=None, replica_mb=None))), strict=True))
    assert (unseen["all, MB"], unseen["replica, MB"], unseen["replicas lost"]) == ("?", "?", "?")
    both = dict(zip(columns(), row_of(line, before), strict=True))
    assert (both["not 200"], both["p99, ms"]) == ("2 x 503 (200 x timeout)", "30 (35000)")
    assert both["well after, s"] == "0.5 (never)"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_attack_on_a_real_service_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.hostile", "--only", "empty strings", "--only", "slow bodies"]
    options = ["--seconds", "3", "--idle-s", "3", "--memory-mb", "100000", "--bodies", str(tmp_path)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=390, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = {line["attack"]: line for line in lines if line["figure"] == "attack"}
    assert set(told) == {"KServe, empty strings", "slow bodies"}, done.stdout + done.stderr
    for line in told.values():
        assert sum(line["counts"].values()) > 20
        assert line["attacker"]
        before, most, _ = line["memory_mb"]
        assert 1e8 < 1e6 * before["replica"] < 1e6 * before["all"] <= 1e6 * most["all"]
    promises = {line["figure"]: line["value"] for line in lines if line["figure"] != "attack"}
    assert len(promises) == 6
    assert promises["no replica took more than 100,000 MB"] == 1
    assert done.returncode == int(not all(promises.values()))
