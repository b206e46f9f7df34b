"""Group resampling: every group of (class, aligned or not) is drawn equally often."""

from __future__ import annotations

import torch
from torch import Tensor

from genxai.data.factors import groups_of
from genxai.fairness.methods.base import Method
from genxai.fairness.methods.registry import method


def equal_groups(groups: Tensor, count: int) -> Tensor:
    """Weights float64 [N] under which each group that occurs is drawn equally often; groups int64 [N] in 0..count-1.

    A group of n samples has weight 1 / n for each; one without samples (rho = 1 has ten) has none to weigh.
    """
    sizes = torch.bincount(groups, minlength=count)
    return sizes.double().reciprocal()[groups]


@method("group_resample")
class GroupResample(Method):
    """Balanced sampling over groups (Idrissi et al. 2022, "Simple data balancing achieves competitive worst-group-
    accuracy"): drawn with replacement, as many samples an epoch as ERM's."""

    needs = frozenset({"groups"})

    def sampling_weights(self) -> Tensor | None:
        return equal_groups(groups_of(self.train.labels, self.train.aligned), 2 * self.train.num_classes)
