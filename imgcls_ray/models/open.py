"""Open whatever names a model: a folder, an address in a bucket, or a name whose weights are fetched."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError, UnknownModelError
from imgcls_ray.models.cache import cache_dir, private_folder, replace_folder
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.files import check_address
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

_HUB_PREFIXES = ("timm/", "hf-hub:timm/", "hf_hub:timm/")


def is_model_path(model: str) -> bool:
    """Whether a ``--model`` means a folder rather than a name."""
    return os.sep in model or os.path.exists(model)


def open_model(model: str, storage: StorageOptions = DEFAULT_STORAGE) -> ModelFolder:
    """Open a model folder, or the pretrained model of a name, which is fetched once and kept.

    Raises:
        InputError: the address is mistyped.
        ModelFolderError: the folder is unreadable or does not fit together.
        UnknownModelError: neither a folder nor a name; with the nearest names.
        WeightsError: the pretrained weights cannot be had.
        StorageError: the folder's storage cannot be read.
    """
    if not os.path.lexists(model):
        check_address(model)
    # A folder of this machine is what workers and most commands open: they do not wait for what other models need.
    if is_object(model):
        from imgcls_ray.models.remote import open_remote_folder

        return open_remote_folder(model, storage)
    if is_model_path(model):
        if model.startswith(_HUB_PREFIXES) and not os.path.exists(model):
            hub_name = model.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
            raise UnknownModelError(f"{model}: names of the Hugging Face hub are not read; give timm:{hub_name}")
        return open_model_folder(Path(model))
    from imgcls_ray.models.new import find_named_model, new_model_folder

    try:
        find_named_model(model)
    except UnknownModelError as error:
        raise UnknownModelError(str(error).replace("no model of", "no folder and no model of", 1)) from error
    kept = cache_dir() / "models" / model
    if kept.exists():
        with suppress(ModelFolderError):
            return open_model_folder(kept)
        logger.warning("%s: is damaged; it is created again", kept)
    private_folder(kept.parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=kept.parent) as temporary:
        partial = Path(temporary) / kept.name
        new_model_folder(model, partial)
        replace_folder(partial, kept, is_good=lambda: _is_model_folder(kept))
    return open_model_folder(kept)


def _is_model_folder(path: Path) -> bool:
    try:
        open_model_folder(path)
    except ModelFolderError:
        return False
    return True
