"""The passes of a joint step, one kind at a time, and its three updates as a whole.

They mirror `genxai.training.steps` on batches without data; a test holds their sum against what the real step executes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from analysis.costs.meter import Meter, Work
from analysis.costs.networks import Networks
from genxai.config import Config
from genxai.explain import out_of_mask
from genxai.fairness import bias_deviation, bias_loss, reveal_score
from genxai.models import evaluating, frozen
from genxai.training.objectives import attribution_map, gradient_penalty

Phase = Literal["forward", "backward", "map", "double backward"]
#: a phase of an explained pass, and on which side of the explained map
Place = tuple[Phase, Literal["below", "above"]]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Part:
    """One kind of pass: what a single one executes, and how many of them a joint step makes."""

    component: str
    phase: Phase
    #: which pass it is, where a component has several
    use: str
    samples: int
    times: float
    #: train.precision, or "fp32" where the loop stays in float32 whatever it says
    precision: str
    work: Work

    @property
    def flops(self) -> float:
        """Floating-point operations per joint step."""
        return self.times * self.work.flops

    @property
    def kernels(self) -> float:
        """Kernels per joint step."""
        return self.times * self.work.kernels


def explains(config: Config) -> bool:
    """Whether the loop computes attribution maps at all."""
    return config.explains


# --- the passes ----------------------------------------------------------------------------------


def classifier_parts(networks: Networks, shapes: dict[str, int]) -> Iterator[Part]:
    """Encoders, fusion and head, forward and backward, on their own: each from inputs of the right shape."""
    config, classifier = networks.config, networks.classifier
    batch, model = config.train.batch_size, config.model
    tokens, token_mask = networks.captions(batch)

    def features(length: int, width: int) -> Tensor:
        return torch.rand(batch, length, width, device=networks.device, requires_grad=True)

    passes: dict[str, Callable[[], Tensor]] = {}
    if model.fusion != "text":
        passes["image_encoder"] = lambda: classifier.image_encoder(networks.images(batch)).tokens
    if model.fusion != "image":
        passes["text_encoder"] = lambda: classifier.text_encoder(tokens, token_mask)
    if model.fusion == "cross":
        image = features(shapes["L_v"], shapes["C_v"])
        text = features(shapes["L_t"], shapes["d_t"])
        passes["fusion"] = lambda: classifier.cross(image, text, token_mask)
    joint = torch.rand(batch, shapes["F"], device=networks.device, requires_grad=True)
    passes["head"] = lambda: classifier.head(joint)
    for component, forward in passes.items():
        yield from _forward_backward(networks, component, "batch", batch, 1.0, forward)


def _forward_backward(
    networks: Networks, component: str, use: str, samples: int, times: float, forward: Callable[[], Tensor]
) -> Iterator[Part]:
    """A forward pass in train.precision, and the backward pass to whatever in it takes a gradient."""
    _clear(networks)
    with Meter(networks.device) as meter:
        with autocast(networks):
            output = forward()
        there = meter.lap()
        torch.autograd.backward([output], [torch.ones_like(output)])
        back = meter.lap()
    precision = networks.config.train.precision
    yield Part(component, "forward", use, samples, times, precision, there)
    yield Part(component, "backward", use, samples, times, precision, back)


def explaining_parts(networks: Networks) -> Iterator[Part]:
    """R(M) of Eq. 11 on the monitored real samples, and all that Reveal-to-Revise adds to it.

    The loop explains real and generated samples in one pass, whose backward pass also gives the gradient with respect
    to the images that corrects the generator; the operations of R(M) alone are counted apart and taken off.
    """
    config, count = networks.config, networks.monitored
    if not explains(config):
        return
    often = 1.0 / config.explain.every
    alone = _explained(networks, count, to_images=False)
    if not config.revise.enabled:
        yield from _named(networks, alone, "explanation", "real samples", count, often)
        return
    both = _explained(networks, 2 * count, to_images=config.revise.generator_weight > 0)
    # one pass launches the kernels for both halves of its samples: what takes its time is charged half to each
    kernels = {place: work.kernels // 2 for place, work in both.items()}
    real = {place: replace(alone[place], kernels=kernels[place]) for place in both}
    yield from _named(networks, real, "explanation", "real samples", count, often)
    generated = {place: work - real[place] for place, work in both.items()}
    yield from _named(networks, generated, "revision", "generated samples", count, often)
    again = _explained(networks, 2 * count, to_images=False, differentiate=False)
    audits = often / config.revise.audit_every
    yield from _named(networks, again, "revision", "again after the update", 2 * count, audits)


def _named(
    networks: Networks, found: dict[Place, Work], component: str, use: str, samples: int, times: float
) -> Iterator[Part]:
    """The parts of an explained pass: below the map in train.precision, above it in float32."""
    precisions = {"below": networks.config.train.precision, "above": "fp32"}
    for (phase, side), work in found.items():
        yield Part(component, phase, f"{use}, {side} the map", samples, times, precisions[side], work)


def _explained(networks: Networks, count: int, *, to_images: bool, differentiate: bool = True) -> dict[Place, Work]:
    """`reveal` of the loop and the backward pass of its scores, taken apart at the explained map.

    What is above the map is what is left of the whole without the encoders below it. Without `differentiate` no
    parameter takes a gradient, and the graph begins at the map.
    """
    classifier = networks.classifier

    def scores(images: Tensor, forward_done: Callable[[], None]) -> list[Tensor]:
        return [reveal(networks, images, create_graph=differentiate, forward_done=forward_done)]

    def encoders(images: Tensor, _: Callable[[], None]) -> list[Tensor]:
        with evaluating(classifier), autocast(networks):
            maps = classifier.image_encoder.maps(images)
            if classifier.fusion == "image":
                return [maps]
            return [maps, classifier.text_encoder(*networks.captions(count))]

    with contextlib.nullcontext() if differentiate else frozen(classifier):
        whole = _laps(networks, count, to_images, differentiate, scores)
        below = _laps(networks, count, to_images, differentiate, encoders)
    found: dict[Place, Work] = {
        ("forward", "below"): below[0],
        ("forward", "above"): whole[0] - below[0],
        ("map", "above"): whole[1],
    }
    if differentiate:
        found["backward", "below"] = below[-1]
        found["double backward", "above"] = whole[-1] - below[-1]
    return found


def _laps(
    networks: Networks,
    count: int,
    to_images: bool,
    differentiate: bool,
    forward: Callable[[Tensor, Callable[[], None]], list[Tensor]],
) -> list[Work]:
    """The work of `forward` (which may ask for a lap of its own) and of the backward pass of what it returns."""
    _clear(networks)
    laps: list[Work] = []
    images = networks.images(count).requires_grad_(to_images)
    with Meter(networks.device) as meter:
        outputs = forward(images, lambda: laps.append(meter.lap()))
        laps.append(meter.lap())
        if differentiate:
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
            laps.append(meter.lap())
    return laps


def reveal(
    networks: Networks, images: Tensor, *, create_graph: bool, forward_done: Callable[[], None] = lambda: None
) -> Tensor:
    """Bias scores [m] of images [m, 1, H, W], as the loop's `reveal` computes them."""
    config, count = networks.config, len(images)
    masks = networks.masks(count)
    with evaluating(networks.classifier), autocast(networks):
        prediction = networks.classifier(images, *networks.captions(count), float32_above_map=True)
    forward_done()
    heatmap = attribution_map(prediction, networks.labels(count), config.explain.method, create_graph=create_graph)
    if config.revise.score == "out_of_mask":
        return out_of_mask(heatmap, masks)
    return reveal_score(heatmap, masks, networks.descriptor.evidence(images), config.revise.score)


def gan_parts(networks: Networks) -> Iterator[Part]:
    """Generator, critic, gradient penalty and bias descriptor; nothing where the classifier is trained alone."""
    config, batch = networks.config, networks.config.train.batch_size
    if not config.train.generator:
        return
    turns = float(config.objective.n_critic)
    labels = networks.labels(batch)
    with torch.no_grad():
        yield next(_no_backward(networks, "generator", "for the critic", batch, turns))
    yield from _forward_backward(
        networks, "generator", "its update", batch, 1.0, lambda: networks.generator(networks.latents(batch), labels)
    )
    yield from _forward_backward(
        networks,
        "critic",
        "its update",
        2 * batch,
        turns,
        lambda: networks.critic(networks.images(2 * batch), labels.repeat(2)),
    )
    networks.critic.requires_grad_(False)
    fake = networks.images(batch).requires_grad_()
    yield from _forward_backward(
        networks, "critic", "the generator's update", batch, 1.0, lambda: networks.critic(fake, labels)
    )
    networks.critic.requires_grad_(True)
    if config.objective.lambda_gp > 0:
        yield from _penalty_parts(networks, batch, turns)
    yield from _descriptor_parts(networks, batch)


def _no_backward(networks: Networks, component: str, use: str, batch: int, times: float) -> Iterator[Part]:
    with Meter(networks.device) as meter, autocast(networks):
        networks.generator(networks.latents(batch), networks.labels(batch))
        work = meter.lap()
    yield Part(component, "forward", use, batch, times, networks.config.train.precision, work)


def _penalty_parts(networks: Networks, batch: int, turns: float) -> Iterator[Part]:
    """Eq. 3: forward pass, gradient with respect to the mixed images, and the backward pass through that gradient."""
    _clear(networks)
    laps: list[Work] = []
    with Meter(networks.device) as meter:

        def critic(images: Tensor, labels: Tensor) -> Tensor:
            scores = networks.critic(images, labels)
            laps.append(meter.lap())
            return scores

        penalty = gradient_penalty(critic, networks.images(batch), networks.images(batch), networks.labels(batch))
        laps.append(meter.lap())
        penalty.backward()
        laps.append(meter.lap())
    phases: tuple[Phase, ...] = ("forward", "backward", "double backward")
    for phase, work in zip(phases, laps, strict=True):
        yield Part("penalty", phase, "its update", batch, turns, "fp32", work)


def _descriptor_parts(networks: Networks, batch: int) -> Iterator[Part]:
    """B of the generated batch and R_bias; the correction of flagged samples reads the same features."""
    fake = networks.images(batch).requires_grad_()
    with Meter(networks.device) as meter:
        loss = bias_loss(networks.descriptor(fake), networks.labels(batch), networks.reference)
        there = meter.lap()
        loss.backward()
        back = meter.lap()
    yield Part("descriptor", "forward", "R_bias", batch, 1.0, "fp32", there)
    yield Part("descriptor", "backward", "R_bias", batch, 1.0, "fp32", back)


# --- the three updates as a whole, for their memory ----------------------------------------------


def updates(networks: Networks) -> dict[str, Callable[[], None]]:
    """The updates by the name of their optimiser."""
    adversaries = {
        "critic": lambda: critic_update(networks),
        "generator": lambda: generator_update(networks),
    }
    return {
        **(adversaries if networks.config.train.generator else {}),
        "classifier": lambda: classifier_update(networks),
    }


def critic_update(networks: Networks) -> None:
    """The passes of `critic_step`."""
    config, batch = networks.config, networks.config.train.batch_size
    real, labels = networks.images(batch), networks.labels(batch)
    with autocast(networks):
        with torch.no_grad():
            fake = networks.generator(networks.latents(batch), labels).float()
        scores = networks.critic(torch.cat([fake, real]), labels.repeat(2)).float()
    loss = scores[:batch].mean() - scores[batch:].mean()
    if config.objective.lambda_gp > 0:
        loss = loss + config.objective.lambda_gp * gradient_penalty(networks.critic, real, fake, labels)
    loss.backward()


def generator_update(networks: Networks) -> None:
    """The passes of `generate` and `generator_step`."""
    config, batch, count = networks.config, networks.config.train.batch_size, networks.monitored
    labels = networks.labels(batch)
    networks.critic.requires_grad_(False)
    with autocast(networks):
        fake = networks.generator(networks.latents(batch), labels).float()
        loss = -networks.critic(fake, labels).float().mean()
    features = networks.descriptor(fake)
    loss = loss + config.objective.lambda_bias * bias_loss(features, labels, networks.reference)
    if config.revise.enabled and config.revise.generator_weight > 0:
        deviation = bias_deviation(features[:count], labels[:count], networks.reference)
        loss = loss + deviation.mean() + (fake[:count] * networks.images(count)).sum()
    loss.backward()
    networks.critic.requires_grad_(True)


def classifier_update(networks: Networks) -> None:
    """The passes of `classifier_step`, while the generated batch's graph waits for its turn."""
    config, batch, count = networks.config, networks.config.train.batch_size, networks.monitored
    with autocast(networks):
        if config.train.generator:
            fake = networks.generator(networks.latents(batch), networks.labels(batch)).float()
        logits = networks.classifier(networks.images(batch), *networks.captions(batch)).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), networks.labels(batch))
    if not explains(config):
        loss.backward()
        return
    images = networks.images(count)
    if config.revise.enabled:
        shown = fake[:count].detach().requires_grad_(config.revise.generator_weight > 0)
        images = torch.cat([images, shown])
    loss = loss + reveal(networks, images, create_graph=True).mean()
    loss.backward()
    if config.revise.enabled:
        with frozen(networks.classifier):
            reveal(networks, images.detach(), create_graph=False)


def peak(networks: Networks, update: Callable[[], None]) -> int:
    """Most bytes that an update allocates at once, the gradients it leaves included."""
    _clear(networks)
    with Meter(networks.device) as meter:
        update()
        return meter.peak_bytes


@contextlib.contextmanager
def autocast(networks: Networks) -> Iterator[None]:
    """train.precision, as Accelerate wraps the networks' forward passes."""
    dtype = _DTYPES.get(networks.config.train.precision)
    if dtype is None:
        yield
        return
    with torch.autocast(networks.device.type, dtype=dtype):
        yield


def _clear(networks: Networks) -> None:
    for module in networks.trained().values():
        module.zero_grad(set_to_none=True)
