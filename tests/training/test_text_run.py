"""A run on toxic text: trained, stopped, resumed, evaluated, and what the penalty on identity terms does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genxai.configfile import load_config
from genxai.data import fingerprint, split_names
from genxai.data.tokens import load_vocabulary
from genxai.errors import GenxaiError, UsageError
from genxai.fairness import Ledger
from genxai.files import read_jsonl
from genxai.metrics.toxicity import PER_IDENTITY
from genxai.runs import Run, run_signature
from genxai.training import Outcome, loop, train
from genxai.training.experiment import build
from genxai.training.final_evaluation import evaluate_checkpoint
from genxai.training.steps import Monitored
from genxai.training.text_steps import identity_share
from launch.train import summary

pytest.importorskip("captum")

SHORT = (
    *("data.train_limit=96", "data.test_limit=204", "train.epochs=2", "train.explain_samples=4", "train.threads=1"),
    *("model.text.width=16", "model.text.layers=1", "model.text.max_tokens=32", "model.hidden=16"),
    *("run.trackers=[]", "run.log_every=1", "train.patience=10"),
)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Run]:
    def plan(*overrides: str, folder: str = "runs") -> Run:
        config = load_config("toxicity", [*SHORT, *overrides])
        run = Run(tmp_path / folder / run_signature(config, fingerprint(config.data)))
        run.plan(config)
        return run

    return plan


def comparable(run: Run) -> tuple[object, ...]:
    result = {k: v for k, v in run.result().items() if k not in ("seconds", "restarts", "steps_redone")}
    return result, [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(run.metrics_file)]


def test_a_run_ends_with_predictions_attribution_and_the_audit_of_every_identity(planned) -> None:
    run = planned()
    assert train(run) is Outcome.DONE
    metrics, config = run.result()["metrics"], run.config()
    splits = split_names(config.data)
    for split in splits.evaluated:
        for name in ("accuracy", "f1", "f1_macro", "auroc", "ece", "worst_group_accuracy"):
            assert 0 <= metrics[f"{split}/{name}"] <= 1
    for name in ("identity_share", "ig_identity_share", "ig_completeness_gap"):
        assert 0 <= metrics[f"test/{name}"] <= 1
    for name in ("bias_score", "subgroup_auc_min", "bpsn_auc_mean", "false_positive_gap", "false_negative_difference"):
        assert 0 <= metrics[f"madlibs/{name}"] <= 1
    for name in PER_IDENTITY:
        assert len([key for key in metrics if key.startswith(f"madlibs/{name}/")]) == 50
    assert "test/accuracy" in run.result()["intervals"]
    assert [line["split"] for line in read_jsonl(run.metrics_file)] == ["val", "val"]
    (start,) = read_jsonl(run.provenance_file)
    assert start["data"]["dataset"] == "toxicity-surge" and start["data"]["truncated"] > 0
    assert not run.newest_pictures()
    told = summary(run)
    assert "madlibs/bias_score" in told and "generator" not in told
    found = evaluate_checkpoint(run, ("test", "madlibs"))
    assert found == {name: value for name, value in metrics.items() if not name.startswith("val/")}


def test_stopping_after_every_second_step_changes_nothing(planned, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = planned(folder="whole"), planned(folder="other")
    assert train(whole) is Outcome.DONE
    step = loop.joint_step

    def step_then_signal(experiment: object, number: int, ledger: Ledger) -> dict[str, Tensor]:
        terms = step(experiment, number, ledger)
        if number % 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return terms

    monkeypatch.setattr(loop, "joint_step", step_then_signal)
    outcomes = [train(pieces)]
    while outcomes[-1] is Outcome.STOPPED and len(outcomes) < 9:
        outcomes.append(train(pieces))
    assert outcomes[-1] is Outcome.DONE and len(outcomes) >= 3
    assert comparable(pieces) == comparable(whole)


def after_one_step(*overrides: str) -> tuple[dict[str, float], Tensor]:
    """The loss terms of the first step, and the embeddings after it."""
    experiment = build(load_config("toxicity", [*SHORT, "model.dropout=0.0", "explain.fraction=1.0", *overrides]))
    terms = loop.joint_step(experiment, 0, Ledger(0.3))
    weights = experiment.classifier.text_encoder.embedding_layer.weight.detach().clone()
    return {name: float(value) for name, value in terms.items()}, weights


def test_the_penalty_is_the_mean_share_on_identity_terms_and_moves_the_weights() -> None:
    terms, moved = after_one_step("objective.lambda_attribution=50.0")
    placebo, elsewhere = after_one_step("objective.lambda_attribution=50.0", "explain.masks=random")
    nothing, plain = after_one_step("objective.lambda_attribution=0.0")
    assert 0 < terms["classifier/attribution"] < 0.2 and 0 < placebo["classifier/attribution"] < 0.2
    assert nothing["classifier/attribution"] == 0
    assert terms["classifier/cross_entropy"] == nothing["classifier/cross_entropy"]
    assert not torch.equal(moved, plain) and not torch.equal(elsewhere, plain) and not torch.equal(moved, elsewhere)


@pytest.fixture
def bert_folder(tmp_path: Path) -> str:
    """A tiny BERT with random weights and the vocabulary of captions."""
    transformers = pytest.importorskip("transformers")
    pieces = {piece: number for number, piece in enumerate(load_vocabulary())}
    transformers.BertTokenizer(vocab=pieces, do_lower_case=True).save_pretrained(tmp_path)
    size = {"vocab_size": len(pieces), "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    config = transformers.BertConfig(num_hidden_layers=2, num_attention_heads=2, **size)
    transformers.BertModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_bert_is_penalised_too(bert_folder: str) -> None:
    terms, moved = after_one_step(f"model.text.name={bert_folder}", "objective.lambda_attribution=50.0")
    _, plain = after_one_step(f"model.text.name={bert_folder}", "objective.lambda_attribution=0.0")
    assert 0 < terms["classifier/attribution"] < 0.5 and not torch.equal(moved, plain)


def test_the_penalty_takes_attribution_away_from_identity_terms() -> None:
    def share_after_training(weight: float) -> float:
        overrides = ("explain.fraction=1.0", "train.epochs=8", f"objective.lambda_attribution={weight}")
        experiment = build(load_config("toxicity", [*SHORT, *overrides]))
        for step in range(experiment.steps):
            loop.joint_step(experiment, step, Ledger(0.3))
        everything = Monitored.first(experiment.train.batch(torch.arange(96)), 96)
        pad_id = experiment.train.pad_id
        shares = identity_share(experiment.classifier, experiment.config, everything, pad_id, create_graph=False)
        return float(shares.mean())

    assert share_after_training(100.0) < 0.5 * share_after_training(0.0)


def test_a_run_is_refused_at_its_start_where_its_evaluation_would_fail(
    planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = planned()
    with pytest.raises(GenxaiError, match="captum"):
        train(run)
    assert not run.failed_file.exists() and not run.metrics_file.exists()


@pytest.mark.parametrize("method", ["group_dro", "rrr", "texture_swap"])
def test_a_method_that_needs_images_or_groups_is_refused(planned, method: str) -> None:
    with pytest.raises(UsageError, match=rf"method.name={method} needs .* has comments alone"):
        train(planned(f"method.name={method}"))


def test_a_sharded_text_encoder_cannot_be_explained() -> None:
    with pytest.raises(UsageError, match="differentiates twice"):
        load_config("toxicity", ["train.backend=fsdp2"])
    load_config("toxicity", ["train.backend=fsdp2", "objective.lambda_attribution=0.0"])
