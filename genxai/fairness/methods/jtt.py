"""Just Train Twice: the errors of a classifier trained for a short while are shown more often to the final one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genxai.config import Config
from genxai.errors import UsageError
from genxai.fairness.methods.base import Measure, Method, Peers
from genxai.fairness.methods.registry import method
from genxai.models import evaluating


@method("jtt")
class JTT(Method):
    """Liu et al. 2021: ERM for `method.warmup_epochs`, then again from the start with its training errors drawn
    lambda_up times as often as the rest. Needs no group label.

    The warm-up counts in `train.epochs`: every method has the same budget. It is ERM with the schedule of the whole
    run, stopped early; the final classifier has the whole schedule in the epochs that are left.
    """

    strength_is = "lambda_up: how many times as often the errors are drawn"
    default_strength = 50.0  # the reference's for CelebA, after one epoch

    def __init__(self, config: Config, train: Any, peers: Peers) -> None:
        super().__init__(config, train, peers)
        if self.strength == 0:
            raise UsageError("method.strength=0: jtt would never draw an error; use a number above 0")
        if config.method.warmup_epochs >= config.train.epochs:
            raise UsageError(
                f"method.warmup_epochs={config.method.warmup_epochs} leaves jtt nothing of train.epochs="
                f"{config.train.epochs} for the final classifier: lower it"
            )
        #: bool [N], which training samples the first classifier got wrong; None before it has been asked
        self.errors: Tensor | None = None

    @property
    def restart_epoch(self) -> int:
        return self.config.method.warmup_epochs

    def before_restart(self, classifier: nn.Module, measure: Measure) -> None:
        with torch.no_grad(), evaluating(classifier):
            predicted = measure(
                lambda sample: classifier(sample.images, sample.tokens, sample.token_mask).logits.argmax(1), self.train
            )
        self.errors = predicted != self.train.labels

    def sampling_weights(self) -> Tensor | None:
        if self.errors is None:
            return None
        return torch.where(self.errors, self.strength, 1.0).double()

    def facts(self) -> dict[str, Any]:
        return {"errors": None if self.errors is None else int(self.errors.sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"errors": self.errors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        errors = state["errors"]
        self.errors = None if errors is None else errors.to(self.train.labels.device)
