"""Numbers of the averaged generator: one cheap one at every evaluation, all of them at the end of a run.

Fixed latents and class labels; training state is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genxai.data import TexMM
from genxai.data.counter_rng import integers
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES
from genxai.fairness import build_descriptor
from genxai.metrics.extractor import split_rows
from genxai.metrics.fidelity import Fidelity
from genxai.metrics.generated import (
    conditional_accuracy,
    contingency,
    diversity,
    generated_bias,
    read_textures,
    texture_accuracy,
    texture_bias,
    texture_confusion,
)
from genxai.models import evaluating
from genxai.training.draws import Draws
from genxai.training.experiment import EVALUATION_BATCH, Experiment
from genxai.training.steps import object_masks

#: generated images that the number of every evaluation is a mean over
GENERATED = 1000

Batches = Iterator[tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate_generator(experiment: Experiment) -> dict[str, float]:
    """The averaged generator on a fixed set of latents and class labels, by Eq. 5: against what it is held to
    (`bias_gap`), and against a reference that is the same for every configuration (`bias_gap_reference`).
    """
    parts = [(experiment.descriptor(images), labels) for images, labels in generated(experiment, GENERATED)]
    features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return {
        "generator/bias_gap": generated_bias(features, labels, experiment.reference),
        "generator/bias_gap_reference": generated_bias(features, labels, experiment.common_reference),
    }


def generated(experiment: Experiment, count: int) -> Batches:
    """G(z, y) in batches, with y: classes in turn; the same images whenever, the first of them whatever `count`."""
    config, device = experiment.config, experiment.device
    draws = Draws(config.seed, len(experiment.train), count, torch.arange(count, device=device))
    labels = torch.arange(count, device=device) % experiment.train.num_classes
    (latents,) = draws.latents("evaluation", config.model.gan.latent_dim, 0)
    with evaluating(experiment.average):
        for z, y in zip(latents.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            yield experiment.average(z, y), y


@dataclass(frozen=True)
class GeneratorReport:
    """The numbers of a generator, keyed `generator/<metric>`, and what they were made with, for result.json."""

    metrics: dict[str, float]
    record: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What is read off N images."""

    labels: Tensor  # int64 [N]: the class asked for, or the true one
    whole: Tensor  # [N, ...] on the CPU: what FID and its kin compare
    objects: Tensor  # float32 [N, 138] on the CPU: the grey extractor's rows, of images without background
    textures: Tensor | None  # int64 [N]: as read; None where there is no grating to read

    def table(self) -> Tensor:
        """How often each (class, texture as read) occurs, [K, A]."""
        assert self.textures is not None
        return contingency(self.labels, self.textures, NUM_CLASSES, NUM_TEXTURES)

    def accuracy(self) -> float:
        return conditional_accuracy(split_rows(self.objects)[1].argmax(1), self.labels.cpu())


class Judge:
    """The fixed instruments: the same for generated and for real images.

    The grey extractor knows clean images only: under a grating its classes are hardly better than chance, without the
    background nearly what the mask allows (docs/generator.md has both, measured on val_balanced). So where images have
    a grating, classes, diversity and the `_object` measures are of images without background, with the mask estimated
    as it has to be for generated images.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Raises as `Fidelity.configured`."""
        self._experiment, data, device = experiment, experiment.config.data, experiment.device
        self.fidelity = Fidelity.configured(experiment.config, device)
        self.grey = self.fidelity if self.fidelity.grey else Fidelity("grey", data.dataset, device)
        textured = data.shows_gratings
        self.bank = build_descriptor("texture_energy", data.image_size).to(device) if textured else None

    @torch.no_grad()
    def look(self, batches: Batches) -> Seen:
        """Read everything off images [B, 1, H, W] in [0, 1] with labels int64 [B]."""
        columns = zip(*(self._read(images, labels) for images, labels in batches), strict=True)
        labels, whole, objects, textures = (torch.cat(column) for column in columns)
        return Seen(labels, whole, objects, textures if self.bank else None)

    def _read(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        alone = images * object_masks(self._experiment, images) if self.bank else images
        amplitude = self._experiment.config.data.amplitude
        textures = read_textures(images, self.bank, amplitude) if self.bank else labels
        return labels, self.fidelity.inputs(images), self.grey.inputs(alone), textures


def evaluate_generator_fully(experiment: Experiment) -> GeneratorReport:
    """Every number of the averaged generator that the configuration asks for.

    To be called by every process; the first computes what `train.generator_metrics` adds, all get it.
    """
    cheap = evaluate_generator(experiment)
    if not experiment.config.train.generator_metrics:
        return GeneratorReport(cheap, {})
    found = experiment.processes.share(_report(experiment) if experiment.processes.first else None)
    return GeneratorReport(cheap | found.metrics, found.record)


def _report(experiment: Experiment) -> GeneratorReport:
    config, device = experiment.config, experiment.device
    judge = Judge(experiment)
    ours = judge.look(generated(experiment, config.train.generated_samples))
    test, unbiased, balanced = (TexMM(config, name, device) for name in ("test", "test_unbiased", "val_balanced"))
    real, fair, held_out = (judge.look(whole(split)) for split in (test, unbiased, balanced))
    values: dict[str, float] = {
        "n_generated": len(ours.labels),
        "n_reference": len(real.labels),
        "conditional_accuracy": ours.accuracy(),
        "conditional_accuracy_real": fair.accuracy(),
        "diversity": _diversity(ours, real),
    }
    values |= _fidelity(experiment, judge, ours, real, fair)
    record: dict[str, Any] = {"fid_extractor": judge.fidelity.extractor, "grey_extractor": judge.grey.extractor}
    if held_out.textures is not None:
        confusion = texture_confusion(held_out.textures, balanced.textures, NUM_TEXTURES)
        for suffix, seen in ("", ours), ("_real", real), ("_unbiased", fair):
            values |= {f"{name}{suffix}": value for name, value in texture_bias(seen.table(), confusion).items()}
        values["texture_accuracy"] = texture_accuracy(held_out.textures, balanced.textures)
        record["texture_confusion"] = [[round(share, 6) for share in row] for row in confusion.tolist()]
    return GeneratorReport({f"generator/{name}": value for name, value in values.items()}, record)


def _diversity(ours: Seen, real: Seen) -> float:
    features, real_features = (split_rows(side.objects)[0] for side in (ours, real))
    return diversity(features, ours.labels.cpu(), real_features, real.labels.cpu())


def _fidelity(experiment: Experiment, judge: Judge, ours: Seen, real: Seen, fair: Seen) -> dict[str, float]:
    """FID and its kin of the generator, and beside them those of real training images in its place.

    `_floor` and `_real`: training images against the reference; of them as many as generated ones, if there are.
    fid_unbiased_floor: the same with textures drawn uniformly; fid_unbiased_copy: with their own, so what copying the
    biased data would give.
    """
    train = experiment.images
    count = min(len(ours.labels), len(train))
    chosen = torch.arange(count, device=train.labels.device) * len(train) // count  # evenly spread
    uniform = integers(experiment.config.data.seed, "texture/floor", NUM_TEXTURES, chosen)
    copied, retextured = (judge.look(some(train, chosen, textures)) for textures in (None, uniform))
    values: dict[str, float] = {"n_floor": count}
    for suffix, fidelity, part, names in (
        ("", judge.fidelity, "whole", ("fid", "is", "kid", "prc")),
        ("_object", judge.grey, "objects", ("fid", "is", "prc")),
    ):
        images, copies, reference = (getattr(side, part) for side in (ours, copied, real))
        found, floor = (fidelity.compare(side, reference, *names) for side in (images, copies))
        values |= {f"{name}{suffix}": value for name, value in found.items()}
        values |= {f"{name}{suffix}_floor": floor[name] for name in ("fid", "kid") if name in floor}
        values |= {f"{name}{suffix}_real": floor[name] for name in ("is", "precision", "recall")}
    for name, seen in ("", ours), ("_floor", retextured), ("_copy", copied):
        values[f"fid_unbiased{name}"] = judge.fidelity.compare(seen.whole, fair.whole, "fid")["fid"]
    return values


def whole(split: TexMM) -> Batches:
    """All images of a split with their labels, in batches."""
    return some(split, torch.arange(len(split), device=split.labels.device))


def some(split: TexMM, indices: Tensor, textures: Tensor | None = None) -> Batches:
    """The images at these places, with other textures than their own if given, and their labels."""
    shown = split.textures[indices] if textures is None else textures
    for part, own in zip(indices.split(EVALUATION_BATCH), shown.split(EVALUATION_BATCH), strict=True):
        sample = split.batch(part, textures=own)
        yield sample.images, sample.labels
