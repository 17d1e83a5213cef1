"""TIFFs of every layout that the format allows and a reader may meet."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.images.drawn import (
    GeneratedFile,
    Planes,
    Rng,
    choose,
    draw_orientation,
    draw_picture,
    pack_bits,
)

_TIFF_KINDS = (
    *[("grey", depth) for depth in (1, 2, 4, 8, 12, 16)],
    *[("inverted grey", depth) for depth in (1, 2, 4, 8, 16)],
    *[("palette", depth) for depth in (1, 2, 4, 8)],
    *[
        (kind, depth)
        for kind in ("grey alpha", "rgb", "rgb", "rgba", "rgba premultiplied", "rgb nir", "rgb nir x", "cmyk", "cmyk x")
        for depth in (8, 16)
    ],
    ("grey premultiplied", 8),
    *[("rgb", depth) for depth in (2, 4, 12)],
    ("float grey", 32),
    ("signed grey", 8),
    ("signed grey", 16),
    ("integer grey", 32),
)


# Photometric, colours, extra samples.
_TIFF_COLOURS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "grey": (1, 1, ()),
    "float grey": (1, 1, ()),
    "signed grey": (1, 1, ()),
    "integer grey": (1, 1, ()),
    "inverted grey": (0, 1, ()),
    "palette": (3, 1, ()),
    "grey alpha": (1, 1, (2,)),
    "grey premultiplied": (1, 1, (1,)),
    "rgb": (2, 3, ()),
    "rgba": (2, 3, (2,)),
    "rgba premultiplied": (2, 3, (1,)),
    "rgb nir": (2, 3, (0,)),
    "rgb nir x": (2, 3, (0, 0)),
    "cmyk": (5, 4, ()),
    "cmyk x": (5, 4, (0,)),
}


# What writers do beside the standard, and pages that come after the first one or under it.
_TIFF_QUIRKS = ("depth told once", "no byte counts", "one strip", "palette of 8 bits", "alpha untold", "more pages")


_TIFF_COMPRESSIONS = {"none": 1, "lzw": 5, "deflate": 8, "old deflate": 32946, "packbits": 32773, "zstd": 50000}


def draw_tiff(rng: Rng) -> GeneratedFile:
    """Written here, byte by byte, because no writer knows all of the layouts; read by tifffile."""
    kind, depth = choose(rng, *_TIFF_KINDS)
    photometric, num_colours, extra_samples = _TIFF_COLOURS[kind]
    num_samples = num_colours + len(extra_samples)
    white = (1 << depth) - 1 if depth <= 16 else 65535
    samples = draw_picture(rng, is_smooth=False, num_channels=num_samples, white=white)
    if kind.endswith("premultiplied"):
        samples[:, :, :-1] = samples[:, :, :-1].astype(np.uint32) * samples[:, :, -1:] // white
    layout = _TiffLayout(
        order=choose(rng, "<", ">"),
        is_big=bool(rng.integers(4) == 0),
        is_planar=num_samples > 1 and bool(rng.integers(2)),
        is_tiled=bool(rng.integers(2)),
        compression=choose(rng, *_TIFF_COMPRESSIONS),
        has_predictor=depth in (8, 16) and bool(rng.integers(2)),
        rows_per_strip=int(rng.integers(1, len(samples) + 1)),
        fill_order=choose(rng, 1, 1, 1, 2),
    )
    orientation = draw_orientation(rng)
    kind_of_tag, _ = choose(rng, (1, "B"), (3, "H"), (4, "I"))
    tags: dict[int, tuple[int, list[int]]] = {0x0112: (kind_of_tag, [orientation])}
    if extra_samples:
        tags[338] = (3, list(extra_samples))
    sample_format = {"float grey": 3, "signed grey": 2, "integer grey": 1}.get(kind, 1)
    if sample_format != 1 or rng.integers(2):
        tags[339] = (3, [sample_format] * num_samples)
    palette: np.ndarray = np.empty(0, np.int64)
    if kind == "palette":
        palette = rng.integers(0, 256, (white + 1, 3)) * 257
        tags[320] = (3, [int(value) for value in palette.T.ravel()])
    quirk = choose(rng, "", *_TIFF_QUIRKS)
    if quirk == "palette of 8 bits" and palette.size:
        tags[320] = (3, [value // 257 for value in tags[320][1]])
    elif quirk == "alpha untold" and kind == "rgba":
        del tags[338]
    data = _write_tiff(samples, depth, photometric, layout, tags, quirk)
    name = f"{kind} {depth}-bit {layout.describe()} {quirk}"
    if "float" in kind or "signed" in kind or "integer" in kind:
        # Without an agreed black and white there is no right picture: equal to nothing.
        planes = Planes(np.full((1, 1, 1), 7, np.uint8), 255, "grey")
        return GeneratedFile("TIFF", name, data, planes, orientation)
    if quirk != "no byte counts":  # which tifffile does not read
        assert np.array_equal(_tifffile(data, samples.shape, layout), samples), f"tifffile reads another TIFF {name}"
    if kind == "palette":
        return GeneratedFile("TIFF", name, data, Planes(palette[samples[:, :, 0]], 65535), orientation)
    meanings: dict[tuple[int, ...], Any] = {(1,): "premultiplied", (2,): "straight"}
    alpha = meanings.get(extra_samples, "none")
    colours: Any = {1: "grey", 3: "rgb", 4: "cmyk"}[num_colours]
    kept = samples if alpha != "none" else samples[:, :, :num_colours]
    return GeneratedFile("TIFF", name, data, Planes(kept, white, colours, alpha, photometric == 0), orientation)


class _TiffLayout(NamedTuple):
    order: str
    is_big: bool
    is_planar: bool
    is_tiled: bool
    compression: str
    has_predictor: bool
    rows_per_strip: int
    fill_order: int

    @property
    def predictor(self) -> int:
        return 2 if self.has_predictor and self.compression not in ("none", "packbits") else 1

    def describe(self) -> str:
        words = {
            "planar": self.is_planar,
            "tiled": self.is_tiled,
            "big": self.is_big,
            "predictor": self.predictor == 2,
            "fill order 2": self.fill_order == 2,
        }
        return " ".join([self.compression, self.order, *(word for word, is_so in words.items() if is_so)])


def _write_tiff(
    samples: np.ndarray,
    depth: int,
    photometric: int,
    layout: _TiffLayout,
    tags: dict[int, tuple[int, list[int]]],
    quirk: str,
) -> bytes:
    if quirk == "one strip":
        layout = layout._replace(is_tiled=False, rows_per_strip=len(samples))
    height, width, num_samples = samples.shape
    planes = [samples[:, :, [i]] for i in range(num_samples)] if layout.is_planar else [samples]
    blocks = []
    for plane in planes:
        if layout.is_tiled:
            padded = np.zeros((-(-height // 16) * 16, -(-width // 32) * 32, plane.shape[2]), plane.dtype)
            padded[:height, :width] = plane
            rows_of_tiles = [padded[y : y + 16] for y in range(0, len(padded), 16)]
            blocks += [row[:, x : x + 32] for row in rows_of_tiles for x in range(0, padded.shape[1], 32)]
        else:
            blocks += [plane[y : y + layout.rows_per_strip] for y in range(0, height, layout.rows_per_strip)]
    encoded = [_encode_block(block, depth, layout) for block in blocks]
    start = 16 if layout.is_big else 8
    offsets = [start + sum(map(len, encoded[:i])) for i in range(len(encoded))]
    all_tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [depth] * num_samples),
        259: (3, [_TIFF_COMPRESSIONS[layout.compression]]),
        262: (3, [photometric]),
        277: (3, [num_samples]),
        284: (3, [2 if layout.is_planar else 1]),
        317: (3, [layout.predictor]),
        **tags,
    }
    if layout.fill_order == 2:
        all_tags[266] = (3, [2])
    counts = [len(block) for block in encoded]
    if layout.is_tiled:
        all_tags |= {322: (3, [32]), 323: (3, [16]), 324: (4, offsets), 325: (4, counts)}
    else:
        all_tags |= {278: (4, [layout.rows_per_strip]), 273: (4, offsets), 279: (4, counts)}
    if quirk == "depth told once":
        all_tags[258] = (3, [depth])
    elif quirk == "one strip":
        del all_tags[278]
    elif quirk == "no byte counts" and layout.compression == "none":
        del all_tags[325 if layout.is_tiled else 279]
    return _assemble_tiff(b"".join(encoded), all_tags, layout, has_more_pages=quirk == "more pages")


def _assemble_tiff(
    body: bytes, tags: dict[int, tuple[int, list[int]]], layout: _TiffLayout, *, has_more_pages: bool
) -> bytes:
    """With more pages: a smaller one in a SubIFD, as in a pyramid, and another one behind the first."""
    order, word, word_bytes = layout.order, "Q" if layout.is_big else "I", 8 if layout.is_big else 4
    head = b"II" if order == "<" else b"MM"
    start = 16 if layout.is_big else 8
    next_ifd = 0
    if has_more_pages:
        # Grey of 1 x 1 pixel, which lies in the file's first byte.
        next_ifd = start + len(body) + len(body) % 2
        small_tags = {254: 1, 256: 1, 257: 1, 258: 8, 262: 1, 273: 0, 277: 1, 279: 1}
        entry = struct.Struct(f"{order}HH{word}{word}")
        small = b"".join(entry.pack(tag, 16 if layout.is_big else 4, 1, value) for tag, value in small_tags.items())
        small = struct.pack(order + ("Q" if layout.is_big else "H"), len(small_tags)) + small + bytes(word_bytes)
        body += b"\0" * (len(body) % 2) + small
        tags = {**tags, 330: (4, [next_ifd])}
    ifd = start + len(body) + len(body) % 2
    version = struct.pack(order + "HHH", 43, 8, 0) if layout.is_big else struct.pack(order + "H", 42)
    num_entries = struct.pack(order + ("Q" if layout.is_big else "H"), len(tags))
    values_at = ifd + len(num_entries) + len(tags) * (4 + 2 * word_bytes) + word_bytes
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *numbers)
        field = packed.ljust(word_bytes, b"\0")
        if len(packed) > word_bytes:
            field = struct.pack(order + word, values_at + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        entries += struct.pack(f"{order}HH{word}", tag, kind, len(numbers)) + field
    parts = [head, version, struct.pack(order + word, ifd), body, b"\0" * (len(body) % 2), num_entries, entries]
    return b"".join([*parts, struct.pack(order + word, next_ifd), values])


def _encode_block(block: np.ndarray, depth: int, layout: _TiffLayout) -> bytes:
    rows = block.reshape(len(block), -1)
    if layout.predictor == 2:
        wide = block.astype(np.int64)
        wide[:, 1:] -= block[:, :-1]
        rows = (wide & ((1 << depth) - 1)).reshape(len(block), -1)
    if depth in (8, 16, 32):
        raw = rows.astype(f"{layout.order}u{depth // 8}").tobytes()
    else:
        raw = pack_bits(rows.astype(np.uint16), depth).tobytes()
    encoded = _compress(raw, layout.compression, len(_pack_row_bytes(rows, depth)))
    if layout.fill_order == 2:
        encoded = np.packbits(np.unpackbits(np.frombuffer(encoded, np.uint8)), bitorder="little").tobytes()
    return encoded


def _pack_row_bytes(rows: np.ndarray, depth: int) -> bytes:
    return bytes(-(-rows.shape[1] * depth // 8))


def _compress(raw: bytes, compression: str, row_bytes: int) -> bytes:
    import imagecodecs

    match compression:
        case "none":
            return raw
        case "lzw":
            return bytes(imagecodecs.lzw_encode(raw))
        case "deflate" | "old deflate":
            return zlib.compress(raw)
        case "packbits":
            rows = [raw[at : at + row_bytes] for at in range(0, len(raw), row_bytes)]
            return b"".join(bytes(imagecodecs.packbits_encode(row)) for row in rows)
        case _:
            return bytes(imagecodecs.zstd_encode(raw))


def _tifffile(data: bytes, shape: tuple[int, ...], layout: _TiffLayout) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        samples = np.asarray(file.pages[0].asarray())
    if layout.is_planar and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    return samples.reshape(shape).astype(np.uint16)


def draw_tiff_of_jpeg(rng: Rng) -> GeneratedFile:
    """JPEG in TIFF, as tifffile writes it."""
    import tifffile

    kind = choose(rng, "grey", "rgb", "ycc")
    samples = draw_picture(rng, is_smooth=True, num_channels=1 if kind == "grey" else 3)
    is_planar = kind == "rgb" and bool(rng.integers(2))
    stored = np.moveaxis(samples, -1, 0) if is_planar else samples.squeeze()
    options: dict[str, Any] = {"tile": (16, 32)} if rng.integers(2) else {"rowsperstrip": 16}
    if kind == "ycc":
        options |= {"subsampling": choose(rng, (1, 1), (2, 1), (2, 2))}
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        stored,
        photometric={"grey": "minisblack", "rgb": "rgb", "ycc": "ycbcr"}[kind],
        planarconfig="separate" if is_planar else "contig" if kind != "grey" else None,
        compression="jpeg",
        compressionargs={"level": 95},
        byteorder=choose(rng, "<", ">"),
        bigtiff=bool(rng.integers(2)),
        metadata=None,
        **options,
    )
    data = file.getvalue()
    found = np.asarray(tifffile.imread(io.BytesIO(data)))
    found = np.moveaxis(found, 0, -1) if is_planar else found.reshape(samples.shape)
    planes = Planes(found, 255, "grey" if kind == "grey" else "rgb")
    return GeneratedFile("TIFF", f"jpeg {kind} {'planar' * is_planar} {options}", data, planes)


def draw_tiff_of_others(rng: Rng) -> GeneratedFile:
    """Colours and compressions that are rare: read rightly, or refused."""
    import tifffile

    kind = choose(rng, "rgb", "ycc", "cmyk", "lab", "two inks")
    num_channels = {"cmyk": 4, "two inks": 2}.get(kind, 3)
    compression = choose(
        rng, None, "lzw", "zlib", "lzma", "webp", "jpeg2000", "jpegxl", "png", "lerc", "jpeg", "jpegxr"
    )
    is_smooth = kind == "ycc" or compression in ("webp", "jpeg", "jpeg2000", "jpegxr")
    samples = draw_picture(rng, is_smooth=is_smooth, num_channels=num_channels)
    photometric = {"rgb": "rgb", "ycc": "ycbcr", "cmyk": "separated", "lab": "cielab", "two inks": "separated"}[kind]
    extra: dict[str, Any] = {"extrasamples": ()} if kind in ("cmyk", "two inks") else {}
    if kind == "two inks":
        extra["extratags"] = [(332, 3, 1, 2, False)]
    file = io.BytesIO()
    try:
        tifffile.imwrite(
            file,
            samples,
            photometric=photometric,
            compression=compression,
            planarconfig="contig",
            metadata=None,
            **extra,
        )
        found = np.asarray(tifffile.imread(io.BytesIO(file.getvalue()))).reshape(samples.shape)
    except (ValueError, RuntimeError, NotImplementedError, KeyError, AttributeError):
        return draw_tiff_of_fax(rng)  # what tifffile does not write
    name = f"{kind} {compression}"
    if kind in ("lab", "two inks"):
        planes = Planes(np.full((1, 1, 1), 7, np.uint8), 255, "grey")
    elif kind == "ycc" and compression != "jpeg":
        y, cb, cr = (found[:, :, i].astype(float) - (128 if i else 0) for i in range(3))
        rgb = np.dstack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
        planes = Planes(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))
    else:
        planes = Planes(found, colours="cmyk" if kind == "cmyk" else "rgb")
    return GeneratedFile("TIFF", name, file.getvalue(), planes)


def draw_tiff_of_fax(rng: Rng) -> GeneratedFile:
    """Black and white as scanners store it, by libtiff; the planes are those written."""
    samples = draw_picture(rng, is_smooth=False, num_channels=1, white=1)
    compression = choose(rng, "group3", "group4", "tiff_ccitt")
    orientation = draw_orientation(rng)
    file = io.BytesIO()
    image = Image.fromarray(samples[:, :, 0] * 255).convert("1")
    image.save(file, "TIFF", compression=compression, tiffinfo={0x0112: orientation})
    data = file.getvalue()
    return GeneratedFile("TIFF", compression, data, Planes(samples, 1, "grey"), orientation)
