"""Numbers of a classifier on named splits; training state is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genxai.config import Config
from genxai.data import Sample, TexMM, open_split, split_names
from genxai.errors import CheckpointError
from genxai.explain import resize_map
from genxai.metrics import classification_metrics, counterfactual_flip_rate, localisation_metrics
from genxai.models import FusionClassifier, evaluating, frozen
from genxai.runs import Run
from genxai.training import checkpoints
from genxai.training.experiment import EVALUATION_BATCH, Experiment, choose_device
from genxai.training.objectives import attribution_map
from genxai.training.parallel import Processes
from genxai.training.precision import compute_in_float32

Metrics = dict[str, float]


@dataclass(frozen=True)
class Predictions:
    """Outputs over a whole split: probabilities [N, K], and for explained samples maps [n, h, w] and masks."""

    probabilities: Tensor
    maps: Tensor | None
    masks: Tensor | None


def evaluate_split(classifier: nn.Module, experiment: Experiment, split: str) -> Metrics:
    """Metrics of one split, keyed `<split>/<metric>`, in [0, 1].

    To be called by every process; each computes a share, all get the whole.
    """
    return measure_split(classifier, experiment.config, split, experiment.device, experiment.processes)


def measure_split(
    classifier: nn.Module, config: Config, split: str, device: torch.device, processes: Processes | None = None
) -> Metrics:
    """As `evaluate_split`, for a classifier without an experiment around it."""
    data = open_split(config, split, device)
    explained = min(config.train.explain_samples, len(data)) if split in split_names(config.data).explained else 0
    with evaluating(classifier):
        found = predict(classifier, config, data, explained, processes or Processes())
    if split == "test_counterfactual":
        values = {"flip_rate": counterfactual_flip_rate(found.probabilities.argmax(1))}
    else:
        values = classification_metrics(found.probabilities, data.labels, data.textures, data.aligned)
    if found.maps is not None and found.masks is not None:
        values |= localisation_metrics(found.maps, found.masks)
    return {f"{split}/{name}": value for name, value in values.items()}


def predict(classifier: nn.Module, config: Config, data: TexMM, explained: int, processes: Processes) -> Predictions:
    """Probabilities for all of a split and maps of the predicted class for its first `explained` samples.

    Batches are cut as for one process and dealt out, so that the numbers do not depend on how many there are.
    """

    def probabilities(sample: Sample) -> Tensor:
        with torch.no_grad():
            return classifier(sample.images, sample.tokens, sample.token_mask).logits.float().softmax(1)

    def maps(sample: Sample) -> Tensor:
        return explain(classifier, sample, config.explain.method)

    found = _in_batches(probabilities, data, len(data), EVALUATION_BATCH, processes)
    if not explained or config.model.fusion == "text":
        return Predictions(found, None, None)
    masks = torch.cat([data.batch(part).masks for part in _batches(data, explained, EVALUATION_BATCH)])
    return Predictions(found, _in_batches(maps, data, explained, EVALUATION_BATCH // 4, processes), masks)


def _batches(data: TexMM, count: int, size: int) -> tuple[Tensor, ...]:
    return torch.arange(count, device=data.labels.device).split(size)


def _in_batches(
    measure: Callable[[Sample], Tensor], data: TexMM, count: int, size: int, processes: Processes
) -> Tensor:
    """`measure` of the first `count` samples, [count, ...], each process computing every n-th batch."""
    parts = _batches(data, count, size)
    mine = {
        number: measure(data.batch(parts[number])) for number in range(len(parts))[processes.rank :: processes.count]
    }
    if processes.count == 1:
        return torch.cat(list(mine.values()))
    shape = processes.share(tuple(mine[0].shape[1:]) if processes.first else None)
    whole = torch.zeros(count, *shape, device=data.labels.device)
    for number, part in mine.items():
        whole[parts[number]] = part
    return processes.total(whole)  # every row is zero on all processes but one


def explain(classifier: nn.Module, sample: Sample, method: str) -> Tensor:
    """Maps [B, h, w] of the class the classifier predicts, which is all a user would know."""
    with torch.enable_grad(), frozen(classifier):
        prediction = classifier(sample.images, sample.tokens, sample.token_mask)
        return attribution_map(prediction, prediction.logits.argmax(1), method, create_graph=False).detach()


def evaluate_checkpoint(run: Run, splits: tuple[str, ...]) -> Metrics:
    """Metrics of the classifier that a run's newest intact checkpoint keeps; reads only.

    Raises CheckpointError when there is none.
    """
    found = checkpoints.latest(run.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.path} has no checkpoint yet; start it with launch/train.py {run.path}")
    saved, _ = found
    config = run.config()
    torch.set_num_threads(config.train.threads)
    compute_in_float32()
    device = torch.device(choose_device(config))
    data = open_split(config, splits[0], device)
    classifier = FusionClassifier(config.model, data.num_classes, data.vocab_size)
    classifier.load_state_dict(saved["loop"]["best"] or saved["modules"]["classifier"])
    classifier.to(device)
    return {name: value for split in splits for name, value in measure_split(classifier, config, split, device).items()}


def full_size_maps(maps: Tensor, images: Tensor) -> Tensor:
    """Maps [B, h, w] resized to the images and scaled to [0, 1] each, for looking at only."""
    sized = resize_map(maps, images.shape[-1])
    return sized / sized.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
