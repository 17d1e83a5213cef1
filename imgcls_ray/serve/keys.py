"""Keys that callers show."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEYS_VARIABLE = "IMGCLS_API_KEYS"
MIN_KEY_CHARS = 16


class ApiKeys:
    """The keys of a service, compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take over the keys; with none everybody may ask.

        Raises:
            ValueError: a key is too short to keep anyone out.
        """
        if any(len(key) < MIN_KEY_CHARS for key in keys):
            raise ValueError(f"a key has fewer than {MIN_KEY_CHARS} characters")
        self._digests = [self._digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, shown: bytes) -> bool:
        """Whether it is one of the keys. Every key is compared, and digests are, so that time tells nothing."""
        digest = self._digest(shown)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    @staticmethod
    def _digest(key: bytes) -> bytes:
        return hashlib.sha256(key).digest()


def read_api_keys(environment: Mapping[str, str]) -> ApiKeys:
    """The keys in ``IMGCLS_API_KEYS``, with commas between them; where it is not set, everybody may ask.

    Raises:
        ConfigError: it is set and holds no key, or one that is too short or that no header can carry; no key is shown.
    """
    text = environment.get(KEYS_VARIABLE)
    if text is None:
        return ApiKeys([])
    keys = [key for part in text.split(",") if (key := part.strip())]
    # Whoever set it meant to keep others out: an empty secret must not open the service to everybody.
    if not any(character.isprintable() and not character.isspace() for key in keys for character in key):
        raise ConfigError(
            f"{KEYS_VARIABLE}: is set but holds no key; give keys of at least {MIN_KEY_CHARS} characters with commas "
            "between them, or unset it, and everybody may ask"
        )
    if not all(key.isprintable() for key in keys):
        raise ConfigError(
            f"{KEYS_VARIABLE}: a key holds a line break or another character that cannot be printed; put commas "
            "between keys"
        )
    try:
        return ApiKeys(keys)
    except ValueError as error:
        raise ConfigError(f"{KEYS_VARIABLE}: {error}") from error
