"""Deep feature reweighting: the last layer of a trained classifier is refitted on held-out balanced data."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genxai.config import Config
from genxai.data import TexMM
from genxai.errors import UsageError
from genxai.fairness.methods.base import Measure, Method, Peers
from genxai.fairness.methods.registry import method
from genxai.models import evaluating

#: regularisations that are tried where none is given, the strongest first, which wins a tie
CANDIDATES = (1.0, 0.1, 0.01, 0.001)
SPLIT = "val_balanced"


def logistic_regression(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: weights [K, F] and bias [K] that minimise mean CE + strength / 2 ||W||^2.

    features float64 [n, F], labels int64 [n]. The bias is free. The problem is strictly convex in W, so that L-BFGS
    from zero finds the one minimum; scikit-learn's C is 1 / (n strength).
    """
    weights = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(features @ weights.T + bias, labels) + 0.5 * strength * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return weights.detach(), bias.detach()


def halves(labels: Tensor, textures: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the two halves of a balanced split, each with every second sample of each (class, texture)."""
    # by texture within a class: stable, so that the order within a group is that of the split
    order = textures.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    return order[0::2], order[1::2]


@method("dfr")
class DFR(Method):
    """Kirichenko et al. 2023: ERM, then its last linear layer anew on val_balanced, on standardised features.

    Without a given strength each candidate is fitted on one half of val_balanced; the accuracy on the other half
    chooses, and what is kept is fitted on all of it. L2 where the reference has L1: a smooth problem with one answer.
    """

    needs = frozenset({"val_balanced"})
    strength_is = "L2 regularisation of the refitted layer; null: chosen on val_balanced"
    trained_on = ("train", SPLIT)

    def __init__(self, config: Config, train: Any, peers: Peers) -> None:
        super().__init__(config, train, peers)
        if config.method.strength == 0:
            raise UsageError("method.strength=0: dfr without regularisation has no answer; use a number above 0")
        self.found: dict[str, Any] = {}

    def finish(self, classifier: nn.Module, measure: Measure) -> None:
        data = TexMM(self.config, SPLIT, self.train.labels.device)
        last = cast(nn.Linear, cast(nn.Sequential, classifier.get_submodule("head"))[-1])
        # on the CPU in float64: the same answer on every process, and on any device up to its features
        features = penultimate(classifier, last, data, measure).cpu().double()
        mean, spread = features.mean(dim=0), features.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)  # a unit that is never active
        standard, labels, classes = (features - mean) / spread, data.labels.cpu(), data.num_classes
        strength = self.config.method.strength
        if strength is None:
            strength = self._choose(standard, labels, data.textures.cpu(), classes)
        weights, bias = logistic_regression(standard, labels, classes, strength)
        weights = weights / spread
        with torch.no_grad():
            last.weight.copy_(weights)
            last.bias.copy_(bias - weights @ mean)
        self.found |= {"strength": strength, "fitted_on": SPLIT}

    def _choose(self, features: Tensor, labels: Tensor, textures: Tensor, classes: int) -> float:
        first, second = halves(labels, textures)
        accuracy = {}
        for strength in CANDIDATES:
            weights, bias = logistic_regression(features[first], labels[first], classes, strength)
            hits = (features[second] @ weights.T + bias).argmax(dim=1) == labels[second]
            accuracy[strength] = float(hits.double().mean())
        self.found["strength_chosen_on"] = f"one half of {SPLIT}, fitted on the other"
        self.found["accuracy_by_strength"] = {str(strength): value for strength, value in accuracy.items()}
        return max(accuracy, key=accuracy.__getitem__)

    def facts(self) -> dict[str, Any]:
        return self.found

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found = state["found"]


def penultimate(classifier: nn.Module, last: nn.Module, data: Any, measure: Measure) -> Tensor:
    """What the last layer is given for each sample of a split: [N, F]."""
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def of(sample: Any) -> Tensor:
        seen.clear()
        classifier(sample.images, sample.tokens, sample.token_mask)
        return seen[0].float()

    try:
        with torch.no_grad(), evaluating(classifier):
            return measure(of, data)
    finally:
        handle.remove()
