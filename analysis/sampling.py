"""What sampling alone makes of a group metric: its mean for a classifier that is equally good in every group.

The smallest of several noisy shares lies below all they share, and the largest difference above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Statistic = Literal["worst_group_accuracy", "delta_fair_accuracy", "delta_fair_selection"]

DRAWS = 2000


def by_sampling(statistic: Statistic, accuracy: float, class_counts: Sequence[int]) -> float:
    """The mean of a statistic over simulated classifiers that differ between groups by chance alone, in [0, 1].

    For splits whose textures are uniform whatever the class; `class_counts` [K] are theirs. A tenth of a class is in
    its aligned group, a tenth of the split has each texture. Hits are Binomial(size, accuracy) in every group, and
    predicted classes Multinomial(size, class shares) at every texture. 2,000 draws, always the same ones.
    """
    import numpy as np

    from genxai.data.factors import NUM_TEXTURES

    draw = np.random.default_rng(0)
    counts = np.asarray(class_counts, dtype=np.int64)
    size = int(counts.sum())
    if statistic == "worst_group_accuracy":
        aligned = np.rint(counts / NUM_TEXTURES).astype(np.int64)
        sizes = np.concatenate([aligned, counts - aligned])
        sizes = sizes[sizes > 0]
        return float((draw.binomial(sizes, accuracy, (DRAWS, len(sizes))) / sizes).min(axis=1).mean())
    per_texture = max(1, round(size / NUM_TEXTURES))
    if statistic == "delta_fair_accuracy":
        shares = draw.binomial(per_texture, accuracy, (DRAWS, NUM_TEXTURES)) / per_texture
        return float(np.ptp(shares, axis=1).mean())
    predicted = draw.multinomial(per_texture, counts / size, (DRAWS, NUM_TEXTURES)) / per_texture
    return float(np.ptp(predicted, axis=1).max(axis=1).mean())
