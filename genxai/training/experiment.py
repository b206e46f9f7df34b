"""Everything one run trains with, built from its configuration: data, networks, optimisers, bias reference."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from genxai.config import Config
from genxai.data import Sample, TexMM, open_split, split_names
from genxai.data.counter_rng import derive_seed
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES
from genxai.errors import UsageError
from genxai.explain import require_second_opinion
from genxai.explain.text_captum import require_captum
from genxai.fairness import BiasReference, Descriptor, bias_reference, build_descriptor
from genxai.fairness.bias import ReferenceKind
from genxai.fairness.methods import Method, build_method
from genxai.metrics.fidelity import Fidelity
from genxai.models import Critic, FusionClassifier, Generator
from genxai.models.dropout import share_rows
from genxai.training.backends import Trained
from genxai.training.backends.choose import choose_backend, keep_accelerate_out, prepare
from genxai.training.draws import Draws, running_sum
from genxai.training.parallel import Processes, world_size
from genxai.training.precision import Precision, compute_in_float32

if TYPE_CHECKING:
    from genxai.data.toxicity import ToxicText

log = logging.getLogger(__name__)

#: images per batch where no gradient is kept (descriptor statistics, evaluation)
EVALUATION_BATCH = 512
#: backends under which the classifier's weights are not whole
SHARDED = ("fsdp2", "zero3")


@dataclass(frozen=True)
class Generation:
    """What training a generator takes besides its network and the critic's."""

    average: Generator
    descriptor: Descriptor
    reference: BiasReference
    #: the same for every configuration: what generators of different ones are compared with
    common_reference: BiasReference


@dataclass
class Experiment:
    """The parts of the joint loop.

    `trained` holds the networks under their backend, the classifier alone if `train.generator` is false; the properties
    are the modules themselves, which passes that are differentiated twice, and passes through a frozen network, use
    directly.
    """

    config: Config
    backend: str
    processes: Processes
    accelerator: Accelerator
    train: TexMM | ToxicText
    draws: Draws
    precision: Precision
    trained: dict[str, Trained]
    #: None where the classifier is trained alone
    generation: Generation | None
    #: what else trains the classifier against a shortcut
    method: Method
    #: running sum of the method's sampling weights over the training samples; None: each once an epoch
    sampling: Tensor | None = None
    #: a classifier with whole weights, for evaluation; None where the trained one has them itself
    replica: FusionClassifier | None = None

    @property
    def generator(self) -> Generator:
        return cast(Generator, self.trained["generator"].module)

    @property
    def critic(self) -> Critic:
        return cast(Critic, self.trained["critic"].module)

    @property
    def classifier(self) -> FusionClassifier:
        return cast(FusionClassifier, self.trained["classifier"].module)

    @property
    def images(self) -> TexMM:
        """The training split where it is one of images."""
        return cast("TexMM", self.train)

    @property
    def comments(self) -> ToxicText:
        """The training split where it is one of comments."""
        return cast("ToxicText", self.train)

    @property
    def average(self) -> Generator:
        """The averaged generator, which is the one evaluated."""
        return self._generation.average

    @property
    def descriptor(self) -> Any:
        """B(x)."""
        return self._generation.descriptor

    @property
    def reference(self) -> BiasReference:
        """What E[B(G)] is held to."""
        return self._generation.reference

    @property
    def common_reference(self) -> BiasReference:
        """E[B(x) | y] over val_balanced, whatever the generator is held to."""
        return self._generation.common_reference

    @property
    def _generation(self) -> Generation:
        assert self.generation is not None, "this run trains no generator (train.generator=false)"
        return self.generation

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def steps(self) -> int:
        """Generator steps of the whole run."""
        return self.config.train.epochs * self.draws.steps_per_epoch

    @property
    def all_monitored(self) -> int:
        """Samples of the global batch that are explained: the configured fraction, at least one."""
        return self.config.explained_samples

    @property
    def monitored(self) -> int:
        """How many of them this process explains: its first ones."""
        return len(range(self.processes.rank, self.all_monitored, self.processes.count))

    def explains(self, step: int) -> bool:
        """Whether attribution maps are computed at this step."""
        explain = self.config.explain
        begun = step >= explain.from_epoch * self.draws.steps_per_epoch
        return self.config.explains and begun and step % explain.every == 0

    def classifier_began(self, step: int) -> int:
        """The step at which the learning rate of the classifier that is trained at this one has started."""
        restart = self.restart_epoch * self.draws.steps_per_epoch
        return restart if step >= restart else 0

    @property
    def restart_epoch(self) -> int:
        """Epochs before what is kept of the classifier, and its learning rate, start again; 0: they never do.

        A method trains it anew (jtt), or a post-hoc fine-tune goes on from the classifier that was never explained.
        """
        return max(self.method.restart_epoch, self.config.explain.from_epoch if self.config.explains else 0)

    def classifier_batch(self, step: int) -> Sample:
        """The real samples of the classifier update, chosen and composed as the method says."""
        if self.sampling is None:
            indices = self.draws.classifier_indices(step)
        else:
            indices = self.draws.weighted_indices(step, self.sampling)
        return self.method.batch(step, indices, self.draws.positions)

    def weigh_samples(self) -> None:
        """Draw from now on as often as the method says."""
        weights = self.method.sampling_weights()
        self.sampling = None if weights is None else running_sum(weights)

    def restart_classifier(self) -> None:
        """The classifier's initial weights, an optimiser and a loss scaler that know nothing; by every process."""
        trained, scaler = self.trained["classifier"], self.precision.scaler()
        network = _network("classifier", self.config, self.train, self.device)
        optimizer = {**trained.optimizer_state(), "state": {}}
        trained.load(network.state_dict(), optimizer, None if scaler is None else scaler.state_dict())

    def modules(self) -> dict[str, nn.Module]:
        """The networks that a run trains, by name."""
        modules = {name: trained.module for name, trained in self.trained.items()}
        return modules if self.generation is None else {**modules, "average": self.average}

    def network_states(self) -> dict[str, dict[str, Tensor]]:
        """Every network's whole state_dict; to be called by every process."""
        states = {name: trained.network_state() for name, trained in self.trained.items()}
        return states if self.generation is None else states | {"average": self.average.state_dict()}

    def whole_classifier(self) -> FusionClassifier:
        """The classifier to evaluate, its weights not sharded; to be called by every process."""
        if self.replica is None:
            return self.classifier
        self.replica.load_state_dict(self.trained["classifier"].network_state())
        return self.replica


def build(config: Config, backend: str | None = None, tracker_folder: Path | None = None) -> Experiment:
    """The experiment of a configuration, at step 0. Raises GenxaiError for data or weights that cannot be had.

    backend: as `choose_backend` found it before Accelerate was started; asked here if not given.
    """
    backend = backend or choose_backend(config)
    accelerator = make_accelerator(config, tracker_folder)
    processes, device = Processes.of_this_run(), accelerator.device
    precision = Precision(config.train.precision, device)
    torch.set_num_threads(config.train.threads)  # Accelerate sets its own where there are several processes
    compute_in_float32()
    _refuse_unequal_passes(config, backend, processes)
    if config.data.is_text:
        require_captum()  # now and not at the final evaluation
    train = open_split(config, "train", device)
    for split in split_names(config.data).every:
        if not len(open_split(config, split, device)):
            raise UsageError(
                f"the split {split} is empty: data.train_limit, data.test_limit, data.val_fraction and "
                f"data.balanced_val_size leave too few images of each class"
            )
    if config.train.second_opinion:
        require_second_opinion()
    if config.train.generator and config.train.generator_metrics:
        Fidelity.configured(config, device)  # what it lacks is said now and not at the end
    method = build_method(config, train, processes)
    positions = _positions(config, processes, device)
    modules = _networks(config, train, device)
    if processes.count > 1:
        share_rows(modules["classifier"], positions, config.train.batch_size)
    _synchronise_batch_norm(modules["classifier"], config, processes, device)
    generation = None
    if config.train.generator and isinstance(train, TexMM):
        generation = _generation(config, train, modules["generator"])
    replica = copy.deepcopy(modules["classifier"]) if backend in SHARDED else None
    experiment = Experiment(
        config=config,
        backend=backend,
        processes=processes,
        accelerator=accelerator,
        train=train,
        draws=Draws(config.seed, len(train), config.train.batch_size, positions),
        precision=precision,
        trained=prepare(backend, modules, config, precision, processes.count),
        generation=generation,
        method=method,
        replica=cast("FusionClassifier | None", replica),
    )
    experiment.weigh_samples()
    return experiment


def _refuse_unequal_passes(config: Config, backend: str, processes: Processes) -> None:
    """Under FSDP2 a pass gathers weights from all processes: one that explains nothing would leave them waiting."""
    if backend == "fsdp2" and config.explains and config.explained_samples < processes.count:
        raise UsageError(
            f"train.backend=fsdp2 needs a sample to explain on each of {processes.count} processes, but "
            f"explain.fraction={config.explain.fraction} of train.batch_size={config.train.batch_size} is "
            f"{config.explained_samples}: raise one of them, or use ddp, zero1 or zero2"
        )


def _networks(config: Config, data: TexMM | ToxicText, device: torch.device) -> dict[str, nn.Module]:
    names = ("generator", "critic", "classifier") if config.train.generator else ("classifier",)
    return {name: _network(name, config, data, device) for name in names}


def _network(name: str, config: Config, data: TexMM | ToxicText, device: torch.device) -> nn.Module:
    """A network at its start, initialised from its own seed: changing one leaves the others alone."""
    model, side = config.model, config.data.image_size
    make: dict[str, Callable[[], nn.Module]] = {
        "generator": lambda: Generator(model.gan, data.num_classes, side),
        "critic": lambda: Critic(model.gan, data.num_classes, side),
        "classifier": lambda: FusionClassifier(model, data.num_classes, data.vocab_size),
    }
    torch.manual_seed(derive_seed(config.seed, "init", name))
    return make[name]().to(device)


def _generation(config: Config, train: TexMM, generator: nn.Module) -> Generation:
    average = cast(Generator, copy.deepcopy(generator).requires_grad_(False))
    descriptor = build_descriptor(config.objective.bias_descriptor, config.data.image_size).to(train.labels.device)
    balanced = TexMM(config, "val_balanced", train.labels.device)
    common = class_statistics(balanced, descriptor, kind="balanced", conditional=True)
    return Generation(average, descriptor, reference_statistics(config, train, descriptor), common)


def _synchronise_batch_norm(classifier: nn.Module, config: Config, processes: Processes, device: torch.device) -> None:
    """Batch statistics over the global batch on GPUs; refused where there is no way to have them."""
    norms = [module for module in classifier.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if processes.count == 1 or not norms or config.model.image.batch_norm == "frozen":
        return
    if device.type != "cuda":
        raise UsageError(
            f"{config.model.image.name} has batch norm, whose statistics cannot be shared by {processes.count} "
            "processes on a CPU; use model.image.batch_norm=frozen, small_cnn, or one process"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(classifier)


def choose_device(config: Config) -> str:
    """'cpu' or 'cuda' for the configured device."""
    if config.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("run.device is 'cuda' but torch sees no GPU; use run.device=auto or run.device=cpu")
    return config.run.device


def make_accelerator(config: Config, tracker_folder: Path | None = None) -> Accelerator:
    """Device and trackers; joins the process group that a launcher's environment describes.

    Raises UsageError when the processes are not as many as `run.processes` says: a launcher that silently starts one
    must not pass for several.
    """
    # Accelerate keeps its state in the process; a second run in one process (tests, packing) starts afresh
    AcceleratorState._reset_state(True)
    keep_accelerate_out()
    trackers = list(config.run.trackers) if tracker_folder else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator = Accelerator(
                cpu=choose_device(config) == "cpu",
                mixed_precision="no",  # the networks' own business, see `precision`
                log_with=trackers or None,
                project_dir=str(tracker_folder) if tracker_folder else None,
            )
    except ValueError as error:
        where = "run.trackers" if world_size() == 1 else "run.trackers, or the launcher's MASTER_ADDR and MASTER_PORT"
        raise UsageError(f"{where}: {error}") from None
    wanted, started = config.run.processes, accelerator.num_processes
    if (wanted is not None and wanted != started) or started != world_size():
        raise UsageError(
            f"{started} process(es) joined, but run.processes={wanted} and WORLD_SIZE={world_size()}: start it with "
            "launch/train.py, torchrun, or accelerate launch --config_file slurm/accelerate/..."
        )
    unavailable = set(trackers) - {getattr(tracker, "value", str(tracker)) for tracker in accelerator.log_with}
    if unavailable:
        raise UsageError(
            f"run.trackers: {', '.join(sorted(unavailable))} is not installed; pip install it or leave it out"
        )
    return accelerator


def _positions(config: Config, processes: Processes, device: torch.device) -> Tensor:
    """The places of the global batch that this process computes, strided (see `parallel`)."""
    if config.train.batch_size % processes.count:
        raise UsageError(
            f"train.batch_size={config.train.batch_size} cannot be shared equally by {processes.count} processes"
        )
    return torch.arange(processes.rank, config.train.batch_size, processes.count, device=device)


@torch.no_grad()
def class_statistics(data: TexMM, descriptor: Descriptor, *, kind: ReferenceKind, conditional: bool) -> BiasReference:
    """`bias_reference` of a split's images."""
    parts = torch.arange(len(data), device=data.labels.device).split(EVALUATION_BATCH)
    return bias_reference(
        torch.cat([descriptor(data.batch(indices).images) for indices in parts]),
        data.labels,
        data.textures,
        kind=kind,
        conditional=conditional,
        num_classes=NUM_CLASSES,
        num_textures=NUM_TEXTURES,
    )


def reference_statistics(config: Config, train: TexMM, descriptor: Descriptor) -> BiasReference:
    """E[B(x)] of Eq. 5, once: of the training data as they are or balanced over textures, or of val_balanced.

    The balanced reference can only weigh the (class, texture) groups that training has; at rho = 1 that is one texture
    a class and no balance at all. `validation` has every texture in every class, from a few held-out images.
    """
    objective = config.objective
    data = TexMM(config, "val_balanced", train.labels.device) if objective.bias_reference == "validation" else train
    kind: ReferenceKind = "data" if objective.bias_reference == "data" else "balanced"
    reference = class_statistics(data, descriptor, kind=kind, conditional=objective.bias_conditional)
    groups, missing = NUM_CLASSES * NUM_TEXTURES, reference.missing_groups
    if objective.bias_reference != "data" and missing:
        log.warning(
            "the %s reference lacks %d of %d (class, texture) groups", objective.bias_reference, missing, groups
        )
    return reference
