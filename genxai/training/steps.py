"""The three updates of Algorithm 1 and what Reveal-to-Revise adds to them.

Each function makes one optimiser step and returns its loss terms as device scalars: nothing waits for the host. Loss
terms are means over this process's share of the global batch; what is not a mean over samples (R_bias, the mean over
flagged samples) is computed over the whole batch, so that the gradient is the same at any number of processes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genxai.data import Sample
from genxai.data.masks import THRESHOLDS
from genxai.data.textures import swatch
from genxai.explain import out_of_mask
from genxai.explain.placebo import moved_masks
from genxai.fairness import Ledger, bias_deviation, bias_loss, correction, estimated_mask, flags, reveal_score
from genxai.fairness.revise import SampleOrigin
from genxai.models import evaluating, frozen, update_ema
from genxai.training.experiment import Experiment
from genxai.training.objectives import attribution_map, gradient_penalty
from genxai.training.text_steps import identity_share

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


class CriticBatch(NamedTuple):
    """What one critic update works on: real images [b,1,H,W], labels [b], latents [b,L], epsilon of Eq. 3 [b]."""

    real: Tensor
    labels: Tensor
    latents: Tensor
    epsilon: Tensor


class Generated(NamedTuple):
    """A generated batch: images [b,1,H,W] in the generator's graph, labels [b], and the monitored ones, detached."""

    images: Tensor
    labels: Tensor
    monitored: Monitored


class Revision(NamedTuple):
    """What explaining the generated samples asks of the generator."""

    #: d(mean score of the flagged generated samples) / d(monitored images) [m,1,H,W]
    gradient: Tensor
    #: bool [m]
    flagged: Tensor
    #: what a sum over them is divided by for a mean over the whole batch, []
    divisor: Tensor
    #: that mean, this process's share of it, []
    value: Tensor


class Findings(NamedTuple):
    """What explaining the monitored real (first) and generated samples found: all [m]."""

    outside: Tensor
    scores: Tensor
    flagged: Tensor


def critic_batches(experiment: Experiment, step: int) -> list[CriticBatch]:
    """The batches of all critic updates of a step, drawn and composed at once: small kernels cost as much as large."""
    draws, turns = experiment.draws, experiment.config.objective.n_critic
    sample = experiment.train.batch(draws.critic_indices(step, turns).flatten())
    latents = draws.latents("critic", experiment.config.model.gan.latent_dim, step, turns)
    real, labels = sample.images.unflatten(0, (turns, -1)), sample.labels.unflatten(0, (turns, -1))
    columns = (real, labels, latents, draws.epsilon(step, turns))
    return [CriticBatch(*parts) for parts in zip(*(column.unbind() for column in columns), strict=True)]


def critic_step(experiment: Experiment, batch: CriticBatch) -> Terms:
    """Eq. 1: L_D = E[D(G(z,y),y)] - E[D(x,y)] + lambda_gp L_GP, real and fake sharing their labels."""
    config, critic, (real, labels, latents, epsilon) = experiment.config, experiment.trained["critic"], batch
    with torch.no_grad(), experiment.precision.autocast():
        fake = experiment.generator(latents, labels).float()
    scores = critic(torch.cat([fake, real]), labels.repeat(2)).float()
    fake_scores, real_scores = scores.chunk(2)
    wasserstein = fake_scores.mean() - real_scores.mean()
    loss, penalty = wasserstein, torch.zeros_like(wasserstein)
    if config.objective.lambda_gp > 0:
        penalty = gradient_penalty(experiment.critic, real, fake, labels, epsilon=epsilon)
        loss = loss + config.objective.lambda_gp * penalty
    critic.update(loss, config.train.clip_norm)
    return {"critic/wasserstein": wasserstein.detach(), "critic/penalty": penalty.detach()}


def generate(experiment: Experiment, step: int) -> Generated:
    """The generator step's batch, and of its first samples what is needed to explain them."""
    config, draws, train = experiment.config, experiment.draws, experiment.images
    indices = draws.paired_indices(step)
    labels = train.labels[indices]
    (latents,) = draws.latents("generator", config.model.gan.latent_dim, step)
    fake = experiment.trained["generator"](latents, labels).float()
    count = experiment.monitored
    ids = step * draws.batch_size + draws.positions[:count]
    tokens, token_mask = train.caption_tokens(labels[:count], train.textures[indices[:count]], ids, "generated")
    shown = fake[:count].detach()
    return Generated(
        fake, labels, Monitored(shown, labels[:count], tokens, token_mask, object_masks(experiment, shown), ids)
    )


def classifier_step(
    experiment: Experiment, step: int, generated: Monitored | None, ledger: Ledger
) -> tuple[Terms, Revision | None]:
    """Eq. 11: L_cls = CE + lambda_a R(M), plus Reveal-to-Revise's correction of the flagged samples.

    R(M) is the share of map mass outside the mask, over the monitored real samples; the correction is the score of
    the monitored real and generated samples above tau. Every so often they are explained once more after the update.
    The configured method chooses the batch, weighs the samples in CE and may add a penalty (`fairness.methods`).
    Also returns what the flagged generated samples ask of the generator: the same maps serve both. generated: None
    where there is no generator, and so no revision.
    """
    config, classifier = experiment.config, experiment.trained["classifier"]
    method, sample = experiment.method, experiment.classifier_batch(step)
    logits = classifier(sample.images, sample.tokens, sample.token_mask).logits
    cross_entropy = method.loss(logits.float(), sample)
    penalty = method.penalty(experiment.classifier, sample)
    loss = cross_entropy if penalty is None else cross_entropy + penalty
    if not experiment.explains(step):
        classifier.update(loss, config.train.clip_norm)
        return _classifier_terms(cross_entropy, penalty), None
    processes = experiment.processes
    monitored = Monitored.first(sample, experiment.monitored)
    revised = generated if config.revise.enabled else None
    if revised is not None:
        images = revised.images.detach().requires_grad_(_corrects_generator(experiment))
        monitored = monitored.join(revised._replace(images=images))
    found = _explained(experiment, monitored, create_graph=True)
    real = slice(None, experiment.monitored)
    attribution = found.outside[real].sum() * (processes.count / experiment.all_monitored)
    loss = loss + config.objective.lambda_attribution * attribution
    if revised is None:
        classifier.update(loss, config.train.clip_norm)
        return _classifier_terms(cross_entropy, penalty, attribution), None
    made = slice(experiment.monitored, None)
    flagged = torch.stack([found.flagged.sum(), found.flagged[made].sum()])
    # a mean over the whole batch, of which this process has a share and the gradients are averaged
    counts = processes.total(flagged).clamp_min(1) / processes.count
    revise = correction(found.scores, found.flagged, counts[0])
    loss = loss + config.revise.weight * revise
    gradient = _update_and_image_gradient(experiment, images, found, counts, loss)
    _enter(ledger, step, experiment, monitored, found, _scores_after(experiment, step, monitored))
    terms = _classifier_terms(cross_entropy, penalty, attribution, revise)
    if gradient is None:
        return terms, None
    value = correction(found.scores[made].detach(), found.flagged[made], counts[1])
    return terms, Revision(gradient, found.flagged[made], counts[1], value)


def _classifier_terms(
    cross_entropy: Tensor, penalty: Tensor | None, attribution: Tensor | None = None, revise: Tensor | None = None
) -> Terms:
    zero = torch.zeros_like(cross_entropy)
    terms = {
        "classifier/cross_entropy": cross_entropy,
        "classifier/attribution": zero if attribution is None else attribution,
        "classifier/revise": zero if revise is None else revise,
    }
    if penalty is not None:
        terms["classifier/penalty"] = penalty
    return {name: term.detach() for name, term in terms.items()}


def _corrects_generator(experiment: Experiment) -> bool:
    """Whether the flagged generated samples of this process correct the generator too."""
    revise = experiment.config.revise
    return revise.enabled and revise.generator_weight > 0 and experiment.monitored > 0


def _update_and_image_gradient(
    experiment: Experiment, images: Tensor, found: Findings, counts: Tensor, loss: Tensor
) -> Tensor | None:
    """Update the classifier; returns d(mean score of flagged generated samples) / d(images), None if not asked for.

    The classifier's loss holds the same scores with another weight, so its backward pass gives both gradients: samples
    do not meet, and the gradient of one image is that of its own score.
    """
    config, classifier = experiment.config, experiment.trained["classifier"]
    weight = config.revise.weight
    if images.requires_grad and weight == 0:
        made = slice(experiment.monitored, None)
        mean = correction(found.scores[made], found.flagged[made], counts[1])
        (gradient,) = torch.autograd.grad(mean, images, retain_graph=True)
        classifier.update(loss, config.train.clip_norm)
        return gradient
    scale = classifier.loss_scale()
    classifier.update(loss, config.train.clip_norm)
    if images.grad is None:
        return None
    gradient = images.grad * (counts[0] / (weight * counts[1]))
    if scale is None:
        return gradient
    # the classifier's loss scale was too large: its step is skipped, and the generator's shall not be
    gradient = gradient / scale
    return torch.where(gradient.isfinite().all(), gradient, 0.0)


def generator_step(experiment: Experiment, generated: Generated, revision: Revision | None) -> Terms:
    """Eq. 2: L_G = -E[D(G(z,y),y)] + lambda_b R_bias, plus the correction of flagged generated samples.

    A flagged sample is corrected through the classifier (its map's bias score) and through B (its distance from the
    reference that its class is held to).
    """
    config, processes, generator = experiment.config, experiment.processes, experiment.trained["generator"]
    fake, labels = generated.images, generated.labels
    with frozen(experiment.critic), experiment.precision.autocast():
        adversarial = -experiment.critic(fake, labels).float().mean()
    features = experiment.descriptor(fake)
    bias = bias_loss(processes.all_rows(features), processes.all_rows(labels), experiment.reference)
    loss = adversarial + config.objective.lambda_bias * processes.count * bias
    revise = torch.zeros_like(adversarial)
    if revision is not None:
        count = len(revision.flagged)
        deviation = bias_deviation(features[:count], labels[:count], experiment.reference)
        through_descriptor = correction(deviation, revision.flagged, revision.divisor)
        # its value means nothing, its gradient with respect to the images is the correction's
        through_classifier = (fake[:count] * revision.gradient).sum()
        loss = loss + config.revise.generator_weight * (through_classifier + through_descriptor)
        revise = revision.value + through_descriptor
    generator.update(loss, config.train.clip_norm)
    update_ema(experiment.average, experiment.generator, config.model.gan.ema_decay)
    terms = {"generator/adversarial": adversarial, "generator/bias": bias, "generator/revise": revise}
    return {name: term.detach() for name, term in terms.items()}


def _enter(
    ledger: Ledger, step: int, experiment: Experiment, monitored: Monitored, found: Findings, after: Tensor | None
) -> None:
    """Note the revision of one step: the real samples first, then the generated ones."""
    both = "_and_generator" if experiment.config.revise.generator_weight > 0 else ""
    count = experiment.monitored
    positions = experiment.draws.positions[:count]
    parts: tuple[tuple[SampleOrigin, slice, str], ...] = (
        ("real", slice(None, count), "revise_classifier"),
        ("generated", slice(count, None), f"revise_classifier{both}"),
    )
    for origin, part, action in parts:
        ids, labels = monitored.ids[part], monitored.labels[part]
        scores, flagged = found.scores[part], found.flagged[part]
        ledger.add(
            step, origin, positions, ids, labels, scores, flagged, action, None if after is None else after[part]
        )


def _scores_after(experiment: Experiment, step: int, monitored: Monitored) -> Tensor | None:
    """The scores of the monitored samples once the classifier has been corrected; None at steps that do not look."""
    if (step // experiment.config.explain.every) % experiment.config.revise.audit_every:
        return None
    with frozen(experiment.classifier):
        looked_at = monitored._replace(images=monitored.images.detach())
        return _explained(experiment, looked_at, create_graph=False).scores


def _explained(experiment: Experiment, monitored: Monitored, *, create_graph: bool) -> Findings:
    """`reveal` and what is above tau; nothing where this process monitors nothing."""
    if experiment.monitored:
        outside, scores = reveal(experiment, monitored, create_graph=create_graph)
    else:
        outside = scores = monitored.images.new_zeros(0)
    return Findings(outside, scores, flags(scores, experiment.config.revise.tau))


def reveal(experiment: Experiment, monitored: Monitored, *, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Explain samples by their label's score: (share of map mass outside the mask [m], bias score [m]).

    What is explained is the network as it is used: without dropout, with the statistics it has gathered. With
    create_graph both are differentiable in the classifier's parameters and in the images.
    """
    config = experiment.config
    if config.data.is_text:
        share = identity_share(
            experiment.classifier, config, monitored, experiment.comments.pad_id, create_graph=create_graph
        )
        return share, share
    if config.explain.masks == "random":
        monitored = monitored._replace(masks=moved_masks(monitored.masks, config.seed, monitored.ids))
    with evaluating(experiment.classifier), experiment.precision.autocast():
        prediction = experiment.classifier(
            monitored.images, monitored.tokens, monitored.token_mask, float32_above_map=True
        )
    heatmap = attribution_map(prediction, monitored.labels, config.explain.method, create_graph=create_graph)
    outside = out_of_mask(heatmap, monitored.masks)
    if config.revise.score == "out_of_mask":
        return outside, outside
    evidence = experiment.descriptor.evidence(monitored.images)
    return outside, reveal_score(heatmap, monitored.masks, evidence, config.revise.score)


def object_masks(experiment: Experiment, fake: Tensor) -> Tensor:
    """Where the object of generated images is: what outshines the texture, never a corner that may hold a swatch."""
    data = experiment.config.data
    if data.shows_gratings:
        return estimated_mask(fake, data.amplitude)
    found = estimated_mask(fake, THRESHOLDS[data.dataset])
    if data.mode == "patch":
        found = found & ~swatch(torch.arange(4, device=fake.device), fake.shape[-1]).any(dim=0)
    return found
