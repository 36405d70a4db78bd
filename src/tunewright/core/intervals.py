"""The interval of a share, for the audit of data and the comparison of models."""

from __future__ import annotations

import math

from scipy.special import ndtri


def wilson(hits: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval (1927) for the share hits/n."""
    z = float(-ndtri((1 - level) / 2))
    share, shrink = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)
