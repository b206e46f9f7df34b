"""Algorithm 1 as one would write it by hand in plain PyTorch: the yardstick that the joint loop is held to.

Networks, losses, batches and updates are the joint loop's (a test compares them term by term). There is no Accelerate,
no ledger of revisions (so no second look at the revised samples either), no meter, no checkpoint, one process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genxai.config import Config
from genxai.data import Sample
from genxai.data.factors import NUM_CLASSES
from genxai.data.masks import THRESHOLDS
from genxai.data.textures import swatch
from genxai.errors import UsageError
from genxai.explain import out_of_mask
from genxai.fairness import bias_deviation, bias_loss, estimated_mask, reveal_score
from genxai.models import Critic, FusionClassifier, Generator, evaluating
from genxai.training.objectives import ATTRIBUTIONS
from genxai.training.optimizers import learning_rate

Losses = dict[str, Tensor]
#: what the generator is corrected by: gradient of the images [m,1,H,W], flagged [m], how many, their mean score
Revision = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass
class NativeDraws:
    """The random choices of a step from torch's own generators: not reproducible at another world size, but usual."""

    train_size: int
    batch_size: int
    device: torch.device

    def seed_everything(self, step: int) -> None:
        pass

    def critic_indices(self, step: int, turns: int) -> Tensor:
        return torch.randint(self.train_size, (turns, self.batch_size), device=self.device)

    def classifier_indices(self, step: int) -> Tensor:
        return torch.randint(self.train_size, (self.batch_size,), device=self.device)

    def paired_indices(self, step: int) -> Tensor:
        pairs = torch.randint(self.train_size, ((self.batch_size + 1) // 2,), device=self.device)
        return pairs.repeat_interleave(2)[: self.batch_size]

    def latents(self, stream: str, length: int, step: int, turns: int = 1) -> Tensor:
        return torch.randn(turns, self.batch_size, length, device=self.device)

    def epsilon(self, step: int, turns: int) -> Tensor:
        return torch.rand(turns, self.batch_size, device=self.device)


class BareLoop:
    """One step of the joint loop on copies of an experiment's networks; `draws` defaults to the experiment's own."""

    def __init__(self, experiment: Any, draws: Any = None) -> None:
        config: Config = experiment.config
        if config.train.precision == "fp16":
            raise UsageError("the bare loop has no loss scaling: benchmark train.precision=fp32 or bf16")
        self.config, self.device, self.train = config, experiment.device, experiment.train
        self.draws = draws or experiment.draws
        self.steps, self.reference, self.descriptor = experiment.steps, experiment.reference, experiment.descriptor
        gan, side, words = config.model.gan, config.data.image_size, experiment.train.vocab_size
        self.generator = twin(experiment.generator, lambda: Generator(gan, NUM_CLASSES, side))
        self.average = twin(experiment.average, lambda: Generator(gan, NUM_CLASSES, side)).requires_grad_(False)
        self.critic = twin(experiment.critic, lambda: Critic(gan, NUM_CLASSES, side))
        self.classifier = twin(experiment.classifier, lambda: FusionClassifier(config.model, NUM_CLASSES, words))
        self.optimizers = {name: self._optimizer(name) for name in ("critic", "generator", "classifier")}
        self.count = config.explained_samples
        self.averages, self.sources = list(self.average.parameters()), list(self.generator.parameters())

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        train, parameters = self.config.train, list(getattr(self, name).parameters())
        gan = name != "classifier"
        rate, decay = (train.gan_lr, 0.0) if gan else (train.lr, train.weight_decay)
        if train.optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.0 if gan else 0.9, weight_decay=decay)
        kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
        betas = train.gan_betas if gan else (0.9, 0.999)
        return kind(parameters, rate, betas=betas, weight_decay=decay, fused=True)

    def step(self, step: int) -> Losses:
        """n_critic updates of the critic, one of the classifier, one of the generator; their loss terms by name."""
        train = self.config.train
        self.draws.seed_everything(step)
        for name, optimizer in self.optimizers.items():
            base = train.lr if name == "classifier" else train.gan_lr
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(train.scheduler, base, step, self.steps)
        losses: Losses = {}
        turns = self.config.objective.n_critic
        sample = self.train.batch(self.draws.critic_indices(step, turns).flatten())
        latents = self.draws.latents("critic", self.config.model.gan.latent_dim, step, turns)
        columns = sample.images.chunk(turns), sample.labels.chunk(turns), latents, self.draws.epsilon(step, turns)
        for batch in zip(*columns, strict=True):
            losses.update(self._update_critic(*batch))
        indices = self.draws.paired_indices(step)
        labels = self.train.labels[indices]
        with self._autocast():
            (noise,) = self.draws.latents("generator", self.config.model.gan.latent_dim, step)
            fake = self.generator(noise, labels).float()
        if not self._explains(step):
            return {**losses, **self._classify(step), **self._update_generator(fake, labels, None)}
        of_classifier, revision = self._update_classifier(step, fake.detach()[: self.count], labels, indices)
        return {**losses, **of_classifier, **self._update_generator(fake, labels, revision)}

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        if self.config.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(getattr(self, name).parameters(), self.config.train.clip_norm)
        optimizer.step()

    def _update_critic(self, real: Tensor, labels: Tensor, latents: Tensor, epsilon: Tensor) -> Losses:
        """Eqs. 1 and 3."""
        weight = self.config.objective.lambda_gp
        with torch.no_grad(), self._autocast():
            fake = self.generator(latents, labels).float()
        with self._autocast():
            scores = self.critic(torch.cat([fake, real]), labels.repeat(2)).float()
        wasserstein = scores[: len(fake)].mean() - scores[len(fake) :].mean()
        penalty = torch.zeros_like(wasserstein)
        if weight > 0:
            epsilon = epsilon[:, None, None, None]
            mixed = (epsilon * real + (1.0 - epsilon) * fake).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.critic(mixed, labels).sum(), mixed, create_graph=True)
            penalty = (slope.flatten(1).norm(2, dim=1) - 1.0).square().mean()
        self._descend("critic", wasserstein + weight * penalty)
        return {"critic/wasserstein": wasserstein.detach(), "critic/penalty": penalty.detach()}

    def _classify(self, step: int) -> Losses:
        """A classifier update of a step that explains nothing."""
        cross_entropy, _ = self._cross_entropy(step)
        self._descend("classifier", cross_entropy)
        zero = torch.zeros_like(cross_entropy)
        terms = {"cross_entropy": cross_entropy, "attribution": zero, "revise": zero}
        return {f"classifier/{name}": term.detach() for name, term in terms.items()}

    def _cross_entropy(self, step: int) -> tuple[Tensor, Sample]:
        sample: Sample = self.train.batch(self.draws.classifier_indices(step))
        with self._autocast():
            logits = self.classifier(sample.images, sample.tokens, sample.token_mask).logits
        return F.cross_entropy(logits.float(), sample.labels), sample

    def _update_classifier(
        self, step: int, fake: Tensor, labels: Tensor, indices: Tensor
    ) -> tuple[Losses, Revision | None]:
        """Eq. 11 and the correction of flagged samples; the backward pass also serves the generator."""
        config, count, revises = self.config, self.count, self.config.revise.enabled
        cross_entropy, sample = self._cross_entropy(step)
        columns = (sample.images, sample.labels, sample.tokens, sample.token_mask, sample.masks)
        explained = tuple(column[:count] for column in columns)
        images = fake.requires_grad_(revises and config.revise.generator_weight > 0)
        if revises:
            ids = step * config.train.batch_size + torch.arange(count, device=self.device)
            textures = self.train.textures[indices[:count]]
            captions = self.train.caption_tokens(labels[:count], textures, ids, "generated")
            made = (images, labels[:count], *captions, self._masks_of(fake.detach()))
            explained = tuple(torch.cat(pair) for pair in zip(explained, made, strict=True))
        outside, scores = self._reveal(explained)
        attribution = outside[:count].mean()
        loss, revise = cross_entropy + config.objective.lambda_attribution * attribution, torch.zeros_like(attribution)
        revision = None
        if revises:
            flagged = scores.detach() > config.revise.tau
            both, ours = flagged.sum().clamp_min(1), flagged[count:].sum().clamp_min(1)
            revise = (scores * flagged).sum() / both
            loss = loss + config.revise.weight * revise
            if images.requires_grad:
                mean = (scores * flagged)[count:].sum() / ours
                if config.revise.weight == 0:  # the classifier's loss says nothing about these images
                    (images.grad,) = torch.autograd.grad(ours / both * mean, images, retain_graph=True)
                self._descend("classifier", loss)
                gradient = cast(Tensor, images.grad) * (both / ((config.revise.weight or 1.0) * ours))
                revision = (gradient, flagged[count:], ours, mean.detach())
        if revision is None:
            self._descend("classifier", loss)
        terms = {"cross_entropy": cross_entropy, "attribution": attribution, "revise": revise}
        return {f"classifier/{name}": term.detach() for name, term in terms.items()}, revision

    def _update_generator(self, fake: Tensor, labels: Tensor, revision: Revision | None) -> Losses:
        """Eq. 2 and the correction of flagged generated samples."""
        config, count = self.config, self.count
        self.critic.requires_grad_(False)
        with self._autocast():
            adversarial = -self.critic(fake, labels).float().mean()
        features = self.descriptor(fake)
        bias = bias_loss(features, labels, self.reference)
        loss, revise = adversarial + config.objective.lambda_bias * bias, torch.zeros_like(adversarial)
        if revision is not None:
            gradient, flagged, divisor, mean = revision
            deviation = bias_deviation(features[:count], labels[:count], self.reference)
            through_descriptor = (deviation * flagged).sum() / divisor
            through_classifier = (fake[:count] * gradient).sum()  # not its value: its gradient
            loss = loss + config.revise.generator_weight * (through_classifier + through_descriptor)
            revise = mean + through_descriptor
        self._descend("generator", loss)
        self.critic.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.sources, 1.0 - config.model.gan.ema_decay)
        terms = {"adversarial": adversarial, "bias": bias, "revise": revise}
        return {f"generator/{name}": term.detach() for name, term in terms.items()}

    def _explains(self, step: int) -> bool:
        config = self.config
        return config.explains and step % config.explain.every == 0

    def _reveal(self, explained: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Share of map mass outside the mask, and the score that is corrected; both [m], differentiable."""
        images, labels, tokens, token_mask, masks = explained
        with evaluating(self.classifier), self._autocast():
            prediction = self.classifier(images, tokens, token_mask, float32_above_map=True)
        score = prediction.logits.gather(1, labels[:, None]).squeeze(1)
        heatmap = ATTRIBUTIONS[self.config.explain.method](score, prediction.activations, create_graph=True)
        outside = out_of_mask(heatmap, masks)
        if self.config.revise.score == "out_of_mask":
            return outside, outside
        return outside, reveal_score(heatmap, masks, self.descriptor.evidence(images), self.config.revise.score)

    def _masks_of(self, images: Tensor) -> Tensor:
        """Where the object of generated images is, as far as brightness tells."""
        data = self.config.data
        if data.mode in ("background", "overlay"):
            return estimated_mask(images, data.amplitude)
        found = estimated_mask(images, THRESHOLDS[data.dataset])
        if data.mode == "patch":
            found = found & ~swatch(torch.arange(4, device=images.device), images.shape[-1]).any(dim=0)
        return found


def twin(module: nn.Module, make: Callable[[], Any]) -> Any:
    """A new module of the same architecture with the same values, memory layout, device and mode.

    Not a deep copy, which would share what a module keeps outside its parameters and buffers.
    """
    with torch.random.fork_rng():
        made: nn.Module = make()
    for own, other in zip(_tensors(made), _tensors(module), strict=True):
        own.data = other.detach().clone(memory_format=torch.preserve_format)
    return made.train(module.training)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
