"""``create_model(...).predict(...)``: any input, lazily, in true batches, one result each."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import imgcls_ray
from imgcls_ray.errors import ModelFolderError, UnknownModelError
from imgcls_ray.models.api import Model, create_model

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
