"""Draw how often a model is correct on the images that it is surest of, against their share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.report.figures import draw_png

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from imgcls_ray.evaluate.thresholds import RiskCoverage

_LINE, _TARGET, _CHOSEN = "#0072b2", "#444444", "#d55e00"  # of Okabe and Ito
_MAX_POINTS = 2000


def draw_risk_coverage(curve: RiskCoverage, target: float | None, metrics: Mapping[str, float]) -> bytes:
    """Draw coverage against precision as PNG, with the wanted precision and what the thresholds accept.

    Args:
        curve: at every threshold that all classes share.
        target: precision that thresholds were fitted for, if any were.
        metrics: ``coverage`` and ``precision_accepted`` of these.
    """

    def draw(figure: Figure) -> None:
        figure.set_size_inches(6.4, 4.4)
        axes = figure.subplots()
        places = np.unique(np.linspace(0, len(curve.coverage) - 1, _MAX_POINTS).astype(int))
        axes.step(curve.coverage[places], curve.precision[places], where="post", color=_LINE, label="surest images")
        lowest = float(curve.precision.min())
        if target is not None:
            axes.axhline(target, color=_TARGET, linestyle="--", linewidth=1, label=f"wanted: {target:g}")
            lowest = min(lowest, target)
        if (precision := metrics.get("precision_accepted")) is not None:
            words = f"accepted: {metrics['coverage']:.1%} of the images, {precision:.2%} correct"
            axes.plot(metrics["coverage"], precision, "o", color=_CHOSEN, label=words)
        room = max(1 - lowest, 0.01) / 10
        axes.set(xlim=(0, 1.01), ylim=(max(lowest - room, 0), 1 + room))
        axes.set(xlabel="coverage: share of the images that are accepted", ylabel="precision: share that is correct")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)

    return draw_png(draw)
