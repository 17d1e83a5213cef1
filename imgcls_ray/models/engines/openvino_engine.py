"""Run a network with OpenVINO: the fastest CPU engine measured (see the benchmarks)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from imgcls_ray.models.engines.converted import converted_network
from imgcls_ray.models.engines.engine import EngineOutput, computed_by
from imgcls_ray.models.engines.openvino_core import compile_network, openvino_core
from imgcls_ray.models.exported import read_openvino_model

if TYPE_CHECKING:
    import numpy as np

    from imgcls_ray.models.engines.engine import Computed, Precision
    from imgcls_ray.models.folder import ModelFolder


class OpenVINOEngine:
    """One network on this machine's CPU: bf16 costs half of torch's."""

    def __init__(
        self,
        folder: ModelFolder,
        *,
        precision: Precision,
        batch_size: int | None,
        num_threads: int,
        num_streams: int,
        embedding: bool,
    ) -> None:
        import openvino as ov

        if folder.spec.exported is None:
            model = openvino_core().read_model(converted_network(folder, embedding=embedding))
        else:
            model = read_openvino_model(folder, openvino_core())
        self._compiled = compile_network(
            model,
            size=folder.spec.preprocess.crop_size,
            precision=precision,
            batch_size=batch_size,
            num_threads=num_threads,
            num_streams=num_streams,
        )
        # A processor that has no bf16 computes in fp32, also if bf16 was asked for.
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        self.precision: Computed = computed_by(folder, is_bf16=hint == ov.Type.bf16)
        self._request = self._compiled.create_infer_request()
        self._tensor = ov.Tensor
        self._embedding = embedding

    def beside(self) -> OpenVINOEngine:
        other = copy.copy(self)
        other._request = self._compiled.create_infer_request()
        return other

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        self._request.infer({0: self._tensor(pixels, shared_memory=True)})
        logits = self._request.get_output_tensor(0).data.copy()
        return EngineOutput(logits, self._request.get_output_tensor(1).data.copy() if self._embedding else None)
