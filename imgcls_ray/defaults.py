"""Limits of one image where nobody says otherwise: in configurations, for decoders and for reads."""

from __future__ import annotations

MAX_IMAGE_BYTES = 100 * 2**20
MAX_IMAGE_PIXELS = 89_478_485
"""Pillow's own limit: 256 MiB as RGB."""
FETCH_TIMEOUT_S = 60.0
DECODE_TIMEOUT_S = 60.0
