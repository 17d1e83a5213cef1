"""What a training command can look at before it trains."""

from __future__ import annotations

from typing import ClassVar

from imgcls_ray.config.base import StrictModel


class LooksFirst(StrictModel):
    """Keys that make ``imgcls train`` look at a run, and end before it begins."""

    help_sections: ClassVar = {"preview": "Looking before training"}

    preview: bool = False
    """Do not train, but show what training would do: a sheet of augmented pictures with their labels
    (``preview.png`` in the output), all settings with where they come from, and time and memory, measured on a few
    steps."""
    lr_find: bool = False
    """Do not train, but draw a range test: the loss while the learning rate rises from almost nothing
    (``lr_find.png`` in the output)."""
    auto_batch: bool = False
    """Do not train, but find the largest batch that fits into memory."""

    @property
    def only_looks(self) -> bool:
        return self.preview or self.lr_find or self.auto_batch
