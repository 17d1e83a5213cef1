"""What every worker is told that classifies, and what it makes of that."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import ImageClassifier, ModelInput
from imgcls_ray.models.engines.flipped import FlippedEngine
from imgcls_ray.models.open import open_model
from imgcls_ray.models.parallel import ParallelClassifier
from imgcls_ray.storage import FetchLimits
from imgcls_ray.workers.decoding import Decode, decode_in_child, decode_in_time
from imgcls_ray.workers.worker import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.config import Tta
    from imgcls_ray.errors import ImageError
    from imgcls_ray.images.crops import Crop
    from imgcls_ray.models.calibration import Calibration
    from imgcls_ray.models.classifier import StageSeconds
    from imgcls_ray.models.engines.load import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder

R = TypeVar("R")


@dataclass(frozen=True)
class ClassifierTask:
    """What every worker is told that classifies. Crosses process boundaries, so it holds plain values only."""

    model: str
    """Path or URI of the model folder."""
    fingerprint: str
    """What the folder must hold: a worker never labels with another model than was planned."""
    _: KW_ONLY
    top_k: int
    embedding: bool = False
    logits: bool = False
    engine: EngineName = "auto"
    precision: Precision = "auto"
    batch_size: int = 32
    tta: Tta = "none"
    decode_limits: DecodeLimits = field(default_factory=DecodeLimits)
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)

    @property
    def num_passes(self) -> int:
        """Of the network, for each image."""
        return 2 if self.tta == "hflip" else 1

    def open_model(self) -> ModelFolder:
        """The task's model folder.

        Raises:
            ModelFolderError: it is unreadable, or not the planned one any more.
        """
        folder = open_model(self.model, self.fetch_limits.storage)
        if folder.spec.fingerprint != self.fingerprint:
            raise ModelFolderError(f"{self.model}: was replaced while the run was starting; run the command again")
        return folder

    def load_classifier(
        self,
        folder: ModelFolder,
        *,
        device: str,
        num_threads: int,
        num_streams: int,
        calibration: Calibration | None = None,
    ) -> ImageClassifier:
        classifier = ImageClassifier.load(
            folder,
            engine=self.engine,
            device=device,
            precision=self.precision,
            batch_size=self.batch_size,
            num_threads=num_threads,
            num_streams=num_streams,
            top_k=self.top_k,
            embedding=self.embedding,
            logits=self.logits,
            limits=self.decode_limits,
            calibration=calibration,
        )
        return replace(classifier, engine=FlippedEngine(classifier.engine)) if self.tta == "hflip" else classifier


class ClassifierWork(Work[ModelInput, R]):
    """What every job with a classifier does with a block.

    Args:
        task: of the job.
        device: of the classifier; ``None`` where images are only decoded, for a classifier elsewhere.
        num_threads: of one forward pass, on a CPU.
        num_cores: forward passes at once, on a CPU.
        calibration: what the answers are judged by; by default the model folder's.
    """

    def __init__(
        self,
        task: ClassifierTask,
        device: str | None,
        num_threads: int,
        num_cores: int,
        calibration: Calibration | None = None,
    ) -> None:
        self.fetch_limits, self._decode_limits = task.fetch_limits, task.decode_limits
        folder = task.open_model()
        self._spec = folder.spec
        self._loaded: ImageClassifier | ParallelClassifier | None = None
        if device is not None:
            self._loaded = task.load_classifier(
                folder, device=device, num_threads=num_threads, num_streams=num_cores, calibration=calibration
            )
            if num_cores > 1:
                self._loaded = ParallelClassifier(self._loaded, num_cores)

    @property
    def _classifier(self) -> ImageClassifier | ParallelClassifier:
        assert self._loaded is not None
        return self._loaded

    def decode(
        self,
        encoded: Iterator[bytes | Crop | ImageError],
        decode: Decode,
        seconds: StageSeconds,
        *,
        careful: bool,
    ) -> Iterator[ModelInput | ImageError]:
        # The careful way has one child process: it decodes one image at a time.
        if isinstance(self._loaded, ParallelClassifier) and not careful:
            return self._loaded.decode_inputs(encoded, decode, seconds)
        return super().decode(encoded, decode, seconds, careful=careful)

    def decoder(self, *, careful: bool) -> AbstractContextManager[Decode]:
        if careful:
            return decode_in_child(self._spec.preprocess, self._decode_limits)
        return nullcontext(decode_in_time(self._spec.preprocess, self._decode_limits))
