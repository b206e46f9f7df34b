"""The three updates of Algorithm 1 and what Reveal-to-Revise adds to them.

Each function makes one optimiser step and returns its loss terms as device scalars: nothing waits for the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from genxai.data import Sample
from genxai.data.masks import THRESHOLDS
from genxai.data.textures import swatch
from genxai.explain import out_of_mask
from genxai.fairness import Ledger, bias_deviation, bias_loss, correction, estimated_mask, reveal_score
from genxai.fairness.revise import SampleOrigin
from genxai.models import frozen_statistics, update_ema
from genxai.training.experiment import Experiment
from genxai.training.objectives import attribution_map, gradient_penalty, plain_forward

Terms = dict[str, Tensor]


class Monitored(NamedTuple):
    """Samples to be explained: images [m,1,H,W], labels [m], caption tokens [m,L], masks [m,1,H,W], ids [m]."""

    images: Tensor
    labels: Tensor
    tokens: Tensor
    token_mask: Tensor
    masks: Tensor
    ids: Tensor

    @classmethod
    def first(cls, sample: Sample, count: int) -> Monitored:
        """The first samples of a batch of real images; the batch is random, so these are a random choice."""
        columns = (sample.images, sample.labels, sample.tokens, sample.token_mask, sample.masks, sample.indices)
        return cls(*(column[:count] for column in columns))

    def join(self, other: Monitored) -> Monitored:
        return Monitored(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def critic_step(experiment: Experiment, step: int, turn: int) -> Terms:
    """Eq. 1: L_D = E[D(G(z,y),y)] - E[D(x,y)] + lambda_gp L_GP, real and fake sharing their labels."""
    config, draws = experiment.config, experiment.draws
    sample = experiment.train.batch(draws.critic_indices(step, turn))
    with torch.no_grad():
        latents = draws.latents("critic", config.model.gan.latent_dim, step, turn)
        fake = experiment.wrapped["generator"](latents, sample.labels).float()
    scores = experiment.wrapped["critic"](torch.cat([fake, sample.images]), sample.labels.repeat(2)).float()
    fake_scores, real_scores = scores.chunk(2)
    wasserstein = fake_scores.mean() - real_scores.mean()
    loss, penalty = wasserstein, torch.zeros_like(wasserstein)
    if config.objective.lambda_gp > 0:
        penalty = gradient_penalty(
            plain_forward(experiment.critic), sample.images, fake, sample.labels, epsilon=draws.epsilon(step, turn)
        )
        loss = loss + config.objective.lambda_gp * penalty
    _update(experiment, "critic", loss)
    return {"critic/wasserstein": wasserstein.detach(), "critic/penalty": penalty.detach()}


def generator_step(experiment: Experiment, step: int) -> tuple[Terms, Monitored]:
    """Eq. 2: L_G = -E[D(G(z,y),y)] + lambda_b R_bias, plus the correction of flagged generated samples.

    A flagged sample is corrected through the classifier (its map's bias score) and through B (its distance from the
    reference that its class is held to).
    Returns the terms and the monitored generated samples, which the classifier is corrected on as well.
    """
    config, draws, train = experiment.config, experiment.draws, experiment.train
    indices = draws.paired_indices(step)
    labels = train.labels[indices]
    experiment.critic.requires_grad_(False)
    experiment.classifier.requires_grad_(False)
    fake = experiment.wrapped["generator"](
        draws.latents("generator", config.model.gan.latent_dim, step), labels
    ).float()
    adversarial = -experiment.wrapped["critic"](fake, labels).float().mean()
    bias = bias_loss(experiment.descriptor(fake), labels, experiment.reference)
    loss = adversarial + config.objective.lambda_bias * bias
    monitored = _monitored_generated(experiment, fake, labels, indices, step)
    revise = torch.zeros_like(adversarial)
    if config.revise.enabled and config.revise.generator_weight > 0 and experiment.explains(step):
        _, scores = reveal(experiment, monitored, create_graph=True)
        through_classifier, flagged = correction(scores, config.revise.tau)
        deviation = bias_deviation(experiment.descriptor(monitored.images), monitored.labels, experiment.reference)
        through_descriptor = (deviation * flagged).sum() / flagged.sum().clamp_min(1)
        revise = through_classifier + through_descriptor
        loss = loss + config.revise.generator_weight * revise
    _update(experiment, "generator", loss)
    experiment.critic.requires_grad_(True)
    experiment.classifier.requires_grad_(True)
    update_ema(experiment.average, experiment.generator, config.model.gan.ema_decay)
    terms = {"generator/adversarial": adversarial, "generator/bias": bias, "generator/revise": revise}
    detached = monitored._replace(images=monitored.images.detach())
    return {name: term.detach() for name, term in terms.items()}, detached


def classifier_step(experiment: Experiment, step: int, generated: Monitored, ledger: Ledger) -> Terms:
    """Eq. 11: L_cls = CE + lambda_a R(M), plus Reveal-to-Revise's correction of the flagged samples.

    R(M) is the share of map mass outside the mask, over the monitored real samples; the correction is the score of
    the monitored real and generated samples above tau. Flagged samples are explained once more after the update.
    """
    config = experiment.config
    sample = experiment.train.batch(experiment.draws.classifier_indices(step))
    logits = experiment.wrapped["classifier"](sample.images, sample.tokens, sample.token_mask).logits
    cross_entropy = F.cross_entropy(logits.float(), sample.labels)
    loss, attribution, revise = cross_entropy, torch.zeros_like(cross_entropy), torch.zeros_like(cross_entropy)
    if experiment.explains(step):
        real = Monitored.first(sample, experiment.monitored)
        monitored = real.join(generated) if config.revise.enabled else real
        outside, scores = reveal(experiment, monitored, create_graph=True)
        attribution = outside[: len(real.ids)].mean()
        loss = loss + config.objective.lambda_attribution * attribution
        if config.revise.enabled:
            revise, flagged = correction(scores, config.revise.tau)
            loss = loss + config.revise.weight * revise
    _update(experiment, "classifier", loss)
    if experiment.explains(step) and config.revise.enabled:
        _, after = reveal(experiment, monitored, create_graph=False)
        _enter(ledger, step, experiment, monitored, scores, flagged, after)
    terms = {
        "classifier/cross_entropy": cross_entropy,
        "classifier/attribution": attribution,
        "classifier/revise": revise,
    }
    return {name: term.detach() for name, term in terms.items()}


def _enter(
    ledger: Ledger,
    step: int,
    experiment: Experiment,
    monitored: Monitored,
    scores: Tensor,
    flagged: Tensor,
    after: Tensor,
) -> None:
    """Note the revision of one step: the real samples first, then the generated ones."""
    both = "_and_generator" if experiment.config.revise.generator_weight > 0 else ""
    count = experiment.monitored
    parts: tuple[tuple[SampleOrigin, slice, str], ...] = (
        ("real", slice(None, count), "revise_classifier"),
        ("generated", slice(count, None), f"revise_classifier{both}"),
    )
    for origin, part, action in parts:
        ids, labels = monitored.ids[part], monitored.labels[part]
        ledger.add(step, origin, ids, labels, scores[part], flagged[part], action, after[part])


def reveal(experiment: Experiment, monitored: Monitored, *, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Explain samples by their label's score: (share of map mass outside the mask [m], bias score [m]).

    With create_graph both are differentiable in the classifier's parameters and in the images.
    """
    config = experiment.config
    forward = plain_forward(experiment.classifier)
    # in float32 whatever the precision: half-precision gradients of a map underflow, and it is a few samples
    with frozen_statistics(experiment.classifier), torch.autocast(monitored.images.device.type, enabled=False):
        prediction = forward(monitored.images, monitored.tokens, monitored.token_mask)
    heatmap = attribution_map(prediction, monitored.labels, config.explain.method, create_graph=create_graph)
    outside = out_of_mask(heatmap, monitored.masks)
    if config.revise.score == "out_of_mask":
        return outside, outside
    evidence = experiment.descriptor.evidence(monitored.images)
    return outside, reveal_score(heatmap, monitored.masks, evidence, config.revise.score)


def _monitored_generated(experiment: Experiment, fake: Tensor, labels: Tensor, indices: Tensor, step: int) -> Monitored:
    """The first generated samples of the batch with captions of their class and masks read off the image."""
    count, draws, train = experiment.monitored, experiment.draws, experiment.train
    ids = step * draws.batch_size + draws.positions[:count]
    tokens, token_mask = train.caption_tokens(labels[:count], train.textures[indices[:count]], ids, "generated")
    return Monitored(fake[:count], labels[:count], tokens, token_mask, object_masks(experiment, fake[:count]), ids)


def object_masks(experiment: Experiment, fake: Tensor) -> Tensor:
    """Where the object of generated images is: what outshines the texture, never a corner that may hold a swatch."""
    data = experiment.config.data
    if data.mode in ("background", "overlay"):
        return estimated_mask(fake, data.amplitude)
    found = estimated_mask(fake, THRESHOLDS[data.dataset])
    if data.mode == "patch":
        found = found & ~swatch(torch.arange(4, device=fake.device), fake.shape[-1]).any(dim=0)
    return found


def _update(experiment: Experiment, name: str, loss: Tensor) -> None:
    optimizer, clip = experiment.optimizers[name], experiment.config.train.clip_norm
    optimizer.zero_grad()
    experiment.accelerator.backward(loss)
    if clip is not None:
        # not accelerator.clip_grad_norm_: under fp16 it unscales the stale gradients of the other optimisers too
        experiment.accelerator.unscale_gradients(optimizer)
        torch.nn.utils.clip_grad_norm_(getattr(experiment, name).parameters(), clip)
    optimizer.step()
