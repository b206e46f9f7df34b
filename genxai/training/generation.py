"""Numbers of the averaged generator on a fixed set of latents and class labels; training state is left as it was."""

from __future__ import annotations

import torch

from genxai.fairness import bias_loss
from genxai.models import evaluating
from genxai.training.draws import Draws
from genxai.training.experiment import EVALUATION_BATCH, Experiment

#: generated images that the numbers are means over
GENERATED = 1000


@torch.no_grad()
def evaluate_generator(experiment: Experiment) -> dict[str, float]:
    """The averaged generator against the reference of Eq. 5, on a fixed set of latents and class labels."""
    config, device = experiment.config, experiment.device
    draws = Draws(config.seed, len(experiment.train), GENERATED, torch.arange(GENERATED, device=device))
    labels = torch.arange(GENERATED, device=device) % experiment.train.num_classes
    (latents,) = draws.latents("evaluation", config.model.gan.latent_dim, 0)
    with evaluating(experiment.average):
        parts = zip(latents.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
        features = torch.cat([experiment.descriptor(experiment.average(z, y)) for z, y in parts])
    return {"generator/bias_gap": bias_loss(features, labels, experiment.reference).item()}
