"""Every random choice of the joint loop as a pure function of (seed, step, position in the global batch).

Nothing here has a state, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genxai.data.counter_rng import derive_seed, hash_bits, integers, normal, permutation, uniform


@dataclass
class Draws:
    """Draws for the positions of the global batch that this process computes.

    seed: the run's seed. train_size: images in the training split. batch_size: the global batch.
    positions: int64 [b], this process's places in the global batch.
    """

    seed: int
    train_size: int
    batch_size: int
    positions: Tensor
    _epoch: tuple[int, Tensor] = field(init=False, default=(-1, torch.empty(0)), repr=False)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.train_size / self.batch_size)

    def seed_everything(self, step: int) -> None:
        """Global generators for one step, alike on all processes (see `models.dropout`); stateless across steps."""
        torch.manual_seed(derive_seed(self.seed, "step", step))

    def critic_indices(self, step: int, turns: int) -> Tensor:
        """Training indices [turns, b] of the critic updates of a step; uniform with replacement."""
        return integers(self.seed, "critic-batch", self.train_size, step, *self._turns(turns))

    def _turns(self, turns: int) -> tuple[Tensor, Tensor]:
        return torch.arange(turns, device=self.positions.device)[:, None], self.positions[None, :]

    def classifier_indices(self, step: int) -> Tensor:
        """Training indices [b] of the classifier update: one permutation per epoch, wrapped at its end."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            order = permutation(self.seed, "epoch", self.train_size, epoch, device=self.positions.device)
            self._epoch = (epoch, order)
        return self._epoch[1][(within * self.batch_size + self.positions) % self.train_size]

    def weighted_indices(self, step: int, cumulative: Tensor) -> Tensor:
        """Training indices [b] of the classifier update, with replacement, in proportion to weights.

        cumulative: float64 [N], the running sum of weights >= 0 of which one is positive (`running_sum`).
        """
        # 53 bits: the 24 of a float32 would be coarse beside the weight of one of a million samples; and a float64
        # times at most 1 - 2^-53 is below itself once rounded, so that there is always a sum above
        share = (hash_bits(self.seed, "weighted-batch", step, self.positions) >> 10).double() * 2.0**-53
        # to the right of equals: a sample of weight zero is never drawn
        return torch.searchsorted(cumulative, share * cumulative[-1], right=True)

    def paired_indices(self, step: int) -> Tensor:
        """Training indices [b] whose labels the generator step uses, each label at two positions.

        Two independent samples per label are what the unbiased estimate of Eq. 5 needs.
        """
        return integers(self.seed, "generator-batch", self.train_size, step, self.positions // 2)

    def latents(self, stream: str, length: int, step: int, turns: int = 1) -> Tensor:
        """z ~ N(0, 1), float32 [turns, b, length]."""
        columns = torch.arange(length, device=self.positions.device)
        turn, position = self._turns(turns)
        return normal(self.seed, stream, step, turn[..., None], position[..., None], columns)

    def epsilon(self, step: int, turns: int) -> Tensor:
        """epsilon ~ U[0, 1) of Eq. 3, one per sample, [turns, b]."""
        return uniform(self.seed, "penalty", step, *self._turns(turns))


def running_sum(weights: Tensor) -> Tensor:
    """Sums float64 [N] of the first 1, 2, ... weights [N], on their device: always summed in one order, by the CPU.

    Raises ValueError for weights of which none is positive, or one is negative or no number.
    """
    total = weights.double().cpu().cumsum(0)
    if not bool((weights >= 0).all()) or not 0 < float(total[-1]) < math.inf:
        raise ValueError("sampling weights must be numbers >= 0, one of them positive")
    return total.to(weights.device)
