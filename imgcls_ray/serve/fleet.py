"""Which models answer, and how one takes another's place while requests go on.

All models of a service live in each replica. A request's model is chosen when it arrives and stays its own to the end,
so replacing models is one assignment: whoever came before is answered by the old ones. A set of models takes the place
of the last one whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from imgcls_ray.errors import ImgclsError
from imgcls_ray.serve.garbage import leaving_torch_to_itself
from imgcls_ray.serve.model import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import ModelChoice, ModelsConfig
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.model import ModelOptions, ServedModel

logger = logging.getLogger(__name__)

Role = Literal["stable", "canary", "shadow"]


class Chosen(NamedTuple):
    """The model that answers a request."""

    model: ServedModel
    role: Role


@dataclass(frozen=True)
class Lineup:
    """The models that answer now."""

    config: ModelsConfig
    stable: ServedModel
    canary: ServedModel | None = None
    shadow: ServedModel | None = None

    def by_role(self) -> dict[Role, ServedModel]:
        models: dict[Role, ServedModel | None] = {"stable": self.stable, "canary": self.canary, "shadow": self.shadow}
        return {role: model for role, model in models.items() if model is not None}


@dataclass
class Fleet:
    """The models of one replica."""

    options: ModelOptions
    metrics: Metrics
    on_change: Callable[[ModelsConfig], None] = lambda _config: None
    """Told of every set of models that took its place."""
    lineup: Lineup | None = None
    refused: str | None = None
    """Why the last change was refused; None if it was not."""

    def __post_init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._newest: ModelsConfig | None = None
        self._random = random.Random()

    async def change(self, config: ModelsConfig) -> None:
        """Load what is new and let it take its place. Of changes that come while one is on its way the last counts.

        Raises:
            ImgclsError: a model is refused; those that answered before still do.
        """
        self._newest = config
        async with self._one_at_a_time:
            if config is not self._newest:
                return
            try:
                lineup = await asyncio.get_running_loop().run_in_executor(None, self._load, config)
            except Exception as error:
                self.refuse(error)
                raise
            self.lineup, self.refused = lineup, None
            self._tell()
            self.on_change(config)

    def refuse(self, error: Exception) -> None:
        """Remember, and tell, why a change was refused."""
        self.refused = str(error) if isinstance(error, ImgclsError) else f"{type(error).__name__}: {error}"
        self._tell()

    def choose(self) -> Chosen | None:
        """The model for one request; None before there is any."""
        lineup = self.lineup
        if lineup is None:
            return None
        canary = lineup.config.canary
        if lineup.canary is not None and canary is not None and self._random.random() < canary.share:
            return Chosen(lineup.canary, "canary")
        return Chosen(lineup.stable, "stable")

    def choose_shadow(self) -> ServedModel | None:
        """The model that labels the same images unseen, for some requests."""
        lineup = self.lineup
        if lineup is None or lineup.shadow is None or lineup.config.shadow is None:
            return None
        return lineup.shadow if self._random.random() < lineup.config.shadow.share else None

    def _load(self, config: ModelsConfig) -> Lineup:
        before = self.lineup

        def loaded(role: Role, choice: ModelChoice) -> ServedModel:
            # A model that is there already is not loaded again, also when it changes its role.
            if before is not None and before.config.revision == config.revision:
                choices = _choices(before.config)
                for old_role, model in before.by_role().items():
                    if _is_same(choices[old_role], choice):
                        return model
            logger.info("loading the %s model %s", role, choice.model)
            # Here, in a thread: the event loop goes on answering.
            with leaving_torch_to_itself():
                return load_model(choice, self.options)

        models = {role: loaded(role, choice) for role, choice in _choices(config).items()}
        return Lineup(config, models["stable"], models.get("canary"), models.get("shadow"))

    def _tell(self) -> None:
        models = {} if self.lineup is None else self.lineup.by_role()
        fingerprints: dict[str, str] = {role: model.fingerprint for role, model in models.items()}
        self.metrics.loaded(fingerprints, is_refused=self.refused is not None)
        if self.refused is not None:
            logger.error("a change of models was refused: %s", self.refused)
        else:
            logger.info("models: %s", ", ".join(f"{role} {value[:12]}" for role, value in fingerprints.items()))


def _choices(config: ModelsConfig) -> dict[Role, ModelChoice]:
    """What is asked for, by the role that it is to have."""
    choices: dict[Role, ModelChoice | None] = {"stable": config, "canary": config.canary, "shadow": config.shadow}
    return {role: choice for role, choice in choices.items() if choice is not None}


def _is_same(one: ModelChoice, other: ModelChoice) -> bool:
    return (one.model, one.fingerprint, one.golden) == (other.model, other.fingerprint, other.golden)
