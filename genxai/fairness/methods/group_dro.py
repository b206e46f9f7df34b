"""Group distributionally robust optimisation: the classifier learns from the worst mixture of groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genxai.config import Config
from genxai.data.factors import groups_of
from genxai.fairness.methods.base import Method, Peers
from genxai.fairness.methods.group_resample import equal_groups
from genxai.fairness.methods.registry import method


@method("group_dro")
class GroupDRO(Method):
    """Sagawa et al. 2020, Algorithm 1: min over theta, max over q in the simplex of sum_g q_g E[l | g].

    Groups are drawn equally often. At each step, with l_g the mean loss of group g in the global batch (0 where it
    has no sample), q_g <- q_g exp(eta l_g) / Z, and the loss is sum_g q_g l_g. q starts uniform over the groups that
    occur in training; the others keep 0.
    """

    needs = frozenset({"groups"})
    strength_is = "step size eta of the exponentiated-gradient update of q"
    default_strength = 0.01

    def __init__(self, config: Config, train: Any, peers: Peers) -> None:
        super().__init__(config, train, peers)
        self.groups = groups_of(train.labels, train.aligned)
        self.count = 2 * train.num_classes
        occurs = (torch.bincount(self.groups, minlength=self.count) > 0).double()
        #: float64 [2 K], sums to 1
        self.q = occurs / occurs.sum()

    def sampling_weights(self) -> Tensor | None:
        return equal_groups(self.groups, self.count)

    def loss(self, logits: Tensor, sample: Any) -> Tensor:
        """sum_g q_g l_g with the updated q; this process's part of it times their number."""
        losses = F.cross_entropy(logits, sample.labels, reduction="none")
        member = F.one_hot(groups_of(sample.labels, sample.aligned), self.count).double()
        sums, sizes = self.peers.total(torch.stack([losses.detach().double() @ member, member.sum(dim=0)]))
        sizes = sizes.clamp_min(1.0)
        # in logarithms: no number of steps or size of a loss overflows, and log 0 keeps a group that never occurs at 0
        self.q = (self.q.log() + self.strength * sums / sizes).softmax(dim=0)
        weights = member @ (self.q / sizes)
        return self.peers.count * (weights.to(losses.dtype) * losses).sum()

    def facts(self) -> dict[str, Any]:
        return {"q": self.q.tolist(), "q_is_of": "group 2 * class + aligned"}

    def state_dict(self) -> dict[str, Any]:
        return {"q": self.q}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.q = state["q"].to(self.q.device)
