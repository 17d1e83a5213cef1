"""``create_model(...).predict(...)``: any input, lazily, in true batches, one result each."""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import io
import itertools
import json
import os
import re
import shutil
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import imgcls_ray
from imgcls_ray.errors import (
    ImageError,
    ImageErrorCode,
    InputError,
    ModelFolderError,
    StorageError,
    UnknownModelError,
)
from imgcls_ray.images import annotate
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.models import api, sources
from imgcls_ray.models.api import Model, create_model
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.results import Result
from imgcls_ray.storage.s3_failures import Failure, S3Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


@pytest.fixture
def model(small_model: ModelFolder) -> Model:
    return create_model(small_model.path)


def test_the_package_has_the_door() -> None:
    assert imgcls_ray.create_model is create_model


def test_every_kind_of_input_gives_the_same_label(
    model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    [path] = draw_images(1)
    png = tmp_path / "same.png"
    Image.open(path).save(png)  # lossless: the same pixels
    inputs: list[Any] = [
        path,
        str(path),
        f"file://{path}",
        path.read_bytes(),
        bytearray(path.read_bytes()),
        Image.open(path),
        np.array(Image.open(path)),
        png,
    ]
    results = list(model.predict(inputs, batch_size=3, top_k=2))
    assert [result.error for result in results] == [None] * len(inputs)
    assert len({(result.class_ids, result.scores) for result in results}) == 1
    assert len(results[0].scores) == 2


def test_a_folder_is_labelled_with_its_subfolders_sorted(
    model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    paths = [*draw_images(2, "all/b"), *draw_images(1, "all/a"), *draw_images(1, "all")]
    (tmp_path / "all" / "label.txt").write_text("0 ant\n")
    assert [r.input for r in model.predict(tmp_path / "all")] == sorted(map(str, paths))


def test_a_folder_that_cannot_be_listed_is_one_bad_result(
    model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "z"):
        draw_images(1, f"all/{name}")
    scandir, broken = os.scandir, f"{tmp_path}/all/b"

    def scan(path: Any = ".") -> Any:
        if str(path) == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    results = {r.input: r.error for r in model.predict(tmp_path / "all")}
    assert list(results) == [f"{tmp_path}/all/a/00000.jpg", broken, f"{tmp_path}/all/z/00000.jpg"]
    error = results[broken]
    assert error is not None
    assert (error.code, error.detail) == ("fetch_failed", "the folder cannot be listed: Input/output error")
    assert [e for e in results.values() if e] == [error]


def test_a_file_of_another_machine_is_one_bad_result(model: Model) -> None:
    [result] = model.predict("file://nas/photos")
    assert result.error is not None
    assert result.error.code == "unsupported_storage"


def test_iterables_nest_and_mix(model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = draw_images(4)
    nested = iter([paths[0], (path for path in paths[1:3]), [[paths[3].read_bytes()]], tmp_path / "images"])
    names = [result.input for result in model.predict(nested)]
    assert names == [*map(str, paths[:3]), "image_0", *map(str, paths)]


def test_an_open_file_is_one_picture(model: Model, draw_images: Callable[..., list[Path]]) -> None:
    [path] = draw_images(1)
    with path.open("rb") as file:
        results = list(model.predict([file, io.BytesIO(path.read_bytes())]))
    assert [result.error for result in results] == [None, None]
    assert results[0].input == str(path)


def test_generators_of_one_model_may_take_turns(model: Model, draw_images: Callable[..., list[Path]]) -> None:
    paths = draw_images(6)
    one = model.predict(paths, batch_size=2, top_k=1)
    five = model.predict(paths[::-1], batch_size=2, top_k=5)
    turns = list(zip(one, five, strict=True))
    assert [(len(a.scores), len(b.scores)) for a, b in turns] == [(1, 5)] * 6
    alone = [result.label for result in model.predict(paths, batch_size=2)]
    assert [a.label for a, _ in turns] == alone == [b.label for _, b in turns][::-1]


def test_saved_results_of_unnamed_inputs_stay_apart(model: Model, tmp_path: Path) -> None:
    for _ in range(2):
        for result in model.predict(np.zeros((20, 20, 3), np.uint8)):
            result.save_to_json(tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_result_is_short_to_look_at(model: Model) -> None:
    [result] = model.predict(np.zeros((500, 500, 3), np.uint8))
    assert len(repr(result)) < 1000
    assert "load_pixels" not in repr(result)


def test_a_single_picture_is_one_result(model: Model) -> None:
    assert len(list(model.predict(Image.new("RGB", (50, 50), "red")))) == 1
    assert len(list(model.predict(np.zeros((50, 60, 3), np.uint8)))) == 1


def test_a_bad_input_is_a_result_and_the_rest_goes_on(
    model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    [good] = draw_images(1)
    bad: list[Any] = [
        tmp_path / "missing.jpg",
        b"",
        b"GIF89a",
        np.zeros((3, 50, 50), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        42,
        None,
        "ftp://host/x.jpg",
        "http://127.0.0.1:9/x.jpg",
        Image.new("F", (5, 5)),
    ]
    results = list(model.predict([good, *itertools.chain.from_iterable((item, good) for item in bad)], batch_size=4))
    codes = [result.error.code.value if result.error else "ok" for result in results[1::2]]
    assert codes == [
        "not_found",
        "empty",
        codes[2],
        "unsupported_format",
        "unsupported_format",
        "unsupported_format",
        "unsupported_format",
        "unsupported_storage",
        "access_denied",
        "unsupported_format",
    ]
    assert codes[2] in ("truncated", "corrupt")
    assert len({(result.class_ids, result.scores) for result in results[0::2]}) == 1


def test_predicting_is_lazy_and_holds_two_batches(model: Model, draw_images: Callable[..., list[Path]]) -> None:
    [path] = draw_images(1)
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield path

    results = model.predict(endless(), batch_size=4)
    assert taken == []
    list(itertools.islice(results, 5))
    assert len(taken) <= 12


def test_batches_are_whatever_their_source(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls_ray.models.classifier import ImageClassifier

    sizes = []
    classify = ImageClassifier.classify_inputs

    def spy(self: ImageClassifier, inputs: Any, *args: Any) -> Any:
        sizes.append(len(inputs))
        return classify(self, inputs, *args)

    monkeypatch.setattr(ImageClassifier, "classify_inputs", spy)
    list(model.predict([np.full((40, 40, 3), i, np.uint8) for i in range(10)], batch_size=4))
    assert sizes == [4, 4, 2]


def test_batch_sizes_give_the_same_labels(model: Model, draw_images: Callable[..., list[Path]]) -> None:
    paths = draw_images(12)
    labels = {size: [r.label for r in model.predict(paths, batch_size=size)] for size in (1, 5, 12)}
    assert labels[1] == labels[5] == labels[12]


def test_exif_turns_a_pil_image_too(model: Model) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").crop((0, 0, 100, 256)).save(buffer, "JPEG", exif=exif)
    from_bytes, from_pil = model.predict([buffer.getvalue(), Image.open(buffer)])
    assert (from_pil.width, from_pil.height) == (from_bytes.width, from_bytes.height) == (256, 100)
    assert from_pil.scores == pytest.approx(from_bytes.scores, abs=1e-3)


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, channels), dtype=np.uint8)


def test_a_failing_iterable_raises_behind_the_results_of_what_it_gave(model: Model) -> None:
    def failing(count: int) -> Any:
        for seed in range(count):
            yield picture(seed)
        raise RuntimeError("my reader broke")

    for count in (0, 1, 8, 20):
        results: list[Result] = []
        with pytest.raises(RuntimeError, match="my reader broke"):
            results.extend(iter(model.predict(failing(count), batch_size=8)))
        assert len(results) == count
        assert all(result.error is None for result in results)


def test_a_consumer_that_stops_early_leaves_no_thread(model: Model) -> None:
    before = set(threading.enumerate())  # other tests of the session may have left theirs
    results = model.predict((picture(seed) for seed in range(40)), batch_size=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("decode")]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


RGB, GREY, RGBA = picture(), picture(1)[:, :, 0], picture(2, 4)
PNG = png_of(RGB)


@pytest.mark.parametrize(
    ("item", "same"),
    [
        (GREY, Image.fromarray(GREY)),
        (GREY[:, :, None], Image.fromarray(GREY)),
        (RGBA, Image.fromarray(RGBA)),
        (RGBA[:, :, 2:], Image.fromarray(np.ascontiguousarray(RGBA[:, :, 2:]))),
        (GREY > 100, Image.fromarray(GREY > 100)),
        (RGB.astype(np.uint16) * 257, RGB),
        (GREY.astype(np.uint16) * 200, Image.fromarray(GREY.astype(np.uint16) * 200)),
        (GREY.astype(">u2") * 257, GREY),
        (RGB[::-1, ::2], np.ascontiguousarray(RGB[::-1, ::2])),
        (as_tensor(RGB).permute(2, 0, 1), RGB),
        (as_tensor(RGB).permute(2, 0, 1).contiguous(), RGB),
        (as_tensor(GREY), GREY),
        (as_tensor(GREY)[None], GREY),
        (as_tensor(RGBA).permute(2, 0, 1), RGBA),
        (as_tensor(RGB.astype(np.uint16) * 257).permute(2, 0, 1), RGB),
        (as_tensor(GREY > 100), GREY > 100),
        (GREY.view(np.matrix), GREY),
        (array.array("B", PNG), PNG),
        ((ctypes.c_ubyte * len(PNG)).from_buffer_copy(PNG), PNG),
    ],
)
def test_arrays_and_tensors_are_labelled_as_the_same_picture(model: Model, item: Any, same: Any) -> None:
    first, second = model.predict([item, same])
    assert first.error is None
    assert (first.scores, first.class_ids) == (second.scores, second.class_ids)
    assert (first.width, first.height) == (second.width, second.height)


def test_a_model_that_decodes_at_a_fraction_tells_the_true_size(small_model: ModelFolder, tmp_path: Path) -> None:
    new_model_folder("PP-LCNet_x0_25", tmp_path / "scaled", weights=small_model.path, decode="scaled")
    pixels = np.random.default_rng(0).integers(0, 256, (720, 960, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    whole = decode_image(file.getvalue())
    full, scaled = (create_model(path) for path in (small_model.path, tmp_path / "scaled"))
    [expected], [of_pixels], [of_file] = (
        full.predict(file.getvalue()),
        scaled.predict(whole),
        scaled.predict(file.getvalue()),
    )
    assert (of_file.width, of_file.height) == (960, 720)
    assert of_pixels.scores == expected.scores
    assert of_file.scores != expected.scores
    assert of_file.load_pixels is not None
    assert of_file.load_pixels().shape == (720, 960, 3)


def test_one_of_four_dimensions_is_a_batch(model: Model) -> None:
    images = [picture(seed) for seed in range(3)]
    alone = [result.scores for result in model.predict(images)]
    assert [result.scores for result in model.predict(np.stack(images))] == alone
    assert [result.scores for result in model.predict(as_tensor(np.stack(images)).permute(0, 3, 1, 2))] == alone
    assert [result.scores for result in model.predict([np.stack(images), as_tensor(images[0]).movedim(2, 0)])] == [
        *alone,
        alone[0],
    ]


def test_an_array_of_paths_is_its_paths(model: Model, draw_images: Callable[..., list[Path]]) -> None:
    paths = [str(path) for path in draw_images(2)]
    for items in (np.array(paths), np.array([paths]).view(np.matrix), OtherArray(np.array(paths, object))):
        assert [result.input for result in model.predict(items)] == paths


def test_arrays_of_other_libraries_are_pictures_too(model: Model) -> None:
    images = np.stack([picture(seed) for seed in range(3)])
    alone = [result.scores for result in model.predict(list(images))]
    assert [result.scores for result in model.predict(OtherArray(images))] == alone
    assert [result.scores for result in model.predict(OtherArray(images[0]))] == alone[:1]


class Reader:
    """An open file of a stranger."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class OddPath:
    """A path that has none."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __fspath__(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Unreadable:
    """Does not even tell whether it is a file."""

    @property
    def read(self) -> Any:
        raise RuntimeError("no read")

    def __iter__(self) -> Any:
        return iter([RGB])


class OtherArray:
    """An array of another library."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def __array__(self, *_args: Any, **_options: Any) -> np.ndarray:
        return self._pixels

    def __iter__(self) -> Any:
        return (OtherArray(row) if isinstance(row, np.ndarray) else row for row in self._pixels)


class Hostile:
    """Looks like a Pillow image, and is none."""

    getexif = None

    @property
    def name(self) -> str:
        raise RuntimeError("no name")

    def convert(self) -> None: ...


def closed_file() -> Any:
    file = io.BytesIO(b"x")
    file.close()
    return file


def released_view() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize(
    ("item", "code", "words"),
    [
        (io.StringIO("/etc/hostname"), "unsupported_format", "open as text; open it with mode 'rb'"),
        (Reader("/etc/hostname"), "unsupported_format", "read() gives a str, not bytes"),
        (Reader(None), "unsupported_format", "read() gives a NoneType, not bytes"),
        (Reader(OSError(5, "Input/output error")), "fetch_failed", "Input/output error"),
        (Reader(KeyError("x")), "fetch_failed", "KeyError"),
        (Reader(b""), "empty", ""),
        (closed_file(), "fetch_failed", "closed file"),
        (released_view(), "fetch_failed", "released memoryview"),
        (Hostile(), "corrupt", ""),
        (GREY.astype(np.float32), "unsupported_format", "an array float32 (40, 50); expected uint8, uint16 or bool"),
        (RGB.astype(np.int32), "unsupported_format", "an array int32"),
        (np.uint8(3), "unsupported_format", "uint8"),
        (np.array(3, np.uint8), "unsupported_format", "an array uint8 ()"),
        (np.zeros((2, 2, 5), np.uint8), "unsupported_format", "(2, 2, 5)"),
        (np.zeros((1, 1, 2, 2, 3), np.uint8), "unsupported_format", "(1, 1, 2, 2, 3)"),
        (np.zeros((0, 5), np.uint8), "unsupported_format", "(0, 5)"),
        (torch.zeros(3, 8, 8), "unsupported_format", "an array float32"),
        (torch.zeros(3, 8, 8, requires_grad=True), "unsupported_format", "float32"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "unsupported_format", "a tensor bfloat16 (3, 8, 8)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "unsupported_format", "a tensor uint8 (8, 8, 3); expected"),
        (torch.tensor(3, dtype=torch.uint8), "unsupported_format", "a tensor uint8 ()"),
        (torch.empty(3, 8, 8, dtype=torch.uint8, device="meta"), "unsupported_format", "a tensor uint8 (3, 8, 8)"),
        (torch.zeros(3, 8, 8).to_sparse(), "unsupported_format", "a tensor float32 (3, 8, 8)"),
        ({"a": RGB}, "unsupported_format", "a dict"),
        (OddPath(RuntimeError("no path")), "unsupported_format", "a OddPath: RuntimeError: no path"),
        (OddPath(7), "unsupported_format", "a OddPath: TypeError"),
        (Unreadable(), "unsupported_format", "a Unreadable: RuntimeError: no read"),
        ("s3://", "not_found", "s3://: names no bucket; write s3://BUCKET/PREFIX"),
        (array.array("B", b"GIF89a" * 500), "truncated", ""),
        (array.array("f", [0.5] * 500), "unsupported_format", "it begins with"),
        (array.array("B"), "empty", ""),
        (GREY.astype(np.float32).view(np.matrix), "unsupported_format", "an array float32 (40, 50)"),
        (OtherArray(GREY.astype(np.float32)), "unsupported_format", "an array float32 (40, 50)"),
        (OtherArray(np.zeros(500, np.uint8)), "unsupported_format", "an array uint8 (500,)"),
        (Image.new("I", (5, 5)), "unsupported_format", ""),
        ("null\0.jpg", "not_found", ""),
        ("lone-\ud800.jpg", "not_found", ""),
    ],
)
def test_an_odd_item_is_its_own_error_and_the_batch_goes_on(model: Model, item: Any, code: str, words: str) -> None:
    before, odd, after = model.predict([RGB, item, RGB], batch_size=2)
    assert odd.error is not None
    assert odd.error.code.value == code
    assert words in str(odd.error)
    assert before.error is None
    assert before.scores == after.scores


def test_a_text_file_is_not_taken_for_a_path(model: Model, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("/etc/hostname")
    with (tmp_path / "names.txt").open() as file:
        [result] = model.predict(file)
    assert result.input == str(tmp_path / "names.txt")
    assert "open it with mode 'rb'" in str(result.error)


def test_a_buffer_that_is_used_again_keeps_its_images_apart(model: Model) -> None:
    def from_one_buffer() -> Any:
        buffer, view = np.zeros((40, 50, 3), np.uint8), torch.zeros(3, 40, 50, dtype=torch.uint8)
        for seed in range(6):
            buffer[:] = picture(seed)
            view[:] = as_tensor(picture(seed)).permute(2, 0, 1)
            yield buffer
            yield view

    expected = [result.scores for result in model.predict([picture(seed) for seed in range(6)])]
    found = [result.scores for result in model.predict(from_one_buffer(), batch_size=3)]
    assert found[::2] == found[1::2] == expected


def test_frames_of_one_image_object_are_its_frames(model: Model, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (200, 200, 3), np.uint8)) for i in range(5)]
    frames[0].save(tmp_path / "pages.tiff", save_all=True, append_images=frames[1:])
    expected = [result.scores for result in model.predict(frames)]
    for batch_size in (2, 8):
        pages = ImageSequence.Iterator(Image.open(tmp_path / "pages.tiff"))
        assert [result.scores for result in model.predict(pages, batch_size=batch_size)] == expected


def test_a_lazily_opened_image_may_come_several_times(model: Model) -> None:
    content = png_of(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8))
    [expected] = model.predict(content)
    image = Image.open(io.BytesIO(content))
    results = list(model.predict([image] * 8))
    assert [(result.scores, result.error) for result in results] == [(expected.scores, None)] * 8
    assert (image.mode, image.size, image.info) == ("RGB", (1000, 1000), {})


def test_an_image_that_is_painted_anew_keeps_its_pictures_apart(model: Model) -> None:
    def from_one_image() -> Any:
        image = Image.new("RGB", (50, 40))
        for seed in range(6):
            image.paste(Image.fromarray(picture(seed)))
            yield image

    expected = [result.scores for result in model.predict([picture(seed) for seed in range(6)])]
    assert [result.scores for result in model.predict(from_one_image(), batch_size=3)] == expected


def test_an_image_that_cannot_be_loaded_is_its_own_error(small_model: ModelFolder) -> None:
    cut = Image.open(io.BytesIO(png_of(picture(0))[:-3000]))
    large = Image.open(io.BytesIO(png_of(np.zeros((2000, 2000), np.uint8))))
    model = create_model(small_model.path, max_image_pixels=10_000)
    before, first, second, after = model.predict([RGB, cut, large, RGB])
    assert first.error is not None
    assert first.error.code.value == "truncated"
    assert second.error is not None
    assert second.error.code.value == "too_many_pixels"
    assert getattr(large, "_im", None) is None, "it was loaded before its size was looked at"
    assert before.scores == after.scores


def test_failed_results_do_not_keep_their_files(model: Model, tmp_path: Path) -> None:
    num_files, num_bytes = 30, 5 * 2**20
    for i in range(num_files):
        # No image, a JPEG without a picture, a PNG with damage.
        head = (b"JUNK", b"\xff\xd8\xff\xe0", PNG[:200])[i % 3]
        (tmp_path / f"{i:02}.jpg").write_bytes(head + bytes(num_bytes))
    list(model.predict(b"warm up"))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        results = list(model.predict(tmp_path, batch_size=4))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 2 * num_bytes
    assert len(results) == num_files
    for result in results:
        assert result.error is not None
        assert str(result.error) == f"{result.error.code.message} ({result.error.detail})"
        assert (result.error.__traceback__, result.error.__cause__, result.error.__context__) == (None, None, None)


HUGE = np.broadcast_to(np.uint8(7), (2**20, 2**20, 3))


@pytest.mark.parametrize(
    "item",
    [
        HUGE,
        HUGE[:, :, 0],
        np.broadcast_to(np.uint16(7), (2**20, 2**20)),
        torch.zeros(1, dtype=torch.uint8).expand(3, 2**20, 2**20),
        OtherArray(HUGE),
    ],
)
def test_what_has_too_many_pixels_is_not_copied(model: Model, item: Any) -> None:
    huge, after = model.predict([item, RGB])
    assert huge.error is not None
    assert huge.error.code.value == "too_many_pixels"
    assert after.error is None


def test_buffers_beyond_the_limit_on_bytes_are_not_copied(small_model: ModelFolder) -> None:
    model = create_model(small_model.path, max_image_bytes=1000)
    [result] = model.predict(memoryview(bytearray(1001)))
    assert result.error is not None
    assert (result.error.code.value, result.error.detail) == ("too_many_bytes", "1001 bytes, the limit is 1000")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure.STORAGE, "access_denied"), (Failure.DENIED, "access_denied"), (Failure.UNREACHABLE, "fetch_failed")],
)
@pytest.mark.parametrize("uri", ["s3://bucket/", "S3://bucket/a", "s3://bucket/a.jpg"])
@pytest.mark.parametrize("step", ["list_place", "fetch"])
def test_a_storage_that_fails_is_an_error_of_its_item(
    model: Model, monkeypatch: pytest.MonkeyPatch, uri: str, failure: Failure, code: str, step: str
) -> None:
    def fail(*_args: Any) -> Any:
        raise StorageError("S3: it fails; the way out") from S3Error(failure, "it fails")

    def nothing(*_args: Any) -> Any:
        return iter([sources.Source(uri, uri)])

    monkeypatch.setattr(sources, "_listed" if step == "fetch" else "list_place", nothing if step == "fetch" else fail)
    monkeypatch.setattr(api, "fetch_input", fail)
    [failed] = model.predict([uri])
    monkeypatch.undo()
    assert failed.input == uri
    assert failed.error is not None
    assert (failed.error.code.value, failed.error.detail) == (code, "S3: it fails; the way out")


def test_a_listing_that_breaks_off_ends_with_its_error(
    model: Model, monkeypatch: pytest.MonkeyPatch, draw_images: Callable[..., list[Path]]
) -> None:
    [path] = draw_images(1)

    def break_off(*_args: Any, **_options: Any) -> Any:
        raise InputError("it is gone")

    monkeypatch.setattr(sources, "list_folder", break_off)
    broken, after = model.predict([path.parent, path])
    assert (broken.input, after.error) == (str(path.parent), None)
    assert broken.error is not None
    assert broken.error.detail == "it is gone"


def test_a_list_that_holds_itself_is_a_mistake_of_the_caller(model: Model) -> None:
    items: list[Any] = []
    items.append(items)
    with pytest.raises(RecursionError):
        list(model.predict(items))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_passes_at_once(model: Model, kind: type[BaseException]) -> None:
    def ending() -> Any:
        yield RGB
        raise kind

    results = model.predict(ending())
    with pytest.raises(kind):
        next(results)


def test_too_many_pixels_are_too_many_in_an_array(small_model: ModelFolder) -> None:
    [result] = create_model(small_model.path, max_image_pixels=1000).predict(RGB)
    assert result.error is not None
    assert result.error.code.value == "too_many_pixels"


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"top_k": 0}, {"top_k": -1}])
def test_sizes_that_make_no_sense_are_refused_at_once(model: Model, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        model.predict([], **options)


def test_more_labels_than_classes_are_all_classes(model: Model) -> None:
    [result] = model.predict(np.zeros((50, 60, 3), np.uint8), top_k=10**9)
    assert len(result.scores) == 7


def test_a_zoo_name_without_pretraining_works_offline() -> None:
    model = create_model("PP-LCNet_x0_25", num_classes=3, pretrained=False)
    [result] = model.predict(np.zeros((50, 60, 3), np.uint8))
    assert sorted(result.label_names) == ["class_0", "class_1", "class_2"]


def test_a_wrong_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="did you mean PP-LCNet_x1_0"):
        create_model("PP-LCNet_1_0")
    with pytest.raises(ModelFolderError, match="no such model folder"):
        create_model(tmp_path / "none")


class TestResult:
    def test_print_shows_names_and_scores(
        self, model: Model, draw_images: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        [path] = draw_images(1)
        [result] = model.predict(path, top_k=2)
        result.print()
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == str(path)
        assert lines[1].split() == [f"{result.score:.4f}", result.label]

    def test_print_shows_the_error(self, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
        [result] = model.predict("/no/such.jpg")
        result.print()
        assert "not_found: there is no such file" in capsys.readouterr().out

    def test_json_has_paddlexs_keys(self, model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
        [path] = draw_images(1)
        [result] = model.predict(path, top_k=3)
        content = json.loads(result.save_to_json(tmp_path / "out" / "res.json").read_text())
        assert content["input_path"] == str(path)
        assert content["label_names"] == list(result.label_names)
        assert content["class_ids"] == list(result.class_ids)
        assert np.allclose(content["scores"], result.scores, atol=1e-5)

    def test_json_of_an_error_says_it(self, model: Model, tmp_path: Path) -> None:
        [result] = model.predict(b"")
        content = json.loads(result.save_to_json(tmp_path / "res.json").read_text())
        assert content["error"]["code"] == "empty"

    def test_same_names_of_two_folders_stay_apart(
        self, model: Model, draw_images: Callable[..., list[Path]], tmp_path: Path
    ) -> None:
        paths = [*draw_images(1, "a"), *draw_images(1, "b")]
        shutil.copy(paths[0], tmp_path / "a" / "00000.png")
        results = list(model.predict([*paths, tmp_path / "a" / "00000.png"]))
        out = tmp_path / "out"
        assert len({result.save_to_json(out) for result in results}) == 3
        assert len({result.save_to_img(out) for result in results}) == 3
        assert len(list(out.iterdir())) == 6

    @pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../b.jpg", "x\n.jpg", "." * 9, "é" * 300, "?q=1"])
    def test_no_input_name_leaves_the_folder(self, model: Model, tmp_path: Path, name: str) -> None:
        [result] = model.predict(f"{tmp_path}/none/{name}")
        saved = result.save_to_json(tmp_path / "out")
        assert saved.parent == tmp_path / "out"
        assert len(saved.name.encode()) < 255

    @pytest.mark.parametrize(
        ("name", "stem"),
        [("photo.jpg", "photo"), ("a.b.JPEG", "a.b"), ("v1.25", "v1.25"), ("scan", "scan"), (".png", "png")],
    )
    def test_a_file_is_called_as_its_input_with_one_extension(self, tmp_path: Path, name: str, stem: str) -> None:
        result = Result(f"folder/{name}", error=ImageError(ImageErrorCode.EMPTY))
        assert re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}\.jpg", result.save_to_img(tmp_path).name)
        assert re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}\.json", result.save_to_json(tmp_path).name)

    def test_classes_of_one_name_are_drawn_with_their_ids(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[str] = []
        monkeypatch.setattr(annotate, "annotate_image", lambda _pixels, lines: drawn.extend(lines))
        scores, names = (0.5, 0.25, 0.25), ("crane", "owl", "crane")
        Result("a", (134, 3, 517), names, scores, load_pixels=lambda: np.zeros((2, 2, 3), np.uint8)).draw()
        assert drawn == ["crane (id 134) 0.50", "owl 0.25", "crane (id 517) 0.25"]

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK", "I;16"])
    def test_any_picture_is_drawn(self, model: Model, tmp_path: Path, mode: str, suffix: str) -> None:
        picture = Image.new(mode, (30, 20)) if mode == "I;16" else Image.new("RGB", (30, 20), "red").convert(mode)
        [result] = model.predict(picture)
        with Image.open(result.save_to_img(tmp_path / f"drawn{suffix}")) as drawn:
            assert drawn.mode == "RGB"

    def test_a_failed_input_is_drawn_as_a_card(self, model: Model, tmp_path: Path) -> None:
        [result] = model.predict(b"no image")
        with Image.open(result.save_to_img(tmp_path)) as card:
            assert card.size[0] >= 240
