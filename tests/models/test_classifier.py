"""One classifier: right rows, errors as values, neighbours untouched, whatever the batch."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls_ray.errors import ImageError, ImageErrorCode, ResourceError
from imgcls_ray.images.decoder import DecodeLimits, decode_image
from imgcls_ray.images.preprocess import preprocess_image
from imgcls_ray.models.classifier import (
    ImageClassifier,
    Prediction,
    StageSeconds,
    decode_model_input,
    top_k_scores,
)
from imgcls_ray.models.engines.load import EngineOutput, load_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.models.engines.engine import Computed
    from imgcls_ray.models.folder import ModelFolder


def jpegs(count: int) -> list[bytes]:
    contents = []
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
        contents.append(buffer.getvalue())
    return contents


def reference_logits(folder: ModelFolder, encoded: list[bytes]) -> np.ndarray:
    """The plain way: decode, resize, normalise by hand, network in float32. (N, num_classes)."""
    preprocess = folder.spec.preprocess
    pixels = np.stack([preprocess_image(decode_image(data), preprocess) for data in encoded])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    with torch.inference_mode():
        logits: np.ndarray = folder.load_network()((images - mean) / std).numpy()
    return logits


def load(folder: ModelFolder, **options: object) -> ImageClassifier:
    return ImageClassifier.load(folder, **{"batch_size": 4, "num_threads": 1, "top_k": 3, **options})  # type: ignore[arg-type]


def predictions(classifier: ImageClassifier, encoded: list[bytes]) -> list[Prediction]:
    results = list(classifier.classify_encoded(encoded))
    assert all(isinstance(result, Prediction) for result in results)
    return results  # type: ignore[return-value]


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_float32_engines_agree_with_the_plain_network(small_model: ModelFolder, engine: str) -> None:
    encoded = jpegs(9)
    expected = reference_logits(small_model, encoded)
    got = predictions(load(small_model, engine=engine, precision="fp32", logits=True), encoded)
    logits = np.stack([result.logits for result in got if result.logits is not None])
    assert np.abs(logits - expected).max() <= 1e-3 * np.abs(expected).max()
    assert [result.class_ids[0] for result in got] == list(expected.argmax(axis=1))


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_keeps_the_labels(small_model: ModelFolder, engine: str) -> None:
    encoded = jpegs(16)
    expected = reference_logits(small_model, encoded).argmax(axis=1)
    got = predictions(load(small_model, engine=engine, precision="bf16"), encoded)
    assert np.mean([result.class_ids[0] for result in got] == expected) >= 0.9


def test_the_test_model_tells_images_apart(small_model: ModelFolder) -> None:
    # Otherwise no test below could see a mixed-up row.
    assert len({int(i) for i in reference_logits(small_model, jpegs(32)).argmax(axis=1)}) >= 4


def test_a_failure_does_not_hold_what_it_is_of(small_model: ModelFolder) -> None:
    error = decode_model_input(b"\x89PNG\r\n\x1a\n" + bytes(100), small_model.spec.preprocess, DecodeLimits())
    assert isinstance(error, ImageError)
    assert error.code is ImageErrorCode.TRUNCATED
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_errors_come_out_in_place_and_neighbours_keep_their_exact_numbers(small_model: ModelFolder) -> None:
    good = jpegs(10)
    classifier = load(small_model)
    alone = predictions(classifier, good)
    mixed: list[bytes | ImageError] = []
    for i, data in enumerate(good):
        bad: list[bytes | ImageError] = [b"", data[:100], ImageError(ImageErrorCode.NOT_FOUND)]
        mixed += [bad[i % 3], data]
    results = list(classifier.classify_encoded(mixed))
    assert len(results) == 20
    codes = [result.code for result in results[0::2] if isinstance(result, ImageError)]
    assert codes[:3] == [ImageErrorCode.EMPTY, ImageErrorCode.TRUNCATED, ImageErrorCode.NOT_FOUND]
    for expected, got in zip(alone, results[1::2], strict=True):
        assert isinstance(got, Prediction)
        assert np.array_equal(got.class_ids, expected.class_ids)
        assert np.array_equal(got.scores, expected.scores)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_place_in_a_batch_does_not_matter(small_model: ModelFolder, engine: str) -> None:
    encoded = jpegs(11)
    classifier = load(small_model, engine=engine)
    forward = predictions(classifier, encoded)
    backward = predictions(classifier, encoded[::-1])[::-1]
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(forward, backward, strict=True))


def test_batch_sizes_agree(small_model: ModelFolder) -> None:
    encoded = jpegs(13)
    one, seven, many = (predictions(load(small_model, batch_size=size), encoded) for size in (1, 7, 64))
    for other in (seven, many):
        assert [a.class_ids[0] for a in one] == [b.class_ids[0] for b in other]
        assert max(np.abs(a.scores - b.scores).max() for a, b in zip(one, other, strict=True)) < 0.02


def test_results_come_as_soon_as_their_batch_is_full(small_model: ModelFolder) -> None:
    taken = []

    def source() -> Iterator[bytes]:
        for data in jpegs(12):
            taken.append(1)
            yield data

    next(load(small_model).classify_encoded(source()))
    assert len(taken) == 4


def test_size_is_of_the_upright_picture(small_model: ModelFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG", exif=exif)
    [result] = predictions(load(small_model), [buffer.getvalue()])
    assert (result.width, result.height) == (30, 40)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_embedding_is_what_the_head_reads(small_model: ModelFolder, engine: str) -> None:
    encoded = jpegs(5)
    got = predictions(load(small_model, engine=engine, precision="fp32", embedding=True, logits=True), encoded)
    state = small_model.load_network().state_dict()
    weight, bias = state["classifier.weight"].numpy(), state["classifier.bias"].numpy()
    for result in got:
        assert result.embedding is not None
        assert result.logits is not None
        assert np.allclose(result.embedding @ weight.T + bias, result.logits, rtol=1e-3, atol=1e-2)


def test_embedding_and_logits_come_only_if_asked_for(small_model: ModelFolder) -> None:
    [result] = predictions(load(small_model), jpegs(1))
    assert result.embedding is None
    assert result.logits is None


def test_an_output_that_is_not_a_number_costs_its_image_only(small_model: ModelFolder) -> None:
    class Broken:
        description = "broken"
        precision: Computed = "fp32"

        def __call__(self, pixels: np.ndarray) -> EngineOutput:
            logits = np.tile(np.arange(7, dtype=np.float32), (len(pixels), 1))
            logits[1, 3] = np.nan
            logits[2, 0] = np.inf
            return EngineOutput(logits, None)

        def beside(self) -> Broken:
            return self

    results = list(ImageClassifier(small_model, Broken(), 4, 3).classify_encoded(jpegs(4)))
    assert [isinstance(result, ImageError) and result.code.value for result in results] == [
        False,
        "non_finite_output",
        "non_finite_output",
        False,
    ]


def test_seconds_are_told_by_stage(small_model: ModelFolder) -> None:
    seconds = StageSeconds()
    list(load(small_model).classify_encoded(jpegs(4), seconds))
    assert seconds.decode > 0
    assert seconds.forward > 0


def test_top_k_is_sorted_and_ties_go_to_the_lower_id() -> None:
    logits = np.array([[1, 3, 3, -2, 3], [-5, -4, -3, -2, -1]], dtype=np.float32)
    class_ids, scores = top_k_scores(logits, 4)
    assert class_ids.tolist() == [[1, 2, 4, 0], [4, 3, 2, 1]]
    assert np.all(np.diff(scores, axis=1) <= 0)


def test_top_k_equals_a_full_sort() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 300)).round(1).astype(np.float32)
    class_ids, scores = top_k_scores(logits, 5)
    assert np.array_equal(class_ids, np.argsort(-logits, axis=1, kind="stable")[:, :5])
    assert np.allclose(scores, torch.from_numpy(logits).softmax(-1).topk(5).values.numpy(), atol=1e-6)


def test_more_labels_than_classes_are_all_classes(small_model: ModelFolder) -> None:
    [result] = predictions(load(small_model, top_k=100), jpegs(1))
    assert len(result.scores) == 7
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)


def test_a_device_that_is_not_there_is_refused(small_model: ModelFolder) -> None:
    with pytest.raises(
        ResourceError, match=r"device gpu:9: there is no GPU 9, this machine has . CUDA devices?; use cpu"
    ):
        load_engine(small_model, engine="torch", device="gpu:9")
    with pytest.raises(ResourceError, match="openvino runs on the CPU"):
        load_engine(small_model, engine="openvino", device="cuda")
    with pytest.raises(ResourceError, match="device 'toaster': must be cpu, gpu, gpu:0 or gpu:0,1"):
        load_engine(small_model, engine="torch", device="toaster")


def test_several_devices_share_a_batch_and_give_what_one_gives(
    small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = load_engine(small_model, engine="torch", precision="fp32", batch_size=5, embedding=True)
    # This machine may have no GPU: its CPU is the first and the second device.
    monkeypatch.setattr("imgcls_ray.models.engines.load.torch_devices", lambda _: ["cpu", "cpu"])
    two = load_engine(small_model, engine="torch", device="gpu:0,1", precision="fp32", batch_size=5, embedding=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    expected, found = one(pixels), two(pixels)
    assert found.logits.shape == expected.logits.shape
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert found.embedding is not None
    assert expected.embedding is not None
    np.testing.assert_allclose(found.embedding, expected.embedding, rtol=1e-4, atol=1e-4)


def test_the_converted_network_is_kept(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path))
    load_engine(small_model, num_threads=1)

    def convert_again(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(openvino, "convert_model", convert_again)
    load_engine(small_model, num_threads=1)
    assert [path.name for path in tmp_path.rglob("network.*")] != []
    assert not list((tmp_path / "openvino").glob(".*"))
