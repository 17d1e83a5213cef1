"""Where networks run, and on which engine."""

from __future__ import annotations

import re
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from imgcls_ray.config.base import StrictModel

AUTO = "auto"
EngineName = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "bf16", "fp32"]
Tta = Literal["none", "hflip"]


class Device(NamedTuple):
    """Where networks run."""

    is_gpu: bool
    ids: tuple[int, ...] = ()
    """Of the GPUs on this machine; none says nothing of which."""


def parse_device(text: str) -> Device:
    """Read ``cpu``, ``gpu`` or ``gpu:0,1`` (``cuda`` is ``gpu``).

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"cpu|(?:gpu|cuda)(?::([0-9]{1,4}(?:,[0-9]{1,4})*))?", text)
    if match is None:
        raise ValueError("must be cpu, gpu, gpu:0 or gpu:0,1")
    ids = tuple(int(number) for number in match[1].split(",")) if match[1] else ()
    if len(set(ids)) < len(ids):
        raise ValueError("must name a GPU once")
    return Device(is_gpu=text != "cpu", ids=ids)


class OnDevice(StrictModel):
    """The key ``device``, of every job that runs a network.

    ``auto`` is chosen when the command begins (``imgcls_ray.commands.device``); what has not been chosen runs on CPUs.
    """

    help_sections: ClassVar = {"device": "Device and engine"}

    device: str = Field(default=AUTO, examples=[AUTO, "cpu", "gpu", "gpu:0,1"])
    """Device that runs the network. ``auto``: GPUs if there are any and the work takes longer than starting them, else
    CPUs; ``gpu``: all GPUs of the machine or cluster; ``gpu:0,1``: these GPUs of this machine."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if device != AUTO:
            try:
                parse_device(device)
            except ValueError as error:
                raise ValueError(str(error).replace("must be ", f"must be {AUTO}, ")) from error
        return device

    @property
    def uses_gpus(self) -> bool:
        return self.device != AUTO and parse_device(self.device).is_gpu

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The GPUs of this machine to use, where they are named."""
        return parse_device(self.device).ids if self.device != AUTO else ()


class RunsNetwork(OnDevice):
    """The keys of every job that only classifies."""

    help_sections: ClassVar = {"engine": "Device and engine"}

    engine: EngineName = "auto"
    """Library that runs the network. ``auto``: OpenVINO on CPUs, torch on GPUs."""
    precision: Precision = "auto"
    """Number format that the network computes in. ``auto``: bf16 where the processor computes it natively, on a cluster
    that of every node; else fp32."""

    @model_validator(mode="after")
    def _gpus_need_torch(self) -> Self:
        if self.uses_gpus and self.engine == "openvino":
            raise ValueError("engine=openvino runs on CPUs; for GPUs give engine=torch or engine=auto")
        return self
