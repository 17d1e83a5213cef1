"""What a run asks of its label store, and whether a store that is there can give it."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from imgcls_ray.errors import LabelStoreError
from imgcls_ray.models.calibration import Calibration
from imgcls_ray.models.spec import fingerprint_with
from imgcls_ray.store.opening import check_identity
from imgcls_ray.store.records import StoreIdentity

if TYPE_CHECKING:
    from imgcls_ray.config import PredictConfig
    from imgcls_ray.images.preprocess import Decode
    from imgcls_ray.models.spec import ModelSpec
    from imgcls_ray.store.label_store import LabelStore

logger = logging.getLogger(__name__)


def identity_of(config: PredictConfig, spec: ModelSpec) -> StoreIdentity:
    """The identity of a store that this run would begin."""
    return StoreIdentity(
        model=spec.name,
        fingerprint=spec.fingerprint,
        num_classes=spec.num_classes,
        top_k=min(config.top_k, spec.num_classes),
        embedding=config.embedding,
        logits=config.logits,
        tta=config.tta,
        # What was fitted is fitted to the scores of plain images.
        calibration=spec.fitted if config.tta == "none" else Calibration(),
    )


def check_fits(store: LabelStore, config: PredictConfig, spec: ModelSpec) -> None:
    """Refuse a store that this run cannot go on with, and say what it goes on without.

    Raises:
        LabelStoreError: with the way out.
    """
    asked = identity_of(config, spec)
    _check_decode(store, config.model, spec)
    check_identity(store, asked, top_k=config.top_k)
    _tell_calibration(store, config.model, asked.calibration or Calibration())


def _check_decode(store: LabelStore, model: str, spec: ModelSpec) -> None:
    """Refuse a model that differs from the store's only in how images are decoded.

    Raises:
        LabelStoreError: with the command that makes the model of the store.
    """
    other: Decode = "scaled" if spec.preprocess.decode == "full" else "full"
    if store.identity.fingerprint != fingerprint_with(spec, dataclasses.replace(spec.preprocess, decode=other)):
        return
    raise LabelStoreError(
        f"{store.uri}: was made with decode={other}, {model} has decode={spec.preprocess.decode}; give another "
        f"--output, or make the model that fits: imgcls models new {spec.name} --weights {model} --decode {other} "
        "--output FOLDER"
    )


def _tell_calibration(store: LabelStore, model: str, now: Calibration) -> None:
    """Say where a store goes on without what is fitted to the model folder by now."""
    begun = store.identity.calibration
    if begun is None:
        logger.info(
            "%s: an earlier version made it, without the columns probability, decision and ood_score; it goes on "
            "without them. A new --output has them",
            store.uri,
        )
    elif (begun.temperature, begun.thresholds) != (now.temperature, now.thresholds):
        logger.warning(
            "%s: goes on with what it began with, %s; %s has %s by now, and a new --output takes that",
            store.uri,
            begun.in_words,
            model,
            now.in_words,
        )
