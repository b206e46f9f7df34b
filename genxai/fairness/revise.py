"""Reveal-to-Revise: score an explanation for bias, correct the samples above tau, keep a ledger of what was done.

Pure functions that the training loop calls every step, without host synchronisation; `Ledger.drain` alone transfers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genxai.explain.localisation import mass_share, out_of_mask

ScoreKind = Literal["out_of_mask", "texture_evidence"]
SampleOrigin = Literal["real", "generated"]

#: bright neighbours (of 8) that make a pixel part of the object; growing by a whole pixel instead doubles thin strokes
#: (IoU 0.56 on MNIST at amplitude 0.5, against 0.84)
SURROUNDED = 4


def estimated_mask(images: Tensor, threshold: float) -> Tensor:
    """Where the object is in images that have no true mask: bool [B, 1, H, W], detached.

    images [B, 1, H, W] in [0, 1]. Pixels brighter than `threshold` (the texture's amplitude, of full white, which it
    alone cannot outshine), and those with at least `SURROUNDED` such neighbours of 8. IoU with the true S of TexMM's
    textured training images at amplitude 0.25 / 0.5 / 0.75 (2,000 images, mode background): MNIST 0.81 / 0.84 / 0.77,
    Fashion-MNIST 0.88 / 0.71 / 0.43, where dark garments fade into the texture. At amplitude 1 the mask is empty.
    """
    bright = images.detach() > threshold
    neighbours = 9.0 * F.avg_pool2d(bright.float(), kernel_size=3, stride=1, padding=1)
    return bright | (neighbours > SURROUNDED - 0.5)


def reveal_score(
    heatmap: Tensor, mask: Tensor | None, evidence: Tensor | None, kind: ScoreKind = "out_of_mask"
) -> Tensor:
    """How much of an explanation rests on bias, per sample in [0, 1]. Differentiable. -> [B]

    heatmap [B, h, w], not normalised. kind "out_of_mask": share of its mass outside `mask` (bool [B, 1, H, W]).
    kind "texture_evidence": its mass weighted by `evidence` ([B, 1, H, W] in [0, 1], `Descriptor.evidence`), as a
    share. An all-zero map scores 0. Raises ValueError if what the kind needs is None, or for an unknown kind.
    """
    if kind not in get_args(ScoreKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(ScoreKind))}, got {kind!r}")
    if kind == "out_of_mask":
        if mask is None:
            raise ValueError("the score out_of_mask needs a mask")
        return out_of_mask(heatmap, mask)
    if evidence is None:
        raise ValueError("the score texture_evidence needs an evidence map")
    return mass_share(heatmap, evidence)


def flags(scores: Tensor, tau: float) -> Tensor:
    """Which samples are corrected: bool [B], those whose score [B] is above tau."""
    return scores.detach() > tau


def correction(scores: Tensor, flagged: Tensor, count: Tensor | None = None) -> Tensor:
    """The loss that corrects the flagged samples: the mean of `scores` [B] over them; 0 if there are none. Scalar.

    count: what to divide by (at least 1) where these are only a share of the batch. Only flagged samples get a
    gradient. A score that is not a number makes the loss not a number, so that the run stops there instead of
    hiding it.
    """
    return (scores * flagged).sum() / (flagged.sum().clamp_min(1) if count is None else count)


@dataclass
class Ledger:
    """What was revealed and revised: collects device tensors step by step, gives records when asked."""

    tau: float
    _entries: list[tuple[int, SampleOrigin, str, Tensor]] = field(default_factory=list, repr=False)

    def add(
        self,
        step: int,
        origin: SampleOrigin,
        positions: Tensor,
        samples: Tensor,
        labels: Tensor,
        scores: Tensor,
        flagged: Tensor,
        action: str,
        scores_after: Tensor | None,
    ) -> None:
        """Note one explained batch without waiting for the device; all tensors [n].

        positions: places in the global batch, which order the records whatever the number of processes.
        samples: index of a real image in its split, or step * batch size + position of a generated one.
        scores_after: the scores once corrected, None where they were not measured.
        """
        after = torch.full_like(scores, torch.nan) if scores_after is None else scores_after
        # float64 holds every index and every float32 exactly; stack copies, so later in-place changes do no harm
        rows = torch.stack(
            [column.detach().double() for column in (positions, samples, labels, scores, flagged, after)]
        )
        self._entries.append((step, origin, action, rows))

    def drain(self) -> list[dict[str, Any]]:
        """The records of the flagged samples since the last drain, oldest first; one transfer to the host.

        Record: step, origin, position, sample, label, score, tau, action, score_after (None if not measured). Scores
        are the shortest decimals that read back as the same float32, so equal runs write equal bytes.
        """
        if not self._entries:
            return []
        columns = torch.cat([rows for *_, rows in self._entries], dim=1).cpu().T.tolist()
        heads = [(step, origin, action) for step, origin, action, rows in self._entries for _ in range(rows.shape[1])]
        self._entries.clear()
        return [
            {
                "step": step,
                "origin": origin,
                "position": int(position),
                "sample": int(sample),
                "label": int(label),
                "score": _shortest(score),
                "tau": self.tau,
                "action": action,
                "score_after": None if after != after else _shortest(after),
            }
            for (step, origin, action), (position, sample, label, score, flagged, after) in zip(
                heads, columns, strict=True
            )
            if flagged
        ]


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))


def in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of several processes as one process would have written them: by step, real before generated, position."""
    return sorted(records, key=lambda record: (record["step"], record["origin"] != "real", record["position"]))
