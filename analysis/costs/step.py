"""What a joint step costs: its parts, what is there all the time, and the most that is allocated on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from analysis.costs.meter import contentless
from analysis.costs.networks import Networks, build_networks, make_descriptor
from analysis.costs.passes import Part, Phase, classifier_parts, explaining_parts, gan_parts, peak, updates
from genxai.config import Config
from genxai.errors import GenxaiError

#: operations per parameter of an update, counted off its formula: what an elementwise kernel computes, no counter sees
UPDATE_FLOPS = {"adamw": 14, "adam": 13, "sgd": 2}
MOMENTUM_FLOPS = 4  # decay into the gradient, and the buffer
EMA_FLOPS = 3
#: float32 numbers per parameter that an update reads and writes: parameter, gradient and state
UPDATE_NUMBERS = {"adamw": 7, "adam": 7, "sgd": 3}
EMA_NUMBERS = 3
#: float32 numbers per parameter that an optimiser keeps
STATE_NUMBERS = {"adamw": 2, "adam": 2, "sgd": 0}
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class StepCost:
    """A joint step of one configuration."""

    parts: tuple[Part, ...]
    #: parameters by component
    parameters: dict[str, int]
    #: parameters that each optimiser updates
    updated: dict[str, int]
    #: what the elementwise updates compute, by the formulas above, and the bytes they move
    update_flops: float
    update_bytes: float
    #: bytes that are there all the time: parameters, optimiser state, gradients, averaged generator
    resident_bytes: int
    #: most that each of the three updates allocates at once on top, the gradients of its own network included
    peak_bytes: dict[str, int]
    #: sizes by their symbol in Eq. 12
    shapes: dict[str, int]

    def flops(self, *components: str, phases: Sequence[Phase] = ()) -> float:
        """Operations per joint step of these components (default: all) in these phases (default: all)."""
        return sum(
            part.flops
            for part in self.parts
            if (not components or part.component in components) and (not phases or part.phase in phases)
        )

    @property
    def memory_bytes(self) -> int:
        """The most that tensors take at once in a joint step, the data set apart."""
        return self.resident_bytes + max(self.peak_bytes.values())


def measure_step(config: Config, device: torch.device | None = None, *, memory: bool = True) -> StepCost:
    """Count a joint step on a GPU by running it, or on tensors without content (default, and on a CPU).

    Without `memory` the peaks of the whole updates are not taken, which saves half of the time.
    Raises GenxaiError for an architecture that cannot be had, or data whose steps are not counted.
    """
    if config.data.is_text:
        raise GenxaiError(f"steps on comments (data.dataset={config.data.dataset}) are not counted, only measured")
    device = device or torch.device("cpu")
    descriptor = make_descriptor(config)
    with contentless(device):
        networks = build_networks(config, device, descriptor)
        shapes = _shapes(networks)
        parts = [*classifier_parts(networks, shapes), *explaining_parts(networks), *gan_parts(networks)]
        peaks = {name: peak(networks, update) for name, update in updates(networks).items()} if memory else {}
        return StepCost(
            parts=tuple(parts),
            parameters=_parameters(networks),
            updated={name: _count(module) for name, module in networks.trained().items()},
            **_updating(networks),
            peak_bytes=peaks,
            shapes=shapes,
        )


# --- what is there all the time, and shapes ------------------------------------------------------


def _updating(networks: Networks) -> dict[str, Any]:
    """What the optimisers and the average compute, move and keep."""
    train, turns = networks.config.train, networks.config.objective.n_critic
    counts = {name: _count(module) for name, module in networks.trained().items()}
    often = {"generator": 1, "critic": turns, "classifier": 1}
    updates = sum(count * often[name] for name, count in counts.items())
    momentum = counts["classifier"] if train.optimizer == "sgd" else 0  # only the classifier's SGD has one
    averaged = counts.get("generator", 0)
    flops = UPDATE_FLOPS[train.optimizer] * updates + MOMENTUM_FLOPS * momentum + EMA_FLOPS * averaged
    numbers = UPDATE_NUMBERS[train.optimizer] * updates + 2 * momentum + EMA_NUMBERS * averaged
    # parameters and gradients of all, the state of their optimisers, and the averaged generator
    kept = (2 + STATE_NUMBERS[train.optimizer]) * sum(counts.values()) + momentum + averaged
    return {"update_flops": flops, "update_bytes": FLOAT32 * numbers, "resident_bytes": FLOAT32 * kept}


def _parameters(networks: Networks) -> dict[str, int]:
    classifier = networks.classifier
    names = {"image_encoder": "image_encoder", "text_encoder": "text_encoder", "cross": "fusion", "head": "head"}
    found = {ours: _count(getattr(classifier, name)) for name, ours in names.items() if hasattr(classifier, name)}
    if hasattr(classifier, "null_token"):
        found["fusion"] = found.get("fusion", 0) + classifier.null_token.numel()
    return found | {"generator": _count(networks.generator), "critic": _count(networks.critic)}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(networks: Networks) -> dict[str, int]:
    """Sizes by symbol: image tokens and channels, the map, inputs of the head; tokens, width and layers of text."""
    classifier: Any = networks.classifier
    shapes = {"F": classifier.head[0].normalized_shape[0]}
    with torch.no_grad():
        if networks.config.model.fusion != "text":
            found = classifier.image_encoder(networks.images(1))
            shapes |= {"L_v": found.tokens.shape[1], "C_v": found.tokens.shape[2]}
            shapes |= dict(zip(("K_ch", "h'", "w'"), found.activations.shape[1:], strict=True))
        if networks.config.model.fusion != "image":
            encoder = classifier.text_encoder
            layers = len(encoder.layers) if hasattr(encoder, "layers") else encoder.bert.config.num_hidden_layers
            shapes |= dict(zip(("L_t", "d_t"), encoder(*networks.captions(1)).shape[1:], strict=True), N_t=layers)
    return {name: int(value) for name, value in shapes.items()}
