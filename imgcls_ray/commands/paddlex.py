"""``imgcls run``: PaddleX's commands. Its keys are taken for ours, and our own commands do the work."""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.commands import check, evaluate, export, train
from imgcls_ray.commands.check import check_output
from imgcls_ray.commands.device import count_gpus
from imgcls_ray.commands.paddlex_keys import (
    DEFAULTS,
    NO_CONVERSION,
    OURS,
    TRAINED,
    Request,
    idle_keys,
    in_paddlex_words,
    read_request,
    same_keys,
    with_paddlex_options,
)
from imgcls_ray.commands.predict_files import label_files
from imgcls_ray.config import PredictConfig, make_config, parse_device, shown, shown_text
from imgcls_ray.errors import ConfigError, ImgclsError, MissingKeyError, UsageError, WeightsError
from imgcls_ray.json_files import write_failure
from imgcls_ray.models.spec import SPEC_FILE, WEIGHTS_FILE
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.workers.ray_cluster import is_cluster_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.config import Plain, Values
    from imgcls_ray.storage import Directory

logger = logging.getLogger(__name__)


def run(config: str, overrides: Sequence[str]) -> None:
    """Do what PaddleX would do with this file and these overrides.

    Args:
        config: PaddleX's YAML file, or a path that is named like a network, for the defaults.
        overrides: ``Global.mode=train`` and so on; they win over the file.

    Raises:
        ConfigError: a key or value that PaddleX's image classification does not know.
    """
    request = read_request(config, overrides)
    mode = request.text("Global.mode") or ""
    if mode not in OURS:
        raise ConfigError(
            f"Global.mode: must be one of {', '.join(OURS)}, got {shown(mode)}; e.g. -o Global.mode=train"
        )
    output = (request.text("Global.output") or "output").rstrip("/") or "/"
    check_output(output, DEFAULT_STORAGE)
    with _failure_written(output, mode):
        request.idle.extend(idle_keys(request, mode))
        ours = _TAKE[mode](request, {**same_keys(request, mode), "output": output})
        if request.idle:
            logger.warning("without effect: %s", "; ".join(request.idle))
        try:
            _do(mode, ours)
        except MissingKeyError as error:
            key = in_paddlex_words(error.key, mode)
            raise ConfigError(
                f"{key} is missing; give -o {key}=VALUE, or set it in {config}. {error.meaning}"
            ) from error
        except ConfigError as error:
            raise ConfigError(in_paddlex_words(str(error), mode)) from error
        except WeightsError as error:
            raise WeightsError(with_paddlex_options(str(error))) from error


def _do(mode: str, ours: Values) -> None:
    match mode:
        case "check_dataset":
            check.run(None, [], ours)
        case "train":
            train.run(None, [], ours, is_shared=True)
        case "evaluate":
            evaluate.run(None, [], ours)
        case "export":
            export.run(None, [], ours)
        case _:
            # What other modes leave there.
            taken = {"curves", *(f"{name}_result" for name in OURS)}
            label_files(make_config(PredictConfig, ours), taken)


@contextmanager
def _failure_written(output: str, mode: str) -> Iterator[None]:
    """Leave ``MODE_result.json`` as PaddleX does where the block fails and has not written it itself."""
    directory, name = open_directory(output), f"{mode}_result.json"
    if not (is_of_run := mode == "train" and _has_finished_run(directory, name)):
        # What an earlier command left there must not speak for this one.
        directory.remove(name)
    try:
        yield
    except BaseException as error:
        with suppress(ImgclsError):
            # The result of a finished run belongs to the models beside it: the run writes it, and nobody else.
            if not is_of_run and not directory.exists(name):
                write_failure(directory, name, error)
        raise


def _has_finished_run(directory: Directory, name: str) -> bool:
    """Whether a result is that of a run which is there, and complete."""
    from imgcls_ray.train.task import STATE_NAME

    try:
        result = json.loads(directory.read(name))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(result, dict) and result.get("done_flag") is True and directory.exists(STATE_NAME)


def _take_check(request: Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    if request.values.get("CheckDataset.convert.enable"):
        raise ConfigError(f"CheckDataset.convert.enable: {NO_CONVERSION}; leave it out, or give False")
    return ours


def _take_train(request: Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    ours["device"] = device = _device(request)
    _compare_num_classes(request)
    if isinstance(batch_size := ours.get("batch_size"), int):
        # PaddleX's is of one card, ours of all.
        ours["batch_size"] = batch_size * max(1, len(parse_device(device).ids))
    # PaddleX has a number of its own where the file has none; ours would depend on the images.
    warmup, epochs = ours.get("warmup_epochs"), ours.setdefault("epochs", DEFAULTS["Train.epochs_iters"])
    if isinstance(warmup, int | float) and isinstance(epochs, int):
        ours["warmup_epochs"] = min(warmup, epochs)
    if "amp" in ours:
        ours["amp"] = _amp(ours["amp"])
    _take_weights(request, ours)
    return ours


def _amp(level: Plain) -> str:
    """What PaddleX's level of mixed precision is here: O1 and O2 differ in what Paddle keeps in 32 bits."""
    if level not in ("O1", "O2", "OFF", False):
        raise ConfigError(f"Train.amp: must be O1, O2 or OFF, got {shown(level)}")
    return "auto" if level in ("O1", "O2") else "off"


def _take_weights(request: Request, ours: dict[str, Plain]) -> None:
    """Where training starts from."""
    key = "Train.pretrain_weight_path"
    weights = request.text(key)
    if weights is not None and is_url(weights) and key not in request.given:
        # In PaddleX's own files, the one of its weights of this network.
        weights = "default" if _has_timm_weights(request) else None
        what = "timm's weights of it, as with 'default'" if weights else "random weights: timm has none of this network"
        request.idle.append(f"{key}={ours.pop('weights')} (no weights are downloaded for a file; training uses {what})")
        ours.update({} if weights else {"pretrained": False})
    elif weights is None:
        ours["pretrained"] = False
        logger.info(
            "training starts from random weights, as in PaddleX; -o %s=default starts from timm's pretrained weights",
            key,
        )
    elif weights == "default":
        del ours["weights"]
    elif is_url(weights):
        raise UsageError(
            f"{key}={weights}: is an address; download the file and give its path, or 'default' for timm's weights"
        )
    else:
        ours["weights"] = _meant_folder(weights) or weights


def _has_timm_weights(request: Request) -> bool:
    """Whether timm has pretrained weights; a name that is none of the zoo is refused later, with those that are."""
    model = ZOO.get(request.text("Global.model") or "")
    return model is None or model.timm_weights is not None


def _take_evaluate(request: Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    return {**ours, **_model(request, "Evaluate.weight_path"), "device": _device(request)}


def _take_export(request: Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    if "Global.dataset_dir" not in request.given:
        # The file's is not for this: PaddleX looks at no image here.
        ours.pop("images", None)
    return {"format": "onnx", **ours, **_model(request, "Export.weight_path"), "output": f"{ours['output']}/inference"}


def _take_predict(request: Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    # As in PaddleX, the first card only: batches are small here.
    device = _device(request).partition(",")[0]
    return {**ours, **_model(request, "Predict.model_dir"), "device": device}


_TAKE = {
    "check_dataset": _take_check,
    "train": _take_train,
    "evaluate": _take_evaluate,
    "export": _take_export,
    "predict": _take_predict,
}


def _compare_num_classes(request: Request) -> None:
    from imgcls_ray.datasets.source import read_dataset

    wanted, data = request.values.get("Train.num_classes"), request.text("Global.dataset_dir")
    if wanted is None or data is None:
        return
    found = sum(name is not None for name in read_dataset(data).class_names)
    if wanted != found:
        request.idle.append(f"Train.num_classes={wanted} (the dataset decides: it has {found})")


def _device(request: Request) -> str:
    """The device that is asked for; the file's, which is the one of its authors, gives way to what this machine has."""
    device = request.text("Global.device")
    if device is not None and "Global.device" in request.given:
        try:
            parse_device(device)
        except ValueError as error:
            raise ConfigError(f"Global.device: {error}, got {shown(device)}") from error
        return device
    here = _device_here(device or "gpu")
    if device not in (None, here):
        request.idle.append(f"Global.device={device} (not all of it is on this machine; {here} is used)")
    return here


def _device_here(device: str) -> str:
    try:
        wanted = parse_device(device)
    except ValueError:  # an NPU, for example
        return "cpu"
    if not wanted.is_gpu:
        return "cpu"
    num_gpus = count_gpus(of_cluster=False)
    if not wanted.ids or is_cluster_given():
        # A cluster chooses among its own.
        return "gpu" if num_gpus else "cpu"
    ids = [i for i in wanted.ids if i < num_gpus]
    return f"gpu:{','.join(map(str, ids))}" if ids else "cpu"


def _model(request: Request, key: str) -> dict[str, str]:
    """The model folder, or the network's name, that PaddleX's path of weights means.

    Raises:
        UsageError: it means neither; with the way out.
    """
    path, name = request.text(key), request.text("Global.model")
    if path is None:
        return {"model": name} if name else {}
    if is_object(path):
        return {"model": path.rpartition("/")[0] if path.endswith(".pdparams") else path}
    if is_url(path) and key not in request.given and name:
        # In PaddleX's own files, the one of its weights of this network.
        request.idle.append(
            f"{key}={shown_text(path)} (no weights are downloaded for a file; timm's of {name} are used)"
        )
        return {"model": name}
    if is_url(path):
        raise UsageError(
            f"{key}={shown_text(path)}: is an address; give {TRAINED} for what was trained, or null for timm's "
            f"weights of {name}"
        )
    if folder := _meant_folder(path):
        return {"model": folder}
    command = f"`imgcls models new {name} --weights FILE.pdparams --labels label.txt --output DIR`"
    if os.path.exists(path):
        raise UsageError(
            f"{key}={shown_text(path)}: is no model folder; {command} makes one of PaddleClas' weights, then give "
            f"{key}=DIR"
        )
    raise UsageError(
        f"{key}={shown_text(path)}: there is no model folder; -o Global.mode=train makes one, or {command}"
    )


def _meant_folder(path: str) -> str | None:
    """The model folder at a path, or at the place where PaddleX would have put the files of that path."""
    place = Path(path)
    is_paddlex_name = place.suffix == ".pdparams" or place.name == "inference"
    if place.name == WEIGHTS_FILE or (is_paddlex_name and not os.path.exists(place)):
        place = place.parent
    return str(place) if os.path.isfile(place / SPEC_FILE) else None
