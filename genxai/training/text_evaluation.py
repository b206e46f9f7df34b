"""Numbers of a classifier on a split of toxic text: predictions, what they rest on, and the audit by identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.config import Config
from genxai.data import split_names
from genxai.data.toxicity import TextSample, ToxicText
from genxai.data.toxicity_sources import MADLIBS
from genxai.explain.text import share_on
from genxai.explain.text_captum import integrated_gradients
from genxai.metrics.classification import Predictions
from genxai.metrics.intervals import Interval, prediction_intervals
from genxai.metrics.registry import METRICS
from genxai.metrics.toxicity import TOXIC, Audited, audit_metrics, completeness_gap, identity_metrics, text_metrics
from genxai.models import FusionClassifier, evaluating, frozen
from genxai.training.batches import class_probabilities, in_batches
from genxai.training.parallel import Processes
from genxai.training.text_steps import attribute

Metrics = dict[str, float]
#: of the metrics of any classifier those that comments have; groups are (class, names an identity or not)
SHARED = ("accuracy", "f1_macro", "worst_group_accuracy", "ece")
#: comments that are explained at a time
EXPLAINED_COMMENTS = 32
#: the split whose predictions are explained by integrated gradients, and how many comments of it at most
INTEGRATED_SPLIT, INTEGRATED_COMMENTS = "test", 128


@dataclass(frozen=True)
class _Holders:
    """The comments of a split that hold an identity term, the first few of them: what a share on terms is about."""

    data: ToxicText
    places: Tensor

    @classmethod
    def first(cls, data: ToxicText, count: int) -> _Holders:
        return cls(data, data.identity_mask.any(dim=1).nonzero().squeeze(1)[:count])

    @property
    def labels(self) -> Tensor:
        return self.data.labels[self.places]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Tensor) -> TextSample:
        return self.data.batch(self.places[indices])


def measure_text(
    classifier: FusionClassifier, config: Config, split: str, device: torch.device, processes: Processes
) -> Metrics:
    """The metrics of every evaluation, by name: predictions, and the share of attribution on identity terms."""
    data = ToxicText(config, split, device)
    return _measured(classifier, config, split, data, _predictions(classifier, data, processes), processes)


def report_text(
    classifier: FusionClassifier, config: Config, split: str, device: torch.device, processes: Processes
) -> tuple[Metrics, dict[str, Interval]]:
    """Everything result.json says of a split, and intervals over test comments; both by name.

    To be called by every process; what is costly is shared out, and all get the whole.
    """
    data = ToxicText(config, split, device)
    predictions = _predictions(classifier, data, processes)
    found = _measured(classifier, config, split, data, predictions, processes)
    if split == MADLIBS:
        audited = Audited(predictions.probabilities[:, TOXIC], data.labels, data.identities)
        found |= audit_metrics(audited) | identity_metrics(audited, data.terms)
    if split == INTEGRATED_SPLIT:
        holders = _Holders.first(data, min(config.train.explain_samples, INTEGRATED_COMMENTS))
        found |= _integrated(classifier, holders, data.pad_id, processes)
    tested = split in split_names(config.data).test
    intervals = prediction_intervals(predictions, "classification", config.data.seed) if tested else {}
    return found, {name: interval for name, interval in intervals.items() if name in SHARED}


def _predictions(classifier: FusionClassifier, data: ToxicText, processes: Processes) -> Predictions:
    with evaluating(classifier):
        found = class_probabilities(classifier, data, processes)
    named = data.identities.any(dim=1)
    return Predictions(found, data.labels, named.long(), named)


def _measured(
    classifier: FusionClassifier,
    config: Config,
    split: str,
    data: ToxicText,
    predictions: Predictions,
    processes: Processes,
) -> Metrics:
    found = {name: float(METRICS[name].function(predictions)) for name in SHARED} | text_metrics(predictions)
    holders = _Holders.first(data, config.train.explain_samples)
    if split not in split_names(config.data).explained or not len(holders):
        return found

    def shares(sample: TextSample) -> Tensor:
        with frozen(classifier), torch.no_grad():
            classes = classifier(sample.images, sample.tokens, sample.token_mask).logits.argmax(1)
        with frozen(classifier), torch.enable_grad():
            attribution = attribute(
                classifier, sample.tokens, sample.token_mask, classes, data.pad_id, create_graph=False
            )
        return share_on(attribution, sample.masks, sample.token_mask)

    with evaluating(classifier):
        found["identity_share"] = float(in_batches(shares, holders, len(holders), EXPLAINED_COMMENTS, processes).mean())
    return found


def _integrated(classifier: FusionClassifier, holders: _Holders, pad_id: int, processes: Processes) -> Metrics:
    """Of comments with an identity term: its share of integrated gradients, and how far those are from complete."""
    if not len(holders):
        return {}

    def measured(sample: TextSample) -> Tensor:
        with frozen(classifier):
            columns = (sample.images, sample.tokens, sample.token_mask)
            with torch.no_grad():
                classes = classifier(*columns).logits.argmax(1)
            found = integrated_gradients(classifier, sample.tokens, sample.token_mask, classes, pad_id)
        share = share_on(found.attribution.abs(), sample.masks, sample.token_mask)
        total, difference = found.attribution.sum(dim=1), found.score - found.baseline
        return torch.stack([share, total, difference], dim=1).float()

    with evaluating(classifier):
        share, total, difference = in_batches(measured, holders, len(holders), EXPLAINED_COMMENTS, processes).T
    return {
        "ig_identity_share": float(share.mean()),
        "ig_completeness_gap": completeness_gap(total[:, None], difference),
    }
