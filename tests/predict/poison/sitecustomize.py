"""Makes images of two kinds poisonous, in every process that finds this folder in PYTHONPATH.

An image whose bytes hold ``POISON:CRASH`` ends the process that decodes it, as a fault in a decoder in C does; one that
holds ``POISON:LOOP`` keeps it for ever, and with it the interpreter's lock. Both stand behind the end of an otherwise
good picture. The product has no such hook: the functions that decode in workers are wrapped when their modules are
loaded.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_DECODING = {
    "imgcls_ray.models.classifier": "decode_model_input",
    "imgcls_ray.images.measure": "measure_image",
    "imgcls_ray.report.small_pictures": "decode_image",
}


def _poison(module: ModuleType) -> None:
    name = _DECODING[module.__name__]
    decode = getattr(module, name)

    def poisoned(data: Any, *args: Any) -> Any:
        content = data if isinstance(data, bytes) else data.picture.data
        if b"POISON:CRASH" in content:
            import ctypes

            ctypes.string_at(0)
        if b"POISON:LOOP" in content:
            import ctypes

            # Unlike CDLL, PyDLL does not give the interpreter's lock back: no thread of Python's can help.
            ctypes.PyDLL(None).sleep(3600)
        return decode(data, *args)

    setattr(module, name, poisoned)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _DECODING:
            return None
        # Or it would find itself.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _poison(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
