"""Label images from Python, without a cluster: ``create_model(...).predict(...)``.

Inputs are read, decoded and classified lazily, in true batches: a generator over a million paths holds two batches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImageError, ImageErrorCode, ImgclsError
from imgcls_ray.images.arrays import rgb_of
from imgcls_ray.images.decoder import DecodedImage, decode_scaled
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.preprocess import preprocess_image
from imgcls_ray.machine import available_cores
from imgcls_ray.models.classifier import ImageClassifier, ModelInput
from imgcls_ray.models.engines.load import check_engine, torch_devices
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.open import is_model_path, open_model
from imgcls_ray.models.results import Result
from imgcls_ray.models.sources import Limits, Source, image_error, sources_of, storage_image_error
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.storage import DEFAULT_STORAGE, FetchLimits
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import new_scratch_folder

if TYPE_CHECKING:
    import tempfile
    from collections.abc import Iterator

    import numpy as np

    from imgcls_ray.models.engines.load import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.storage.options import StorageOptions


class Model:
    """A model ready to label; made by ``create_model``. One thread at a time may predict."""

    def __init__(
        self,
        folder: ModelFolder,
        *,
        engine: EngineName,
        device: str,
        precision: Precision,
        decode_limits: DecodeLimits,
        fetch_limits: FetchLimits,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder = folder
        # The network is read from the folder when it is first needed: a folder made for this model lives as long.
        self._temporary = temporary
        self._load = functools.partial(
            ImageClassifier.load, folder, engine=engine, device=device, precision=precision, limits=decode_limits
        )
        self._limits = Limits(decode_limits, fetch_limits)
        self._classifier: ImageClassifier | None = None
        # Inputs without a name are numbered through the model's life: their saved results stay apart.
        self._numbers = itertools.count()

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return self.folder.spec.class_names

    def predict(self, inputs: Any, *, batch_size: int = 8, top_k: int = 5) -> Iterator[Result]:
        """Label images, lazily, one result each, in order; an input that cannot be read is a result with an error.

        Args:
            inputs: a path, folder (recursive), object or prefix of object storage, http(s) address, encoded bytes, open
                binary file, PIL image, array or torch tensor; or any iterable of these, mixed, which stands for its
                items: an empty one has no result. Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA,
                tensors (H, W) or (C, H, W); uint8, uint16 (65535 is white) or bool. One of four dimensions is a batch
                of such. Floats have no agreed white, and are an error of their item. Any other buffer, such as an
                ``array.array``, holds an encoded image. What has no name is called ``image_0`` and on. Images, arrays
                and buffers are copied when they are taken, one after the other, and may be used again for the next;
                paths, addresses and encoded bytes are read and decoded by several threads.
            batch_size: images per forward pass.
            top_k: labels per image, at most the number of classes.

        Raises:
            ValueError: batch_size or top_k is not positive.

        A folder or prefix that cannot be listed, and a storage that cannot be reached, are errors of their item; what
        else is in that storage is tried all the same, and may fail one by one.
        An exception of the iterable itself is raised after the results of all that it gave before; ``SystemExit``,
        ``KeyboardInterrupt`` and ``GeneratorExit`` pass through at once.
        """
        if batch_size < 1 or top_k < 1:
            raise ValueError(f"batch_size and top_k must be positive, got {batch_size} and {top_k}")
        return self._predict(sources_of(inputs, self._numbers, self._limits), batch_size, top_k)

    def _predict(self, sources: Iterator[Source], batch_size: int, top_k: int) -> Iterator[Result]:
        classifier = self._classifier_for(batch_size, top_k)
        executor = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        batches = self._submitted(sources, batch_size, executor)
        try:
            ahead = next(batches, None)
            while ahead is not None:
                batch, failure = ahead
                # The next batch is read and decoded while the engine works on this one.
                ahead = next(batches, None)
                decoded = [future.result() for _, future in batch]
                for (source, _), answer in zip(batch, classifier.classify_inputs(decoded), strict=True):
                    if isinstance(answer, ImageError):
                        yield Result(source.name, error=answer)
                        continue
                    yield Result(
                        source.name,
                        class_ids=tuple(int(i) for i in answer.class_ids),
                        label_names=tuple(self.class_names[i] for i in answer.class_ids),
                        scores=tuple(float(score) for score in answer.scores),
                        probability=answer.probability,
                        decision=answer.decision,
                        ood_score=answer.ood_score,
                        width=answer.width,
                        height=answer.height,
                        load_pixels=functools.partial(self._pixels, source),
                    )
                if failure is not None:
                    raise failure
        finally:
            # Whoever closes the generator early wants none of what is still in the queue.
            executor.shutdown(cancel_futures=True)

    def _submitted(
        self, sources: Iterator[Source], batch_size: int, executor: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Any], Exception | None]]:
        """Batches whose reading and decoding has begun; the last one with what the input raised behind it."""
        is_last = False
        while not is_last:
            batch: list[Any] = []
            failure = None
            try:
                for source in itertools.islice(sources, batch_size):
                    # One by one: what came before a failure counts.
                    batch.append((source, executor.submit(self._model_input, source)))  # noqa: PERF401
            except Exception as error:  # raised again behind the results of what came before
                failure = error
            is_last = failure is not None or len(batch) < batch_size
            if batch or failure is not None:
                yield batch, failure

    def _classifier_for(self, batch_size: int, top_k: int) -> ImageClassifier:
        if self._classifier is None or self._classifier.batch_size != batch_size:
            self._classifier = self._load(batch_size=batch_size, top_k=top_k)
        # One engine, but a batch and a top_k of its own for every call: generators of one model may take turns.
        return dataclasses.replace(self._classifier, top_k=top_k)

    def _model_input(self, source: Source) -> ModelInput | ImageError:
        try:
            decoded = self._decoded(source, self.folder.spec.preprocess.min_side)
        except ImageError as error:
            return error.as_value()
        except ImgclsError as error:
            return storage_image_error(error)
        # One input costs no more than its own result, whatever the libraries below raise.
        except Exception as error:
            return image_error(ImageErrorCode.FETCH_FAILED, error)
        model_input = preprocess_image(decoded.pixels, self.folder.spec.preprocess)
        return ModelInput(model_input, width=decoded.width, height=decoded.height)

    def _pixels(self, source: Source) -> np.ndarray:
        """The whole picture, for people to look at."""
        return self._decoded(source, min_side=None).pixels

    def _decoded(self, source: Source, min_side: int | None) -> DecodedImage:
        content = source.content
        if isinstance(content, ImageError):
            raise content
        if not isinstance(content, str | bytes):
            return DecodedImage(rgb_of(content, self._limits.decode))
        encoded = fetch_input(content, None, self._limits.fetch) if isinstance(content, str) else content
        return decode_scaled(encoded, self._limits.decode, min_side=min_side)


def create_model(
    model: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    pretrained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    engine: EngineName = "auto",
    device: str = "cpu",
    precision: Precision = "auto",
    max_image_bytes: int = DecodeLimits.max_bytes,
    max_image_pixels: int = DecodeLimits.max_pixels,
    allow_private_urls: bool = False,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> Model:
    """Open a model folder, or make a model of a name, ready to label images.

    Args:
        model: model folder (local or on object storage), a name of the zoo such as ``PP-LCNet_x1_0``, or one of timm's
            such as ``timm:convnext_tiny.fb_in1k``.
        num_classes: of a named model, if not as many as its weights have. A head of another class count is replaced by
            a random one, and a warning says so.
        pretrained: take timm's weights for a named model; otherwise random ones.
        weights: of a named model, instead of timm's: a model folder, or a ``.safetensors``, torch state-dict or
            PaddleClas ``.pdparams`` file.
        engine: ``auto`` takes OpenVINO on a CPU and torch on a GPU.
        device: ``cpu``; ``gpu`` for the first; ``gpu:0,1`` for these, among which every batch is shared out.
        precision: ``auto`` takes bf16 where the processor computes it natively.
        max_image_bytes: larger inputs are ``too_many_bytes``.
        max_image_pixels: larger pictures are ``too_many_pixels``.
        allow_private_urls: let addresses reach loopback, private and link-local hosts.
        storage: how to reach models and inputs on object storage.

    Raises:
        ModelFolderError: the folder is unreadable or does not fit together.
        UnknownModelError: neither a folder nor a name; with the nearest names.
        WeightsError: the weights cannot be had, or are of another network.
        ResourceError: there is no such device.
        ValueError: ``weights`` or ``num_classes`` for a model folder, which has its own.
    """
    torch_devices(device)
    path = os.fspath(model)
    made = None
    is_folder = is_object(path) or is_model_path(path)
    if is_folder and (weights is not None or num_classes is not None):
        raise ValueError(f"{path} is a model folder and has its own weights and classes; give a name to choose them")
    if is_folder or (pretrained and num_classes is None and weights is None):
        folder = open_model(path, storage)
    else:
        made = new_scratch_folder("model")
        folder = new_model_folder(
            path,
            Path(made.name) / path,
            num_classes=num_classes,
            weights=os.fspath(weights) if weights is not None else None,
            random_seed=None if pretrained or weights is not None else 0,
            storage=storage,
        )
    check_engine(folder, engine, device, embedding=False)
    return Model(
        folder,
        engine=engine,
        device=device,
        precision=precision,
        decode_limits=DecodeLimits(max_bytes=max_image_bytes, max_pixels=max_image_pixels),
        fetch_limits=FetchLimits(max_bytes=max_image_bytes, allow_private_urls=allow_private_urls, storage=storage),
        temporary=made,
    )
