"""A function over a whole split, in batches that the processes of a run deal out among themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genxai.training.experiment import EVALUATION_BATCH
from genxai.training.parallel import Processes


def batches_of(data: Any, count: int, size: int) -> tuple[Tensor, ...]:
    """The places of the first `count` samples of a split, at most `size` at a time."""
    return torch.arange(count, device=data.labels.device).split(size)


def in_batches(measure: Callable[[Any], Tensor], data: Any, count: int, size: int, processes: Processes) -> Tensor:
    """`measure` of the first `count` samples, [count, ...], each process computing every n-th batch."""
    parts = batches_of(data, count, size)
    mine = {
        number: measure(data.batch(parts[number])) for number in range(len(parts))[processes.rank :: processes.count]
    }
    if processes.count == 1:
        return torch.cat(list(mine.values()))
    shape, dtype = processes.share((tuple(mine[0].shape[1:]), mine[0].dtype) if processes.first else None)
    whole = torch.zeros(count, *shape, dtype=dtype, device=data.labels.device)
    for number, part in mine.items():
        whole[parts[number]] = part
    return processes.total(whole)  # every row is zero on all processes but one


def class_probabilities(classifier: nn.Module, data: Any, processes: Processes) -> Tensor:
    """float32 [N, K] over a whole split, of a classifier that is in evaluation mode."""

    def probabilities(sample: Any) -> Tensor:
        with torch.no_grad():
            return classifier(sample.images, sample.tokens, sample.token_mask).logits.float().softmax(1)

    return over_split(probabilities, data, processes)


def over_split(measure: Callable[[Any], Tensor], data: Any, processes: Processes) -> Tensor:
    """`measure` of every sample of a split, [N, ...]."""
    return in_batches(measure, data, len(data), EVALUATION_BATCH, processes)
