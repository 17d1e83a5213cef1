"""What is counted, for Prometheus: Ray collects it from every replica and shows it at its metrics port.

Everything here may be called from any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.serve.model import ServedModel

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
_SIZES = [1.0, 2, 4, 8, 16, 32, 64, 128]


class Metrics(Protocol):
    """What a replica tells of its work."""

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request is over."""

    def refused(self, num_requests: int) -> None:
        """So many requests were refused in the proxy, because there was no room."""

    def decoded(self, seconds: float) -> None:
        """An image was decoded, or refused by the decoder."""

    def classified(self, model: ServedModel, num_images: int, seconds: float, *, is_shadow: bool) -> None:
        """A batch went through an engine."""

    def image(self, model: ServedModel, role: str, status: str, label: str) -> None:
        """An image has its answer: ``ok`` and a label, or an error's code."""

    def compared(self, model: ServedModel, *, agrees: bool | None) -> None:
        """The shadow model labelled an image, or (None) had no time to."""

    def waiting(self, num_images: int, num_bytes: int) -> None:
        """What is in the replica now."""

    def stuck(self, num_threads: int) -> None:
        """So many decode threads do not come back from an image."""

    def loaded(self, fingerprints: Mapping[str, str], *, is_refused: bool) -> None:
        """Which models answer, by role, and whether the last change of them was refused."""


class NoMetrics:
    """Counts nothing: an application outside Ray."""

    def request(self, endpoint: str, status: int, seconds: float) -> None: ...

    def refused(self, num_requests: int) -> None: ...

    def decoded(self, seconds: float) -> None: ...

    def classified(self, model: ServedModel, num_images: int, seconds: float, *, is_shadow: bool) -> None: ...

    def image(self, model: ServedModel, role: str, status: str, label: str) -> None: ...

    def compared(self, model: ServedModel, *, agrees: bool | None) -> None: ...

    def waiting(self, num_images: int, num_bytes: int) -> None: ...

    def stuck(self, num_threads: int) -> None: ...

    def loaded(self, fingerprints: Mapping[str, str], *, is_refused: bool) -> None: ...


class RayMetrics:
    """Counts in Ray's metrics; a call costs some microseconds."""

    def __init__(self) -> None:
        from ray.serve import metrics

        # Ray's annotations take tuples of one tag only.
        counter: Any = metrics.Counter
        gauge: Any = metrics.Gauge
        histogram: Any = metrics.Histogram
        self._requests = counter(
            "imgcls_requests_total", description="Requests, by what came of them.", tag_keys=("endpoint", "status")
        )
        self._request_seconds = histogram(
            "imgcls_request_seconds",
            description="From a request's first byte to its answer.",
            boundaries=_SECONDS,
            tag_keys=("endpoint",),
        )
        self._images = counter(
            "imgcls_images_total",
            description="Images, by the model that was asked and what came of them.",
            tag_keys=("model", "role", "status"),
        )
        self._labels = counter(
            "imgcls_labels_total", description="Images, by the label they got.", tag_keys=("model", "role", "label")
        )
        self._decode_seconds = histogram(
            "imgcls_decode_seconds", description="Decoding and resizing one image.", boundaries=_SECONDS
        )
        self._forward_seconds = histogram(
            "imgcls_forward_seconds",
            description="One batch in the engine.",
            boundaries=_SECONDS,
            tag_keys=("model",),
        )
        self._batch_sizes = histogram(
            "imgcls_batch_images", description="Images of one batch.", boundaries=_SIZES, tag_keys=("model",)
        )
        self._shadow = counter(
            "imgcls_shadow_total",
            description="Images that the shadow model labelled too: the same, another label, or no time to.",
            tag_keys=("model", "outcome"),
        )
        self._waiting_images = gauge("imgcls_waiting_images", description="Images in the replica, waiting or in work.")
        self._waiting_bytes = gauge("imgcls_waiting_bytes", description="Bytes of requests in the replica.")
        self._stuck = gauge(
            "imgcls_stuck_threads", description="Decode threads that do not come back from an image, and were replaced."
        )
        self._loaded = gauge(
            "imgcls_model_loaded", description="1 for each model that answers.", tag_keys=("role", "fingerprint")
        )
        self._refused = gauge(
            "imgcls_model_refused", description="1 if the last change of models was refused, and the old ones serve on."
        )
        self._before: dict[str, str] = {}

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.inc(tags={"endpoint": endpoint, "status": str(status)})
        self._request_seconds.observe(seconds, tags={"endpoint": endpoint})

    def refused(self, num_requests: int) -> None:
        self._requests.inc(num_requests, tags={"endpoint": "door", "status": "503"})

    def decoded(self, seconds: float) -> None:
        self._decode_seconds.observe(seconds)

    def classified(self, model: ServedModel, num_images: int, seconds: float, *, is_shadow: bool) -> None:
        if is_shadow:
            return
        tags = {"model": model.fingerprint[:12]}
        self._forward_seconds.observe(seconds, tags=tags)
        self._batch_sizes.observe(num_images, tags=tags)

    def image(self, model: ServedModel, role: str, status: str, label: str) -> None:
        tags = {"model": model.fingerprint[:12], "role": role}
        self._images.inc(tags={**tags, "status": status})
        if label:
            self._labels.inc(tags={**tags, "label": label})

    def compared(self, model: ServedModel, *, agrees: bool | None) -> None:
        outcome = "dropped" if agrees is None else "same" if agrees else "other"
        self._shadow.inc(tags={"model": model.fingerprint[:12], "outcome": outcome})

    def waiting(self, num_images: int, num_bytes: int) -> None:
        self._waiting_images.set(num_images)
        self._waiting_bytes.set(num_bytes)

    def stuck(self, num_threads: int) -> None:
        self._stuck.set(num_threads)

    def loaded(self, fingerprints: Mapping[str, str], *, is_refused: bool) -> None:
        for role, fingerprint in self._before.items():
            self._loaded.set(0, tags={"role": role, "fingerprint": fingerprint[:12]})
        for role, fingerprint in fingerprints.items():
            self._loaded.set(1, tags={"role": role, "fingerprint": fingerprint[:12]})
        self._before = dict(fingerprints)
        self._refused.set(float(is_refused))
