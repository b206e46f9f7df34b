"""What result.json says of the kept classifier beyond the numbers of every epoch.

The baselines that IoU is read beside, the stability of maps, a second opinion on them, and bootstrap intervals.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.config import Config
from genxai.data import Sample, open_split, split_names
from genxai.explain import noisy, second_opinions, shifted
from genxai.explain.second_opinion import OPINIONS
from genxai.metrics import (
    Explained,
    baseline_metrics,
    localisation_metrics,
    localisation_values,
    mean_intervals,
    means,
    prediction_intervals,
    stability_metrics,
)
from genxai.metrics.intervals import Interval
from genxai.models import FusionClassifier, evaluating
from genxai.runs import Run
from genxai.training.batches import batches_of, in_batches
from genxai.training.evaluation import (
    EXPLAINED_BATCH,
    PAIRS,
    Metrics,
    Observed,
    explain,
    keyed,
    observe,
    prediction_metrics,
)
from genxai.training.experiment import EVALUATION_BATCH, choose_device
from genxai.training.parallel import Processes
from genxai.training.precision import compute_in_float32
from genxai.training.resume import kept_classifier

#: the split whose maps are perturbed and compared with another library's, and how many of them at most
COMPARED_SPLIT, COMPARED_SAMPLES = "test", 256
#: what a second opinion is compared in
OPINION_METRICS = ("iou_half_max", "iou_area_matched", "relevance_mass", "pointing")


@dataclass(frozen=True)
class Report:
    """Metrics in [0, 1], and for some of them the interval over test samples; both keyed `<split>/<metric>`."""

    metrics: Metrics
    intervals: dict[str, Interval]


def mean_mask(config: Config, device: torch.device) -> Tensor | None:
    """[H, W] in [0, 1]: how often each pixel belongs to the object in the training split; None without images."""
    if config.model.fusion == "text":
        return None
    data = open_split(config, "train", device)
    counts = [data.batch(part).masks.sum(dim=(0, 1)) for part in batches_of(data, len(data), EVALUATION_BATCH)]
    return torch.stack(counts).sum(dim=0).double() / len(data)


def report_split(
    classifier: FusionClassifier,
    config: Config,
    split: str,
    device: torch.device,
    processes: Processes,
    training_mask: Tensor | None,
) -> Report:
    """Everything result.json says of a split. training_mask: `mean_mask` of the same configuration.

    To be called by every process; what is costly is shared out, and all get the whole.
    """
    if config.data.is_text:
        from genxai.training.text_evaluation import report_text  # late: TexMM needs nothing of it

        found, intervals = report_text(classifier, config, split, device, processes)
    else:
        observed = observe(classifier, config, split, device, processes)
        found, intervals = _report_images(classifier, config, split, observed, processes, training_mask)
    return Report(keyed(split, found), {f"{split}/{name}": interval for name, interval in intervals.items()})


def _report_images(
    classifier: FusionClassifier,
    config: Config,
    split: str,
    observed: Observed,
    processes: Processes,
    training_mask: Tensor | None,
) -> tuple[Metrics, dict[str, Interval]]:
    """Metrics and intervals of a split of TexMM by name."""
    found = prediction_metrics(observed, split)
    tested, seed = split in split_names(config.data).test, config.data.seed
    intervals: dict[str, Interval] = {}
    if tested:
        intervals = prediction_intervals(observed.predictions, "pairs" if split == PAIRS else "classification", seed)
    if observed.maps is not None and observed.masks is not None and training_mask is not None:
        values = localisation_values(observed.maps, observed.masks)
        found |= means(values)
        found |= baseline_metrics(Explained(observed.maps, observed.masks, training_mask), found)
        if tested:
            intervals |= mean_intervals(values, seed)
        if split == COMPARED_SPLIT:
            found |= _stability(classifier, config, observed, processes)
            if config.train.second_opinion:
                found |= _second_opinion(classifier, observed, processes)
    return found, intervals


def _stability(classifier: FusionClassifier, config: Config, observed: Observed, processes: Processes) -> Metrics:
    """Maps of the class predicted for the clean image, of the image and of two that hardly differ from it."""
    assert observed.maps is not None and observed.masks is not None
    clean, predicted = observed.maps[:COMPARED_SAMPLES], observed.predictions.predicted

    def maps(sample: Sample) -> Tensor:
        images = noisy(sample.images, sample.indices, config.data.seed), shifted(sample.images)
        changed = (dataclasses.replace(sample, images=image) for image in images)
        classes = predicted[sample.indices]
        return torch.stack([explain(classifier, other, config.explain.method, classes) for other in changed], dim=1)

    with evaluating(classifier):
        noise, shift = in_batches(maps, observed.data, len(clean), EXPLAINED_BATCH, processes).unbind(dim=1)
    return stability_metrics(clean, noise, shift, (observed.masks.shape[-2], observed.masks.shape[-1]))


def _second_opinion(classifier: FusionClassifier, observed: Observed, processes: Processes) -> Metrics:
    """Scores of another library's maps of the same samples and classes, `<metric>@<library and map>`."""
    assert observed.masks is not None
    masks, predicted = observed.masks[:COMPARED_SAMPLES], observed.predictions.predicted
    opinions = second_opinions(classifier)

    def maps(sample: Sample) -> Tensor:
        return opinions(sample.images, sample.tokens, sample.token_mask, predicted[sample.indices])

    found = in_batches(maps, observed.data, len(masks), EXPLAINED_BATCH, processes)
    scores = {name: localisation_metrics(found[:, place], masks) for place, name in enumerate(OPINIONS)}
    return {f"{metric}@{name}": scores[name][metric] for name in OPINIONS for metric in OPINION_METRICS}


def evaluate_checkpoint(run: Run, splits: tuple[str, ...]) -> Metrics:
    """Metrics of the classifier that a run's newest intact checkpoint keeps, as result.json has them; reads only.

    Raises CheckpointError when there is none.
    """
    weights, config = kept_classifier(run), run.config()
    torch.set_num_threads(config.train.threads)
    compute_in_float32()
    device = torch.device(choose_device(config))
    data = open_split(config, splits[0], device)
    classifier = FusionClassifier(config.model, data.num_classes, data.vocab_size)
    classifier.load_state_dict(weights)
    classifier.to(device)
    training_mask = mean_mask(config, device)
    reports = (report_split(classifier, config, split, device, Processes(), training_mask) for split in splits)
    return {name: value for report in reports for name, value in report.metrics.items()}
