"""One page for people about a checked dataset, complete in itself: no script, no other file, a few megabytes at most.

Every text of the dataset goes through ``visible``: none of it is markup, and what cannot be seen is written out.
"""

from __future__ import annotations

import base64
import html
import itertools
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from imgcls_ray.datasets.findings import FindingCode, Severity
from imgcls_ray.datasets.histogram import rank_classes
from imgcls_ray.datasets.page_style import STYLE
from imgcls_ray.datasets.pictures import pictured_findings, pictures_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.datasets.histogram import Histogram
    from imgcls_ray.datasets.pictures import DrawnSample, Thumbnail
    from imgcls_ray.datasets.result import CheckResult

MAX_ROWS = 50
"""Findings of one code."""
MAX_CLASS_ROWS = 2000
MAX_TEXT = 200
"""Characters of one text of the dataset; a longer one loses its middle."""

_OPEN_ROWS = 10  # of these, before one has to ask for more
_MAX_ROWS_CHARS = 60_000  # HTML of the findings of one code: text made to be escaped is ten times its length
_SAMPLES_PER_SPLIT = 5
_MAX_BARS = 12
_MAX_CHARACTERS = 8  # that no font has, named
_SIDES = (32, 64, 128, 224, 320, 480, 640, 1024, 2048, 4096)
_COLUMNS = ("where", "split", "class", "image", "detail")
# Also those that move or hide others: direction overrides, joiners, selectors, lone surrogates, line separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SPACES = frozenset(" \u3000")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_page(
    result: CheckResult,
    *,
    samples: Mapping[str, Sequence[DrawnSample]],
    thumbnails: Mapping[str, Thumbnail],
    histogram: Histogram,
) -> str:
    """Render the page as HTML; UTF-8 can hold all of it."""
    body = [
        _verdict(result),
        _splits(result),
        _findings(result, thumbnails),
        _samples(result, samples),
        _classes(result, histogram),
        _sizes_and_formats(result),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Dataset check: {'passed' if result.passed else 'failed'}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n"
    )


def visible(text: str, *, limit: int = MAX_TEXT) -> str:
    """HTML that shows ``text`` and does nothing else; characters without a shape appear as ``\\u202e``."""
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[-(limit // 3) :]}"
    runs = (
        f"<i>{''.join(map(_escaped, run))}</i>" if invisible else html.escape("".join(run), quote=True)
        for invisible, run in itertools.groupby(text, _is_invisible)
    )
    # bdi: text that runs from right to left must not turn round what stands beside it.
    return f"<bdi>{''.join(runs)}</bdi>"


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in _INVISIBLE or (category == "Zs" and character not in _SPACES)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _verdict(result: CheckResult) -> str:
    num_errors = _num_of(result, Severity.ERROR)
    num_warnings = _num_of(result, Severity.WARNING)
    kind, word = ("pass", "Check passed") if result.passed else ("fail", "Check failed")
    numbers = (
        f"{_count(num_errors, 'error')}, {_count(num_warnings, 'warning')} · "
        f"{_count(sum(result.num_images.values()), 'image')}, "
        f"{_count(sum(name is not None for name in result.class_names), 'class', 'classes')}"
    )
    return (
        f'<header class="{kind}"><h1>{word}</h1><p>{numbers}</p>'
        f'<p class="dataset">{visible(result.dataset, limit=1000)}</p></header>\n'
    )


def _num_of(result: CheckResult, severity: Severity) -> int:
    return sum(result.num_findings[code] for code in FindingCode if code.severity is severity)


def _splits(result: CheckResult) -> str:
    rows = []
    for split, num_images in result.num_images.items():
        counts = result.images_per_class.get(split, Counter())
        per_class = [counts[i] for i, name in enumerate(result.class_names) if name is not None]
        with_images = sum(count > 0 for count in per_class)
        rows.append(
            [
                split,
                f"{num_images:,}",
                f"{with_images:,} of {len(per_class):,}",
                f"{min(per_class, default=0):,}",
                f"{max(per_class, default=0):,}",
            ]
        )
    head = ["split", "images", "classes with images", "fewest of a class", "most of a class"]
    return f'<section id="splits"><h2>Splits</h2>{_table(head, rows, kind="numbers")}</section>\n'


def _findings(result: CheckResult, thumbnails: Mapping[str, Thumbnail]) -> str:
    found = [code for code in FindingCode if result.num_findings[code]]
    if not found:
        return '<section id="findings"><h2>Findings</h2><p>None.</p></section>\n'
    rows = [
        [
            f'<a href="#{code}">{code}</a>',
            f'<span class="{code.severity}">{code.severity}</span>',
            code.meaning,
            f"{result.num_findings[code]:,}",
        ]
        for code in found
    ]
    pictured = list(pictured_findings(result.findings))
    groups = [_group(result, code, [f for f in pictured if f.code is code], thumbnails) for code in found]
    return (
        f'<section id="findings"><h2>Findings</h2>{_table(["code", "severity", "meaning", "count"], rows)}'
        f"</section>\n{''.join(groups)}"
    )


def _group(
    result: CheckResult, code: FindingCode, pictured: Sequence[Finding], thumbnails: Mapping[str, Thumbnail]
) -> str:
    """All about one code."""
    listed = [finding for finding in result.findings if finding.code is code][:MAX_ROWS]
    cells = [_cells(finding, result.dataset) for finding in listed]
    # A column that says nothing takes the place of one that does, on a phone above all.
    used = [column for column in range(len(_COLUMNS)) if any(row[column] for row in cells)]
    head = [_COLUMNS[column] for column in used]
    rows = [[row[column] for column in used] for row in cells] if used else []
    lengths = itertools.accumulate(sum(map(len, row)) for row in rows)
    rows = [row for row, length in zip(rows, lengths, strict=True) if length <= _MAX_ROWS_CHARS]
    table = _table(head, rows[:_OPEN_ROWS], kind="stack") if rows else ""
    if folded := rows[_OPEN_ROWS:]:
        table += f"<details><summary>{len(folded)} more</summary>{_table(head, folded, kind='stack')}</details>"
    num_more = result.num_findings[code] - len(rows)
    more = f'<p class="note">and {num_more:,} more; findings.parquet has every one that was kept.</p>'
    figures = "".join(_figure(finding, thumbnails) for finding in pictured)
    pictures = f'<div class="pictures">{figures}</div>' if figures else ""
    return (
        f'<section id="{code}" class="group {code.severity}"><h3>{code} '
        f'<span class="{code.severity}">{_count(result.num_findings[code], str(code.severity))}</span></h3>'
        f"<p>{code.meaning[0].upper()}{code.meaning[1:]}.</p>{pictures}"
        f"{table}{more if rows and num_more > 0 else ''}</section>\n"
    )


def _cells(finding: Finding, dataset: str) -> list[str]:
    where = visible(finding.file) if finding.file else ""
    if finding.line is not None:
        where += f":{finding.line}"
    image = visible(finding.path or _inside(finding.uri, dataset)) if finding.path or finding.uri else ""
    if finding.other_uri:
        image += f'<br><span class="other">and</span> {visible(_inside(finding.other_uri, dataset))}'
    texts = (finding.split, finding.class_name)
    return [
        where,
        *(visible(text) if text else "" for text in texts),
        image,
        visible(finding.detail) if finding.detail else "",
    ]


def _inside(uri: str, dataset: str) -> str:
    return uri.removeprefix(dataset.rstrip("/") + "/")


def _figure(finding: Finding, thumbnails: Mapping[str, Thumbnail]) -> str:
    pictures = "".join(_picture(thumbnails[uri]) for uri in pictures_of(finding))
    caption = visible(finding.path or finding.uri, limit=60)
    if finding.detail:
        caption += f"<br>{visible(finding.detail, limit=60)}"
    return f'<figure><div class="pair">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _picture(thumbnail: Thumbnail) -> str:
    if thumbnail.error:
        return f'<div class="lost">{visible(thumbnail.error)}</div>'
    return f'<img alt="" src="{_data_uri("jpeg", thumbnail.jpeg)}">'


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _samples(result: CheckResult, samples: Mapping[str, Sequence[DrawnSample]]) -> str:
    parts = []
    for split, drawn in samples.items():
        figures = [
            f"<figure>{_picture(picture.thumbnail)}<figcaption><b>{visible(sample.class_name, limit=60)}</b><br>"
            f"{visible(sample.path, limit=60)}</figcaption></figure>"
            for picture, sample in zip(drawn[:_SAMPLES_PER_SPLIT], result.samples.get(split, ()), strict=False)
        ]
        if figures:
            parts.append(f'<h3>{split}</h3><div class="pictures">{"".join(figures)}</div>')
    if not parts:
        return ""
    return f'<section id="samples"><h2>Samples</h2>{"".join(parts)}</section>\n'


def _classes(result: CheckResult, histogram: Histogram) -> str:
    classes = rank_classes(result)
    # A phone shows a part of the picture rather than all of it too small to read; 16 to 20 is where PNG has its width.
    min_width = int.from_bytes(histogram.png[16:20]) * 55 // 100
    chart = (
        f'<img alt="Images per class and split" style="min-width:{min_width}px" '
        f'src="{_data_uri("png", histogram.png)}">'
    )
    note = ""
    if histogram.undrawn:
        note = (
            f'<p class="note">No installed font has {_characters(histogram.undrawn)}: pictures show '
            "<code>\\u4e2d</code> and the like instead. On Debian and its kin "
            "<code>apt install fonts-dejavu fonts-noto-cjk</code> brings fonts for most scripts.</p>"
        )
    rows = [
        [str(one.class_id), visible(one.label, limit=80), *(f"{count:,}" for count in one.counts)]
        for one in classes[:MAX_CLASS_ROWS]
    ]
    more = f'<p class="note">and {len(classes) - len(rows):,} more.</p>' if len(classes) > len(rows) else ""
    return (
        '<section id="classes"><h2>Images per class</h2>'
        f'<div class="chart">{chart}</div>{note}'
        f"<details><summary>{_count(len(classes), 'class', 'classes')} as a table</summary>"
        f"{_table(['id', 'class', *result.num_images], rows)}{more}</details></section>\n"
    )


def _characters(characters: str) -> str:
    # With their numbers: the reader's machine may have no font for them either.
    named = [f"{visible(character)} (U+{ord(character):04X})" for character in characters[:_MAX_CHARACTERS]]
    num_more = len(characters) - len(named)
    return ", ".join(named) + (f" and {num_more:,} more" if num_more else "")


def _sizes_and_formats(result: CheckResult) -> str:
    parts = []
    if result.sizes:
        sides: Counter[int] = Counter()
        for (width, height), count in result.sizes.items():
            sides[sum(min(width, height) >= side for side in _SIDES)] += count
        parts.append(
            "<h2>Sizes</h2><h3>Shorter side, pixels</h3>"
            + _bars([(_side_words(place), sides[place]) for place in range(len(_SIDES) + 1) if sides[place]])
            + "<h3>Most frequent sizes, rounded down to a multiple of 32</h3>"
            + _bars(_most_common(Counter({_size_words(size): count for size, count in result.sizes.items()})))
        )
    if result.formats:
        parts.append(f"<h2>Formats</h2>{_bars(_most_common(result.formats))}")
    return "".join(f"<section>{part}</section>\n" for part in parts)


def _size_words(size: tuple[int, int]) -> str:
    return " × ".join(str(side) if side else f"<{_SIDES[0]}" for side in size)


def _side_words(place: int) -> str:
    if place == 0:
        return f"below {_SIDES[0]}"
    return f"{_SIDES[place - 1]} to {_SIDES[place] - 1}" if place < len(_SIDES) else f"{_SIDES[-1]} and more"


def _most_common(counts: Counter[str]) -> list[tuple[str, int]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[_MAX_BARS:])
    return ranked[:_MAX_BARS] + ([("others", rest)] if rest else [])


def _bars(counts: Iterable[tuple[str, int]]) -> str:
    """Bars with the share of all at their ends."""
    counts = list(counts)
    most, total = max(count for _, count in counts), sum(count for _, count in counts)
    rows = "".join(
        f'<tr><th>{visible(name, limit=40)}</th><td><span style="width:{100 * count / most:.1f}%"></span></td>'
        f"<td>{count:,}</td><td>{100 * count / total:.1f}%</td></tr>"
        for name, count in counts
    )
    return f'<table class="bars">{rows}</table>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "plain") -> str:
    """A table of cells that are HTML already; ``kind`` is ``plain``, ``numbers`` or ``stack``."""
    names = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join(f"<tr>{_row(head, row)}</tr>\n" for row in rows)
    table = f'<table class="{kind}"><thead><tr>{names}</tr></thead><tbody>\n{lines}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _row(head: Sequence[str], cells: Sequence[str]) -> str:
    # On a phone the cells of a row stand below one another, each with its column's name.
    return "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(head, cells, strict=True))
