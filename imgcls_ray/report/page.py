"""One page for people about a checked dataset: one file, without scripts, a few megabytes at most.

``page.html`` is its template, ``page.css`` its style. The template escapes every text. Texts of the dataset also go
through ``visible``, which shows invisible characters as escapes.
"""

from __future__ import annotations

import base64
import itertools
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from imgcls_ray.datasets.findings import FindingCode, Severity
from imgcls_ray.report.histogram import rank_classes
from imgcls_ray.report.pictures import pictured_findings, pictures_of
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.datasets.check_result import CheckResult, Sample
    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.report.histogram import ClassCount, Histogram
    from imgcls_ray.report.pictures import DrawnSample, Thumbnail

MAX_ROWS = 50
"""Largest number of findings of one code."""
MAX_CLASS_ROWS = 2000
MAX_TEXT = 200
"""Largest number of characters of one text of the dataset; a longer text loses its middle."""

_OPEN_ROWS = 10  # of these, before one has to ask for more
_MAX_ROWS_CHARS = 60_000  # HTML of the findings of one code: text made to be escaped is ten times its length
_SAMPLES_PER_SPLIT = 5
_MAX_BARS = 12
_MAX_CHARACTERS = 8  # that no font has, named
_SIZE_STEP = 32  # of ``CheckResult.sizes``
_SIDES = (32, 64, 128, 224, 320, 480, 640, 1024, 2048, 4096)
# Also those that move or hide others: direction overrides, joiners, selectors, lone surrogates, line separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SPACES = frozenset(" \u3000")


def render_page(
    result: CheckResult,
    *,
    samples: Mapping[str, Sequence[DrawnSample]],
    thumbnails: Mapping[str, Thumbnail],
    histogram: Histogram,
) -> str:
    """Render the page as HTML without surrogates, so that it can be written as UTF-8."""
    sizes = _sizes(result)
    return render_template(
        "page.html",
        result=result,
        num_errors=_num_of(result, Severity.ERROR),
        num_warnings=_num_of(result, Severity.WARNING),
        num_images=sum(result.num_images.values()),
        num_classes=sum(name is not None for name in result.class_names),
        splits=[_split_row(result, split) for split in result.num_images],
        groups=_groups(result),
        open_rows=_OPEN_ROWS,
        pictures_of=pictures_of,
        thumbnails=thumbnails,
        samples=_samples(result, samples),
        histogram=histogram,
        # A phone shows a part of the picture rather than all of it too small to read; a PNG has its width at 16.
        min_width=int.from_bytes(histogram.png[16:20]) * 55 // 100,
        undrawn=_characters(histogram.undrawn),
        classes=[_class_row(one) for one in rank_classes(result)],
        max_classes=MAX_CLASS_ROWS,
        sides=_sides(result),
        sizes=_most_common(sizes),
        has_ranges=any("–" in size for size in sizes),
        size_step=_SIZE_STEP,
        formats=_most_common(result.formats),
    )


def render_template(name: str, **values: object) -> str:
    """Fill a template of this folder, as HTML without surrogates. Texts are escaped; see ``visible``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"visible": visible, "number": "{:,}".format, "counted": counted, "data_uri": _data_uri}
    return environment.get_template(name).render(values)


def as_markup(text: str) -> Markup:
    """Text of this package that is not escaped."""
    return Markup(text)


def visible(text: str, limit: int = MAX_TEXT) -> Markup:
    """HTML that shows ``text`` and does nothing else; invisible characters appear as ``\\u202e``."""
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[-(limit // 3) :]}"
    runs = (
        Markup("<i>{}</i>").format("".join(map(_escaped, run))) if invisible else escape("".join(run))
        for invisible, run in itertools.groupby(text, _is_invisible)
    )
    # bdi: text that runs from right to left must not turn round what stands beside it.
    return Markup("<bdi>{}</bdi>").format(Markup("").join(runs))


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in _INVISIBLE or (category == "Zs" and character not in _SPACES)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _num_of(result: CheckResult, severity: Severity) -> int:
    return sum(result.num_findings[code] for code in FindingCode if code.severity is severity)


def _split_row(result: CheckResult, split: str) -> list[str]:
    counts = result.images_per_class.get(split, Counter())
    per_class = [counts[i] for i, name in enumerate(result.class_names) if name is not None]
    with_images = sum(count > 0 for count in per_class)
    return [
        split,
        f"{result.num_images[split]:,}",
        f"{with_images:,} of {len(per_class):,}",
        f"{min(per_class, default=0):,}",
        f"{max(per_class, default=0):,}",
    ]


class _Group(NamedTuple):
    """The findings of one code."""

    code: FindingCode
    num_findings: int
    head: list[str]
    rows: list[list[str]]
    pictured: list[Finding]


def _groups(result: CheckResult) -> list[_Group]:
    pictured = list(pictured_findings(result.findings))
    return [
        _group(result, code, [finding for finding in pictured if finding.code is code])
        for code in FindingCode
        if result.num_findings[code]
    ]


def _group(result: CheckResult, code: FindingCode, pictured: list[Finding]) -> _Group:
    listed = [finding for finding in result.findings if finding.code is code][:MAX_ROWS]
    cells = [_cells(finding, result.dataset) for finding in listed]
    # A column that says nothing takes the place of one that does, on a phone above all.
    head = [name for name in ("where", "split", "class", "image", "detail") if any(row[name] for row in cells)]
    rows = [[row[name] for name in head] for row in cells] if head else []
    lengths = itertools.accumulate(sum(map(len, row)) for row in rows)
    rows = [row for row, length in zip(rows, lengths, strict=True) if length <= _MAX_ROWS_CHARS]
    return _Group(code, result.num_findings[code], head, rows, pictured)


def _cells(finding: Finding, dataset: str) -> dict[str, str]:
    image = _shown(finding.path or _inside(finding.uri, dataset))
    if finding.other_uri:
        image += Markup('<br><span class="other">and</span> ') + visible(_inside(finding.other_uri, dataset))
    return {
        "where": _shown(finding.file) + ("" if finding.line is None else f":{finding.line}"),
        "split": _shown(finding.split),
        "class": _shown(finding.class_name),
        "image": image,
        "detail": _shown(finding.detail),
    }


def _shown(text: str) -> Markup:
    return visible(text) if text else Markup("")


def _inside(uri: str, dataset: str) -> str:
    return uri.removeprefix(dataset.rstrip("/") + "/")


def _samples(
    result: CheckResult, samples: Mapping[str, Sequence[DrawnSample]]
) -> list[tuple[str, list[tuple[Thumbnail, Sample]]]]:
    pairs = {
        split: list(
            zip((one.thumbnail for one in drawn[:_SAMPLES_PER_SPLIT]), result.samples.get(split, ()), strict=False)
        )
        for split, drawn in samples.items()
    }
    return [(split, drawn) for split, drawn in pairs.items() if drawn]


def _characters(characters: str) -> Markup:
    # With their numbers: the reader's machine may have no font for them either.
    named = [Markup("{} (U+{:04X})").format(visible(one), ord(one)) for one in characters[:_MAX_CHARACTERS]]
    num_more = len(characters) - len(named)
    return Markup(", ").join(named) + (f" and {num_more:,} more" if num_more else "")


def _class_row(one: ClassCount) -> list[str]:
    return [str(one.class_id), visible(one.label, 80), *(f"{count:,}" for count in one.counts)]


def _sides(result: CheckResult) -> list[tuple[str, int]]:
    """Number of images by the range of their shorter side, in the order of the ranges."""
    sides: Counter[int] = Counter()
    for (width, height), count in result.sizes.items():
        sides[sum(min(width, height) >= side for side in _SIDES)] += count
    return [(_side_words(place), sides[place]) for place in sorted(sides)]


def _sizes(result: CheckResult) -> Counter[str]:
    """Number of images by size: exact where many have it, otherwise by ranges of both sides."""
    rest = result.sizes.copy()
    for (width, height), count in result.frequent_sizes.items():
        rest[width // _SIZE_STEP * _SIZE_STEP, height // _SIZE_STEP * _SIZE_STEP] -= count
    exact = {f"{width} × {height}": count for (width, height), count in result.frequent_sizes.items()}
    ranges = {" × ".join(map(_range, size)): count for size, count in (+rest).items()}
    return Counter(exact) + Counter(ranges)


def _range(side: int) -> str:
    return f"{side or 1}–{side + _SIZE_STEP - 1}"


def _side_words(place: int) -> str:
    if place == 0:
        return f"below {_SIDES[0]}"
    return f"{_SIDES[place - 1]} to {_SIDES[place] - 1}" if place < len(_SIDES) else f"{_SIDES[-1]} and more"


def _most_common(counts: Counter[str]) -> list[tuple[str, int]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[_MAX_BARS:])
    return ranked[:_MAX_BARS] + ([("others", rest)] if rest else [])
