"""The generator's numbers at the end of a run, read off generators whose truth is known."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from genxai.configfile import load_config
from genxai.data import fingerprint
from genxai.data.factors import aligned_texture
from genxai.errors import UsageError
from genxai.metrics import METRICS, extractor
from genxai.runs import Run, run_signature
from genxai.training.experiment import Experiment, build
from genxai.training.generator_evaluation import GeneratorReport, evaluate_generator, evaluate_generator_fully, some
from genxai.training.run import Outcome, train

ALONE = ("objective.lambda_attribution=0.0", "revise.enabled=false", "model.fusion=image")
ASKED = ("train.generator_metrics=true", "train.generated_samples=400", "data.train_limit=800", "data.test_limit=400")


def experiment(small: tuple[str, ...], *options: str) -> Experiment:
    return build(load_config("tiny", [*small, *ALONE, *ASKED, "run.device=cpu", *options]))


@pytest.fixture(scope="module")
def made(small: tuple[str, ...]) -> Experiment:
    return experiment(small)


@pytest.fixture(scope="module")
def untrained(made: Experiment) -> GeneratorReport:
    return evaluate_generator_fully(made)


def report_of(made: Experiment, batches, monkeypatch) -> GeneratorReport:
    """What is said of a generator that makes these images."""
    monkeypatch.setattr("genxai.training.generator_evaluation.generated", lambda *_: batches())
    return evaluate_generator_fully(made)


def test_an_untrained_generator_is_far_from_real_images_and_the_floor_is_not_zero(untrained):
    found = untrained.metrics
    for suffix in "", "_object":
        assert 0 < found[f"generator/fid{suffix}_floor"] < 0.1 * found[f"generator/fid{suffix}"]
        assert found[f"generator/precision{suffix}"] < 0.1 < 0.6 < found[f"generator/precision{suffix}_real"]
    assert found["generator/kid"] > 10 * abs(found["generator/kid_floor"])
    assert found["generator/conditional_accuracy"] < 0.3 < 0.95 < found["generator/conditional_accuracy_real"]
    assert found["generator/is_object_real"] > 7 > 2 > found["generator/is_object"]
    assert found["generator/n_generated"] == found["generator/n_reference"] == found["generator/n_floor"] == 400
    assert all(math.isfinite(value) for value in found.values())


def test_the_report_is_the_same_when_made_again_and_adds_to_what_every_evaluation_says(made, untrained):
    assert evaluate_generator_fully(made) == untrained
    assert evaluate_generator(made).items() < untrained.metrics.items()


def test_a_generator_that_copies_training_images_scores_what_real_images_score(made, monkeypatch):
    chosen = torch.arange(400) * len(made.train) // 400
    found = report_of(made, lambda: some(made.train, chosen), monkeypatch).metrics
    for name in "fid", "kid", "fid_object":
        assert found[f"generator/{name}"] == pytest.approx(found[f"generator/{name}_floor"], abs=1e-9)
    for name in "is", "precision", "recall", "precision_object", "recall_object":
        assert found[f"generator/{name}"] == pytest.approx(found[f"generator/{name}_real"], abs=1e-9)
    assert found["generator/fid_unbiased"] == pytest.approx(found["generator/fid_unbiased_copy"], abs=1e-9)
    assert found["generator/aligned_share"] == pytest.approx(found["generator/aligned_share_real"], abs=0.04)
    assert found["generator/diversity"] == pytest.approx(1.0, abs=0.15)
    assert found["generator/cramers_v"] > 0.9 > 0.1 > found["generator/cramers_v_unbiased"]


def test_a_generator_without_the_shortcut_is_told_from_one_with_it(made, monkeypatch):
    def fair():
        return some(made.train, torch.arange(400), torch.arange(400) % 10)

    found = report_of(made, fair, monkeypatch).metrics
    assert found["generator/cramers_v"] < 0.15 and found["generator/aligned_share"] == pytest.approx(0.1, abs=0.05)
    conditional = "generator/fairness_discrepancy_conditional_corrected"
    assert found[conditional] < 0.3 < 0.85 < found[f"{conditional}_real"]
    # one texture for all, the attribute gap is total whatever the class
    found = report_of(made, lambda: some(made.train, torch.arange(400), torch.full((400,), 7)), monkeypatch).metrics
    assert found["generator/delta_fair_corrected"] > 0.9
    assert found["generator/cramers_v"] < 0.2


def test_wrong_classes_and_one_image_a_class_are_seen(made, monkeypatch):
    def shuffled():
        return ((images, (labels + 1) % 10) for images, labels in some(made.train, torch.arange(400)))

    found = report_of(made, shuffled, monkeypatch).metrics
    assert found["generator/conditional_accuracy"] < 0.05
    first = torch.stack([(made.train.labels == y).nonzero()[0, 0] for y in range(10)]).repeat(40)
    found = report_of(made, lambda: some(made.train, first), monkeypatch).metrics
    assert found["generator/diversity"] < 0.05 and found["generator/recall_object"] < 0.5


def test_the_record_names_the_extractor_and_holds_the_confusion_of_reading(untrained):
    record = untrained.record
    assert record["fid_extractor"] == record["grey_extractor"] == extractor.load_extractor("mnist").name
    assert len(record["texture_confusion"]) == 10
    assert all(sum(row) == pytest.approx(1.0, abs=1e-5) for row in record["texture_confusion"])
    assert json.loads(json.dumps(record)) == record


def test_every_number_of_the_report_is_a_registered_metric_a_companion_of_one_or_a_count(untrained):
    companions = (
        "_floor",
        "_real",
        "_unbiased",
        "_copy",
        "_object",
        "_corrected",
        "_conditional",
        "_spread",
        "_reference",
    )
    for name in untrained.metrics:
        plain = name
        while plain not in METRICS and plain.endswith(companions):
            plain = plain.rsplit("_", 1)[0]
        assert plain in METRICS or name.startswith("generator/n_"), name


def test_without_gratings_nothing_is_said_of_textures_and_images_are_left_as_they_are(small):
    found = evaluate_generator_fully(experiment(small, "data.mode=none"))
    assert "generator/cramers_v" not in found.metrics
    # and there is no background to take away
    assert found.metrics["generator/fid_object"] == found.metrics["generator/fid"] > 0
    assert "texture_confusion" not in found.record


def test_only_the_first_process_computes_and_all_get_the_report(made, untrained, monkeypatch):
    monkeypatch.setattr(
        "genxai.training.generator_evaluation._report", lambda _: pytest.fail("only the first process computes")
    )
    other = SimpleNamespace(first=False, share=lambda value: untrained if value is None else pytest.fail("shared"))
    parts = {"config": made.config, "processes": other, "device": made.device, "train": made.train}
    parts |= {name: getattr(made, name) for name in ("average", "descriptor", "reference", "common_reference")}
    assert evaluate_generator_fully(SimpleNamespace(**parts)) == untrained  # type: ignore[arg-type]


def test_without_torch_fidelity_the_run_is_refused_before_it_starts(small, monkeypatch):
    monkeypatch.setattr("genxai.metrics.fidelity.register", extractor.register.__wrapped__)  # not what it did before
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match=r"pip install 'genxai\[fid\]'"):
        experiment(small)
    # and only where it is asked for
    assert experiment(small, "train.generator_metrics=false").generation
    assert experiment(small, "train.generator=false").generation is None


def test_a_run_ends_with_the_generators_numbers_in_its_result(small, tmp_path: Path):
    options = [*small, *ALONE, "train.generator_metrics=true", "train.generated_samples=100", "train.epochs=1"]
    config = load_config("tiny", [*options, "run.pictures=false", "run.device=cpu"])
    run = Run(tmp_path / config.name / run_signature(config, fingerprint(config.data)))
    run.plan(config)
    assert train(run) is Outcome.DONE
    result = json.loads(run.result_file.read_text())
    assert result["metrics"]["generator/fid"] > result["metrics"]["generator/fid_floor"] > 0
    assert result["generator"]["fid_extractor"].startswith("genxai-mnist-cnn-")
    assert aligned_texture(0) == 3 and len(result["generator"]["texture_confusion"][3]) == 10
