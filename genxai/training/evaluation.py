"""Numbers of a classifier on a split, quick enough for every epoch; training state is left as it was.

What only result.json holds is in `final_evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.config import Config
from genxai.data import Sample, TexMM, split_names
from genxai.explain import resize_map
from genxai.metrics import Predictions, classification_metrics, localisation_metrics, pair_metrics
from genxai.models import FusionClassifier, evaluating, frozen
from genxai.training.batches import batches_of, class_probabilities, in_batches
from genxai.training.experiment import EVALUATION_BATCH, Experiment
from genxai.training.objectives import attribution_map
from genxai.training.parallel import Processes

Metrics = dict[str, float]
#: samples explained at a time, whose graphs are held
EXPLAINED_BATCH = EVALUATION_BATCH // 4
#: the split whose samples 2 i and 2 i + 1 are a pair
PAIRS = "test_counterfactual"


@dataclass(frozen=True)
class Observed:
    """What a classifier said about a split: of all samples its predictions, of the first n maps and masks."""

    data: TexMM
    predictions: Predictions
    maps: Tensor | None  # [n, h, w] of the predicted class; None: nothing is explained
    masks: Tensor | None  # bool [n, 1, H, W]


def evaluate_split(classifier: FusionClassifier, experiment: Experiment, split: str) -> Metrics:
    """Metrics of one split, keyed `<split>/<metric>`, in [0, 1].

    To be called by every process; each computes a share, all get the whole.
    """
    return measure_split(classifier, experiment.config, split, experiment.device, experiment.processes)


def measure_split(
    classifier: FusionClassifier, config: Config, split: str, device: torch.device, processes: Processes | None = None
) -> Metrics:
    """As `evaluate_split`, for a classifier without an experiment around it."""
    if config.data.is_text:
        from genxai.training.text_evaluation import measure_text  # late: TexMM needs nothing of it

        return keyed(split, measure_text(classifier, config, split, device, processes or Processes()))
    observed = observe(classifier, config, split, device, processes or Processes())
    found = prediction_metrics(observed, split)
    if observed.maps is not None and observed.masks is not None:
        found |= localisation_metrics(observed.maps, observed.masks)
    return keyed(split, found)


def prediction_metrics(observed: Observed, split: str) -> Metrics:
    """Metrics of the predictions by name. Of pairs, one of which shows what no image of the class does, only theirs."""
    return (pair_metrics if split == PAIRS else classification_metrics)(observed.predictions)


def keyed(split: str, values: Metrics) -> Metrics:
    """The values under `<split>/<name>`."""
    return {f"{split}/{name}": value for name, value in values.items()}


def observe(
    classifier: FusionClassifier, config: Config, split: str, device: torch.device, processes: Processes
) -> Observed:
    """Predictions for all of a split and maps of the predicted class for its first `train.explain_samples`.

    Batches are cut as for one process and dealt out, so that the numbers do not depend on how many there are.
    """
    data = TexMM(config, split, device)
    explained = min(config.train.explain_samples, len(data)) if split in split_names(config.data).explained else 0

    def maps(sample: Sample) -> Tensor:
        return explain(classifier, sample, config.explain.method)

    with evaluating(classifier):
        found = class_probabilities(classifier, data, processes)
        predictions = Predictions(found, data.labels, data.textures, data.aligned)
        if not explained or config.model.fusion == "text":
            return Observed(data, predictions, None, None)
        heatmaps = in_batches(maps, data, explained, EXPLAINED_BATCH, processes)
    masks = torch.cat([data.batch(part).masks for part in batches_of(data, explained, EVALUATION_BATCH)])
    return Observed(data, predictions, heatmaps, masks)


def explain(classifier: FusionClassifier, sample: Sample, method: str, classes: Tensor | None = None) -> Tensor:
    """Maps [B, h, w] of the given classes [B], or of those the classifier predicts, which is all a user would know."""
    with torch.enable_grad(), frozen(classifier):
        prediction = classifier(sample.images, sample.tokens, sample.token_mask)
        classes = prediction.logits.argmax(1) if classes is None else classes
        return attribution_map(prediction, classes, method, create_graph=False).detach()


def full_size_maps(maps: Tensor, images: Tensor) -> Tensor:
    """Maps [B, h, w] resized to the images and scaled to [0, 1] each, for looking at only."""
    sized = resize_map(maps, images.shape[-1])
    return sized / sized.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
