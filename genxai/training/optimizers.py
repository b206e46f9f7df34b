"""The optimisers of the three networks and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from genxai.config import TrainConfig


def make_optimizer(
    part: str, parameters: Iterable[nn.Parameter], train: TrainConfig, *, sharded: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of 'generator', 'critic' or 'classifier'.

    Fused: one kernel for all parameters, and a loss scaler's verdict that stays on the device.
    sharded: some parameters are DTensors, for which torch has no fused SGD.
    """
    if part == "classifier":
        if train.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=train.lr, momentum=0.9, weight_decay=train.weight_decay, fused=not sharded
            )
        kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=train.gan_lr, fused=True)
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    # no weight decay: it fights the gradient penalty's pull towards slope one
    return kind(parameters, lr=train.gan_lr, betas=train.gan_betas, weight_decay=0.0, fused=True)


def learning_rate(kind: str, base: float, step: int, steps: int) -> float:
    """The learning rate at a step: a pure function, so there is no scheduler state to restore.

    cosine: annealed from base to 0 without restarts (Loshchilov & Hutter 2017); step: divided by ten at one half
    and at three quarters; constant.
    """
    done = step / max(steps, 1)
    if kind == "cosine":
        return base * 0.5 * (1.0 + math.cos(math.pi * done))
    if kind == "step":
        return base * (0.1 if done >= 0.5 else 1.0) * (0.1 if done >= 0.75 else 1.0)
    return base
