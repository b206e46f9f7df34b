"""Everything one run trains with, built from its configuration: data, networks, optimisers, bias reference."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from genxai.config import Config, TrainConfig
from genxai.data import SPLITS, TexMM
from genxai.data.counter_rng import derive_seed
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES
from genxai.errors import UsageError
from genxai.fairness import BiasReference, bias_reference, build_descriptor
from genxai.models import Critic, FusionClassifier, Generator
from genxai.training.draws import Draws

log = logging.getLogger(__name__)

#: images per batch where no gradient is kept (descriptor statistics, evaluation)
EVALUATION_BATCH = 512


@dataclass
class Experiment:
    """The parts of the joint loop.

    `generator`, `critic` and `classifier` are the modules themselves; `wrapped` holds what Accelerate made of them
    (autocast, gradient synchronisation). Forward passes that are differentiated twice use the modules.
    """

    config: Config
    accelerator: Accelerator
    train: TexMM
    draws: Draws
    generator: Generator
    average: Generator
    critic: Critic
    classifier: FusionClassifier
    wrapped: dict[str, Callable[..., Any]]
    optimizers: dict[str, Any]
    descriptor: Any
    reference: BiasReference

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def steps(self) -> int:
        """Generator steps of the whole run."""
        return self.config.train.epochs * self.draws.steps_per_epoch

    @property
    def monitored(self) -> int:
        """Samples of a batch that are explained: the configured fraction, at least one."""
        return max(1, round(self.config.explain.fraction * len(self.draws.positions)))

    def explains(self, step: int) -> bool:
        """Whether attribution maps are computed at this step."""
        config = self.config
        wanted = config.revise.enabled or config.objective.lambda_attribution > 0
        return wanted and step % config.explain.every == 0

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        return {
            "generator": self.generator,
            "average": self.average,
            "critic": self.critic,
            "classifier": self.classifier,
        }


def build(config: Config, tracker_folder: Path | None = None) -> Experiment:
    """The experiment of a configuration, at step 0. Raises GenxaiError for data or weights that cannot be had."""
    accelerator = _accelerator(config, tracker_folder)
    device = accelerator.device
    train = TexMM(config, "train", device)
    for split in SPLITS:
        if not len(TexMM(config, split, device)):
            raise UsageError(
                f"the split {split} is empty: data.train_limit, data.test_limit, data.val_fraction and "
                f"data.balanced_val_size leave too few images of each class"
            )
    generator = _seeded(config, "generator", lambda: Generator(config.model.gan, NUM_CLASSES, config.data.image_size))
    critic = _seeded(config, "critic", lambda: Critic(config.model.gan, NUM_CLASSES, config.data.image_size))
    classifier = _seeded(config, "classifier", lambda: FusionClassifier(config.model, NUM_CLASSES, train.vocab_size))
    for module in (generator, critic, classifier):
        module.to(device)
    average = copy.deepcopy(generator).requires_grad_(False)
    optimizers = {
        "generator": _gan_optimizer(generator, config.train),
        "critic": _gan_optimizer(critic, config.train),
        "classifier": _classifier_optimizer(classifier, config.train),
    }
    names = list(optimizers)
    prepared = accelerator.prepare(generator, critic, classifier, *optimizers.values())
    descriptor = build_descriptor(config.objective.bias_descriptor, config.data.image_size).to(device)
    return Experiment(
        config=config,
        accelerator=accelerator,
        train=train,
        draws=Draws(config.seed, len(train), config.train.batch_size, _positions(config, accelerator)),
        generator=generator,
        average=average,
        critic=critic,
        classifier=classifier,
        wrapped=dict(zip(names, prepared[:3], strict=True)),
        optimizers=dict(zip(names, prepared[3:], strict=True)),
        descriptor=descriptor,
        reference=reference_statistics(config, train, descriptor),
    )


def choose_device(config: Config) -> str:
    """'cpu' or 'cuda' for the configured device."""
    if config.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("run.device is 'cuda' but torch sees no GPU; use run.device=auto or run.device=cpu")
    return config.run.device


def _accelerator(config: Config, tracker_folder: Path | None) -> Accelerator:
    # Accelerate keeps its state in the process; a second run in one process (tests, packing) starts afresh
    AcceleratorState._reset_state(True)
    precision = {"fp32": "no"}.get(config.train.precision, config.train.precision)
    trackers = list(config.run.trackers) if tracker_folder else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator = Accelerator(
                cpu=choose_device(config) == "cpu",
                mixed_precision=precision,
                log_with=trackers or None,
                project_dir=str(tracker_folder) if tracker_folder else None,
            )
    except ValueError as error:
        raise UsageError(f"run.trackers or train.precision: {error}") from None
    if accelerator.num_processes > 1:
        # the run directory has one writer so far; never let two processes believe they are it
        raise UsageError(f"a run is one process for now, got {accelerator.num_processes}; start it without a launcher")
    unavailable = set(trackers) - {getattr(tracker, "value", str(tracker)) for tracker in accelerator.log_with}
    if unavailable:
        raise UsageError(
            f"run.trackers: {', '.join(sorted(unavailable))} is not installed; pip install it or leave it out"
        )
    return accelerator


def _positions(config: Config, accelerator: Accelerator) -> Tensor:
    """The places of the global batch that this process computes: a contiguous share."""
    count, processes = config.train.batch_size, accelerator.num_processes
    if count % processes:
        raise UsageError(f"train.batch_size={count} cannot be shared equally by {processes} processes")
    share = count // processes
    start = accelerator.process_index * share
    return torch.arange(start, start + share, device=accelerator.device)


def _seeded(config: Config, part: str, make: Callable[[], Any]) -> Any:
    """Initialise one network from its own seed, so that changing one leaves the others as they were."""
    torch.manual_seed(derive_seed(config.seed, "init", part))
    return make()


def _gan_optimizer(module: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    # no weight decay: it fights the gradient penalty's pull towards slope one
    if train.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=train.gan_lr)
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=train.gan_lr, betas=train.gan_betas, weight_decay=0.0, fused=True)


def _classifier_optimizer(module: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    if train.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=train.lr, momentum=0.9, weight_decay=train.weight_decay)
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)


@torch.no_grad()
def reference_statistics(config: Config, train: TexMM, descriptor: Any) -> BiasReference:
    """E[B(x)] of Eq. 5, once: of the training data as they are or balanced over textures, or of val_balanced.

    The balanced reference can only weigh the (class, texture) groups that training has; at rho = 1 that is one texture
    a class and no balance at all. `validation` has every texture in every class, from a few held-out images.
    """
    objective = config.objective
    data = TexMM(config, "val_balanced", train.labels.device) if objective.bias_reference == "validation" else train
    features = [
        descriptor(data.batch(indices).images)
        for indices in torch.arange(len(data), device=data.labels.device).split(EVALUATION_BATCH)
    ]
    reference = bias_reference(
        torch.cat(features),
        data.labels,
        data.textures,
        kind="data" if objective.bias_reference == "data" else "balanced",
        conditional=objective.bias_conditional,
        num_classes=NUM_CLASSES,
        num_textures=NUM_TEXTURES,
    )
    groups, missing = NUM_CLASSES * NUM_TEXTURES, reference.missing_groups
    if objective.bias_reference != "data" and missing:
        log.warning(
            "the %s reference lacks %d of %d (class, texture) groups", objective.bias_reference, missing, groups
        )
    return reference
