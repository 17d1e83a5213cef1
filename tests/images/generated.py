"""Generate image files of every kind that a decoder may meet, each with the planes that another reader finds in it.

Formats, colours, depths, layouts, compressions and orientations are drawn at random from a seed. The other readers
share no code with Pillow's plugins: OpenCV, tifffile and imagecodecs. Where none reads a kind, the planes are those
that were written, without loss.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.images import bad_images as make
from tests.images.drawn import (
    GeneratedFile,
    Planes,
    Rng,
    choose,
    draw_orientation,
    draw_picture,
    encode_orientation,
    pack_bits,
    turn,
)
from tests.images.generated_tiffs import draw_tiff, draw_tiff_of_fax, draw_tiff_of_jpeg, draw_tiff_of_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def generate(num_files: int, seed: int) -> Iterator[GeneratedFile]:
    """As many files of each format, in turn; the same of one seed."""
    for index in range(num_files):
        rng = np.random.default_rng([seed, index])
        yield GENERATORS[index % len(GENERATORS)](rng)


def _cv2(data: bytes) -> np.ndarray:
    """OpenCV's samples as they are stored, in the order of their names: (H, W, C)."""
    import cv2

    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, "OpenCV does not read it"
    samples: np.ndarray = np.asarray(image).reshape(*image.shape[:2], -1)
    if samples.shape[2] >= 3:
        samples[:, :, :3] = samples[:, :, 2::-1].copy()
    return samples


def _jpeg(rng: Rng) -> GeneratedFile:
    import imagecodecs

    mode = choose(rng, "L", "RGB", "CMYK", "YCCK")
    pixels = draw_picture(rng, is_smooth=True, num_channels={"L": 1, "RGB": 3}.get(mode, 4))
    options: dict[str, Any] = {"quality": int(rng.integers(80, 98)), "progressive": bool(rng.integers(2))}
    options["subsampling"] = choose(rng, "4:4:4", "4:2:2", "4:2:0") if mode == "RGB" else "4:4:4"
    if mode == "RGB" and options["subsampling"] == "4:4:4":
        options["keep_rgb"] = bool(rng.integers(2))
    if rng.integers(2):
        options["restart_marker_rows"] = 1
    image = Image.fromarray(pixels.squeeze(), "CMYK" if len(mode) == 4 else mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    data = file.getvalue()
    if mode == "YCCK":
        data = make.overwrite(data, data.index(b"Adobe") + 11, b"\x02")
    marks = choose(rng, "", "marks removed", "sampled otherwise")
    if marks == "marks removed" and mode != "YCCK":
        data = _remove_segments(data, 0xE0, 0xEE)
    elif marks == "sampled otherwise" and mode == "L":
        data = make.set_luma_sampling(data, 0x22)  # of one component, so it means nothing
    orientation = draw_orientation(rng)
    blocks = [make.app1_exif(encode_orientation(rng, orientation))]
    layout = choose(rng, "plain", "xmp first", "empty block first", "second block", "fill bytes")
    if layout == "xmp first":
        blocks.insert(0, make.segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'))
    elif layout == "empty block first":
        blocks.insert(0, make.app1_exif(b"II*\0" + struct.pack("<IHI", 8, 0, 0)))
    elif layout == "second block":
        blocks.append(make.app1_exif(encode_orientation(rng, draw_orientation(rng))))
    elif layout == "fill bytes":
        blocks[0] = b"\xff\xff" + blocks[0]
    data = make.insert_segments(data, *blocks)
    samples = imagecodecs.jpeg8_decode(data)
    samples = samples.reshape(*samples.shape[:2], -1)
    # Four colours are stored as Adobe does: the largest value is no ink.
    samples = 255 - samples if samples.shape[2] == 4 else samples
    colours: Any = {1: "grey", 3: "rgb", 4: "cmyk"}[samples.shape[2]]
    name = f"{mode} {options['subsampling']} {'progressive ' * options['progressive']}{marks} {layout}"
    return GeneratedFile("JPEG", name, data, Planes(samples, 255, colours), orientation)


def _remove_segments(jpeg: bytes, *markers: int) -> bytes:
    position, kept = 2, jpeg[:2]
    while jpeg[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        kept += b"" if jpeg[position + 1] in markers else jpeg[position:end]
        position = end
    return kept + jpeg[position:]


_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def _png_rows(samples: np.ndarray, depth: int) -> bytes:
    """Rows of packed samples, each with a filter byte of 0."""
    if not samples.size:
        return b""
    rows = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(len(rows), -1)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        packed = pack_bits(rows, depth)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def _png(rng: Rng) -> GeneratedFile:
    kind, depth = choose(
        rng,
        *[("grey", depth) for depth in (1, 2, 4, 8, 16)],
        *[("palette", depth) for depth in (1, 2, 4, 8)],
        *[(kind, depth) for kind in ("rgb", "grey alpha", "rgba") for depth in (8, 16)],
    )
    num_channels = {"grey": 1, "palette": 1, "grey alpha": 2, "rgb": 3, "rgba": 4}[kind]
    white = (1 << depth) - 1
    samples = draw_picture(rng, is_smooth=False, num_channels=num_channels, white=white)
    chunks, extra = [], choose(rng, "", "transparency")
    is_interlaced = bool(rng.integers(2))
    if kind == "palette":
        palette = rng.integers(0, 256, (white + 1, 3), dtype=np.uint8)
        chunks.append(make.png_chunk(b"PLTE", palette.tobytes()))
        colours = palette[samples[:, :, 0]]
        planes = Planes(colours)
        if extra:
            alphas = rng.integers(0, 256, int(rng.integers(1, white + 2)), dtype=np.uint8)
            chunks.append(make.png_chunk(b"tRNS", alphas.tobytes()))
            all_alphas = np.concatenate([alphas, np.full(white + 1 - len(alphas), 255, np.uint8)])
            planes = Planes(np.dstack([colours, all_alphas[samples[:, :, 0]]]), alpha="straight")
    else:
        name: Any = "rgb" if kind.startswith("rgb") else "grey"
        planes = Planes(samples, white, name, "straight" if num_channels in (2, 4) else "none")
        if extra and num_channels in (1, 3):
            # A colour that is there, and the others that share its high bytes are not.
            key = samples[0, 0]
            chunks.append(make.png_chunk(b"tRNS", key.astype(">u2").tobytes()))
            is_key = (samples >> 8 == key >> 8 if depth == 16 and num_channels == 3 else samples == key).all(axis=2)
            opaque = np.where(is_key, 0, white).astype(samples.dtype)
            planes = Planes(np.dstack([samples, opaque]), white, name, "straight")
    orientation = draw_orientation(rng)
    exif = make.png_chunk(b"eXIf", encode_orientation(rng, orientation))
    layout = choose(rng, "first", "after the palette", "twice")
    chunks = [exif, *chunks] if layout == "first" else [*chunks, exif]
    if layout == "twice":
        chunks.append(make.png_chunk(b"eXIf", encode_orientation(rng, draw_orientation(rng))))
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if is_interlaced else [samples]
    colour_type = {"grey": 0, "rgb": 2, "palette": 3, "grey alpha": 4, "rgba": 6}[kind]
    size = samples.shape[1], samples.shape[0]
    rows = b"".join(_png_rows(part, depth) for part in passes)
    data = make.png(size, depth, colour_type, rows, *chunks, interlaced=is_interlaced)
    _check_png(data, planes, kind)
    name_of_kind = f"{kind} {depth}-bit {extra} {'interlaced' * is_interlaced}"
    return GeneratedFile("PNG", name_of_kind, data, planes, orientation)


def _check_png(data: bytes, planes: Planes, kind: str) -> None:
    """OpenCV finds the colours that were written; it leaves out some of what is transparent."""
    samples = _cv2(data)
    white = 65535 if samples.dtype == np.uint16 else 255
    colours = 3 if samples.shape[2] >= 3 else 1
    found = samples[:, :, :colours] / white
    written = planes.samples[:, :, :3] if planes.colours == "rgb" else planes.samples[:, :, :1]
    assert np.abs(found - written / planes.white).max() < 0.01, f"OpenCV reads another PNG {kind}"


def _gif(rng: Rng) -> GeneratedFile:
    samples = draw_picture(rng, is_smooth=False, num_channels=1, white=choose(rng, 1, 3, 15, 255))
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(samples[:, :, 0], "P")
    image.putpalette(palette.tobytes())
    options: dict[str, Any] = {"interlace": int(rng.integers(2))}
    is_transparent = bool(rng.integers(2))
    if is_transparent:
        options["transparency"] = int(samples[0, 0, 0])
    file = io.BytesIO()
    frames = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] * int(rng.integers(3))
    image.save(file, "GIF", save_all=bool(frames), append_images=frames, **options)
    data = file.getvalue()
    colours = palette[samples[:, :, 0]]
    found = _cv2(data)
    is_opaque = samples[:, :, 0] != samples[0, 0, 0] if is_transparent else np.ones(samples.shape[:2], bool)
    assert not (found[:, :, :3] != colours)[is_opaque].any(), "OpenCV reads another GIF"
    planes = Planes(np.dstack([colours, np.where(is_opaque, 255, 0).astype(np.uint8)]), alpha="straight")
    return GeneratedFile("GIF", f"{'transparent ' * is_transparent}{1 + len(frames)} frames", data, planes)


_BMP_MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "555": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "bgrx": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "rgbx": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "bgra": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "rgba": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "abgr": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "xbgr": (32, (0xFF000000, 0xFF0000, 0xFF00, 0)),
    "10-bit": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
}


def _bmp(rng: Rng) -> GeneratedFile:
    kind = choose(rng, "1", "4", "8", "16", "24", "32", "rle8", "rle4", *_BMP_MASKS)
    is_top_down = bool(rng.integers(2)) and not kind.startswith("rle")
    if kind in _BMP_MASKS:
        return _bmp_of_fields(rng, kind, is_top_down)
    bits = int(kind.removeprefix("rle"))
    if bits > 8:
        return _bmp_of_colours(rng, bits, is_top_down)
    samples = draw_picture(rng, is_smooth=False, num_channels=1, white=(1 << bits) - 1)[:, :, 0]
    is_grey = bool(rng.integers(2))
    num_colours = 1 << bits
    palette = rng.integers(0, 256, (num_colours, 3), dtype=np.uint8)
    if is_grey:
        palette = np.repeat(np.linspace(0, 255, num_colours).astype(np.uint8)[:, np.newaxis], 3, axis=1)
    stored = samples if is_top_down else samples[::-1]
    if kind.startswith("rle"):
        body = b"".join(_rle(row, bits) + b"\0\0" for row in stored) + b"\0\1"
    else:
        packed = stored if bits == 8 else pack_bits(stored, bits)
        body = b"".join(row.tobytes().ljust(-(-row.size // 4) * 4, b"\0") for row in packed)
    quirk = choose(rng, "", "fewer colours", "a gap", "OS/2", "V5")
    if quirk == "fewer colours":
        palette = palette[: int(samples.max()) + 1]
    table = np.column_stack([palette[:, ::-1], np.zeros(len(palette), np.uint8)]).tobytes()
    height = -samples.shape[0] if is_top_down else samples.shape[0]
    compression = {"rle8": 1, "rle4": 2}.get(kind, 0)
    data = make.bmp(samples.shape[1], height, bits, compression, body, table)
    if quirk == "OS/2" and compression == 0 and not is_top_down:
        data = _bmp_of_os2(samples.shape[1], height, bits, body, palette)
    elif quirk in ("a gap", "V5"):
        header = data[14:54] if quirk == "a gap" else struct.pack("<I", 124) + data[18:54] + bytes(84)
        head = header + table + bytes(6 * (quirk == "a gap"))
        data = data[:10] + struct.pack("<I", 14 + len(head)) + head + body
    planes = Planes(palette[samples])
    if compression == 0 and quirk != "OS/2":  # whose palette OpenCV reads wrongly
        assert np.array_equal(_cv2_rgb(data), planes.samples), f"OpenCV reads another BMP {kind} {quirk}"
    return GeneratedFile("BMP", f"{kind} {'grey ' * is_grey}{'top-down ' * is_top_down}{quirk}", data, planes)


def _bmp_of_os2(width: int, height: int, bits: int, body: bytes, palette: np.ndarray) -> bytes:
    start = 14 + 12 + 3 * len(palette)
    header = struct.pack("<IHHHH", 12, width, height, 1, bits) + palette[:, ::-1].tobytes()
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + body


def _cv2_rgb(data: bytes) -> np.ndarray:
    samples = _cv2(data)
    return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples[:, :, :3]


def _rle(row: np.ndarray, bits: int) -> bytes:
    """Runs, and every now and then some samples as they are."""
    encoded, at = b"", 0
    while at < len(row):
        if at % 3 == 0 and len(row) - at >= 4:
            part = row[at : at + 4]
            packed = part.tobytes() if bits == 8 else pack_bits(part[np.newaxis], 4).tobytes()
            encoded += bytes([0, 4]) + packed
            at += 4
        else:
            sample, run = int(row[at]), 1
            while at + run < len(row) and row[at + run] == sample:
                run += 1
            encoded += bytes([run, sample * 17 if bits == 4 else sample])
            at += run
    return encoded


def _bmp_of_colours(rng: Rng, bits: int, is_top_down: bool) -> GeneratedFile:
    num_bits = 5 if bits == 16 else 8
    samples = draw_picture(rng, is_smooth=False, num_channels=3, white=(1 << num_bits) - 1)
    if bits == 16:
        words = samples.astype(np.uint32)
        pixels = (words[:, :, 0] << 10 | words[:, :, 1] << 5 | words[:, :, 2]).astype("<u2")
        packed = pixels.view(np.uint8).reshape(len(samples), -1)
    else:
        fourth = rng.integers(0, 256, samples.shape[:2], dtype=np.uint8) * choose(rng, 0, 1)
        bgrx = np.dstack([samples[:, :, ::-1], fourth])[:, :, : bits // 8]
        packed = bgrx.reshape(len(samples), -1)
    stored = packed if is_top_down else packed[::-1]
    body = b"".join(row.tobytes().ljust(-(-row.size // 4) * 4, b"\0") for row in stored)
    height = -samples.shape[0] if is_top_down else samples.shape[0]
    data = make.bmp(samples.shape[1], height, bits, 0, body)
    header_bytes = choose(rng, 40, 40, 108, 124)
    if header_bytes > 40:
        head = struct.pack("<I", header_bytes) + data[18:54] + bytes(header_bytes - 40)
        data = data[:10] + struct.pack("<I", 14 + len(head)) + head + body
    return GeneratedFile(
        "BMP", f"{bits} header {header_bytes} {'top-down' * is_top_down}", data, Planes(samples, (1 << num_bits) - 1)
    )


def _bmp_of_fields(rng: Rng, kind: str, is_top_down: bool) -> GeneratedFile:
    bits, masks = _BMP_MASKS[kind]
    header_bytes = choose(rng, 40, 56, 108, 124)
    masks = (*masks[:3], 0) if header_bytes == 40 else masks
    shifts = [(mask & -mask).bit_length() - 1 if mask else 0 for mask in masks]
    whites = [mask >> shift for mask, shift in zip(masks, shifts, strict=True)]
    unit = draw_picture(rng, is_smooth=False, num_channels=4, white=65535) / 65535
    samples = np.rint(unit * whites).astype(np.uint32)
    alpha = choose(rng, "alpha", "nothing set")
    if alpha == "nothing set":
        samples[:, :, 3] = 0
    pixels = np.bitwise_or.reduce(samples << np.array(shifts, np.uint32), axis=2)
    stored = (pixels if is_top_down else pixels[::-1]).astype("<u2" if bits == 16 else "<u4")
    rows = stored.view(np.uint8).reshape(len(stored), -1)
    body = b"".join(row.tobytes().ljust(-(-row.size // 4) * 4, b"\0") for row in rows)
    height = -len(pixels) if is_top_down else len(pixels)
    header = struct.pack("<IiiHHIIiiII", header_bytes, pixels.shape[1], height, 1, bits, 3, len(body), 0, 0, 0, 0)
    fields = struct.pack("<4I", *masks)[: 12 if header_bytes == 40 else 16]
    header = (header + fields).ljust(header_bytes, b"\0")
    data = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body
    values = samples * (255 / np.maximum(whites, 1))
    if not masks[3] or not samples[:, :, 3].any():
        values[:, :, 3] = 255
    planes = Planes(np.rint(values).astype(np.uint8), alpha="straight")
    return GeneratedFile("BMP", f"fields {kind} header {header_bytes} {alpha}", data, planes)


def _webp(rng: Rng) -> GeneratedFile:
    import imagecodecs

    kind = choose(rng, "rgb", "rgba", "lossless rgb", "lossless rgba")
    is_lossless = kind.startswith("lossless")
    pixels = draw_picture(rng, is_smooth=not is_lossless, num_channels=4 if kind.endswith("a") else 3)
    orientation = draw_orientation(rng)
    block = encode_orientation(rng, orientation)
    block = choose(rng, b"", b"Exif\0\0") + block
    options = {"lossless": is_lossless, "exact": True, "quality": 90}
    data = make.encode(pixels, "WEBP", exif=block, **options)
    found = imagecodecs.webp_decode(data, hasalpha=kind.endswith("a"))
    if is_lossless and rng.integers(2):
        data = make.encode_frames([pixels, pixels[::-1].copy()], "WEBP", exif=block, **options)
        kind += " animated"
    planes = Planes(np.asarray(found), alpha="straight" if found.shape[2] == 4 else "none")
    return GeneratedFile("WEBP", kind, data, planes, orientation)


def _avif(rng: Rng) -> GeneratedFile:
    import imagecodecs

    kind = choose(rng, "rgb", "rgba", "rgb 10-bit", "rgb 12-bit", "grey")
    depth = {"rgb 10-bit": 10, "rgb 12-bit": 12}.get(kind, 8)
    num_channels = {"rgba": 4, "grey": 1}.get(kind, 3)
    pixels = draw_picture(rng, is_smooth=True, num_channels=num_channels, white=(1 << depth) - 1)
    orientation = 1
    if depth == 8 and rng.integers(2):
        orientation = draw_orientation(rng)
        image = Image.fromarray(pixels.squeeze())
        file = io.BytesIO()
        subsampling = choose(rng, "4:4:4", "4:2:2", "4:2:0")
        image.save(file, "AVIF", quality=90, speed=10, subsampling=subsampling, exif=make.exif(orientation))
        data = file.getvalue()
        kind += f" {subsampling}"
    else:
        lossless: dict[str, Any] = {"level": 95, "speed": 10, "bitspersample": depth}
        data = bytes(imagecodecs.avif_encode(pixels.squeeze(), **lossless))
    found = np.asarray(imagecodecs.avif_decode(data))
    found = found.reshape(*found.shape[:2], -1)
    white = (1 << depth) - 1
    if found.shape[:2] != pixels.shape[:2]:  # turned by its own reader
        found = _turn_back(found, orientation)
    alpha: Any = "straight" if found.shape[2] in (2, 4) else "none"
    colours: Any = "grey" if found.shape[2] < 3 else "rgb"
    return GeneratedFile("AVIF", kind, data, Planes(found, white, colours, alpha), orientation)


def _turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def _heif(rng: Rng) -> GeneratedFile:
    """Lossless, because nothing at hand reads it but the library that is tested; the planes are those written."""
    import pillow_heif

    kind = choose(rng, "rgb", "rgba", "grey", "rgb 10-bit", "rgb 12-bit", "tiles")
    depth = {"rgb 10-bit": 10, "rgb 12-bit": 12}.get(kind, 8)
    num_channels = {"rgba": 4, "grey": 1}.get(kind, 3)
    white = (1 << depth) - 1
    samples = draw_picture(rng, is_smooth=True, num_channels=num_channels, white=white)
    height, width = samples.shape[:2]
    options: dict[str, Any] = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    if num_channels == 1:
        options = {"quality": -1}
    if kind == "tiles":
        options["tile_size"] = 64
        samples = np.tile(samples, (4, 4, 1))[: 4 * height - 5, : 4 * width - 3]
        height, width = samples.shape[:2]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[num_channels]
    if depth > 8:
        stored, mode = samples << (16 - depth), mode + ";16"
    else:
        stored = samples
    image = pillow_heif.from_bytes(mode=mode, size=(width, height), data=np.ascontiguousarray(stored).tobytes())
    orientation = draw_orientation(rng)
    image.info["exif"] = b"Exif\0\0" + make.exif(orientation)
    file = io.BytesIO()
    if depth == 12:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = True
    try:
        image.save(file, **options)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    colours: Any = "grey" if num_channels == 1 else "rgb"
    planes = Planes(samples, white, colours, "straight" if num_channels == 4 else "none")
    return GeneratedFile("HEIF", kind, file.getvalue(), planes, orientation)


def _jxl(rng: Rng) -> GeneratedFile:
    """Lossless: the planes are those written."""
    import imagecodecs

    kind = choose(rng, "grey", "rgb", "grey alpha", "rgba")
    depth = choose(rng, 8, 8, 10, 12, 16)
    num_channels = {"grey": 1, "grey alpha": 2, "rgb": 3, "rgba": 4}[kind]
    white = (1 << depth) - 1
    samples = draw_picture(rng, is_smooth=False, num_channels=num_channels, white=white)
    is_contained = bool(rng.integers(2))
    data = imagecodecs.jpegxl_encode(
        samples[:, :, 0] if num_channels == 1 else samples,
        lossless=True,
        bitspersample=depth,
        usecontainer=is_contained or depth > 12,
    )
    colours: Any = "rgb" if num_channels > 2 else "grey"
    planes = Planes(samples, white, colours, "straight" if num_channels in (2, 4) else "none")
    return GeneratedFile("JXL", f"{kind} {depth}-bit {'container' * is_contained}", bytes(data), planes)


def _jxl_of_jpeg(rng: Rng) -> GeneratedFile:
    """A JPEG that was packed into JPEG XL, whose EXIF becomes the codestream's orientation."""
    import imagecodecs

    mode = choose(rng, "L", "RGB")
    pixels = draw_picture(rng, is_smooth=True, num_channels=1 if mode == "L" else 3)
    orientation = draw_orientation(rng)
    jpeg = make.insert_segments(
        make.jpeg(pixels.squeeze(), subsampling="4:4:4"), make.app1_exif(make.exif(orientation))
    )
    data = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=bool(rng.integers(2))))
    found = np.asarray(imagecodecs.jpeg8_decode(jpeg)).reshape(pixels.shape)
    return GeneratedFile(
        "JXL", f"of a JPEG {mode}", data, Planes(found, 255, "grey" if mode == "L" else "rgb"), orientation
    )


GENERATORS: tuple[Callable[[Rng], GeneratedFile], ...] = (
    *(
        _jpeg,
        _png,
        _gif,
        _bmp,
        draw_tiff,
        draw_tiff,
        draw_tiff,
        draw_tiff_of_jpeg,
        draw_tiff_of_others,
        draw_tiff_of_fax,
        _webp,
        _avif,
        _heif,
        _jxl,
    ),
    *(_png, _bmp, draw_tiff, draw_tiff, draw_tiff),
)
