"""Where networks run: ``cpu``, ``gpu`` or ``gpu:0,1``."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import field_validator

from imgcls_ray.config.base import StrictModel


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
    """The key ``device``, of every job that runs a network."""

    device: str = "cpu"
    """``cpu``; ``gpu`` for all GPUs of the machine or cluster; ``gpu:0,1`` for these of this machine."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        parse_device(device)
        return device

    @property
    def uses_gpus(self) -> bool:
        return parse_device(self.device).is_gpu

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The GPUs of this machine to use, where they are named."""
        return parse_device(self.device).ids
