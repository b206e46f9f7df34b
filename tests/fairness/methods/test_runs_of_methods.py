"""Whole runs: what a method keeps survives a stop after every step; restart and refit are where they belong."""

import functools

import pytest
import torch
from whole_runs import comparable, train_in_pieces

from genxai.data import fingerprint
from genxai.fairness import Ledger
from genxai.files import read_jsonl
from genxai.runs import Run, run_signature
from genxai.training import Outcome, checkpoints, loop, train
from genxai.training.batches import over_split
from genxai.training.experiment import build
from genxai.training.loop import joint_step


@pytest.fixture
def planned(tmp_path, configured):
    def plan(*overrides: str, folder: str = "sweep") -> Run:
        config = configured(*overrides)
        run = Run(tmp_path / folder / run_signature(config, fingerprint(config.data)))
        run.plan(config)
        return run

    return plan


WITH_EVERYTHING = (
    "train.generator=true",
    "revise.enabled=true",
    "objective.lambda_attribution=5.0",
    "model.dropout=0.3",
)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("method.name=group_dro", "method.strength=0.5"), id="group_dro"),
        pytest.param(("method.name=jtt",), id="jtt"),
        pytest.param(("method.name=dfr",), id="dfr"),
        pytest.param(("method.name=jtt", *WITH_EVERYTHING), id="jtt beside a generator", marks=pytest.mark.slow),
    ],
)
def test_stopping_after_every_step_changes_nothing(planned, monkeypatch, overrides):
    overrides = (*overrides, "train.batch_size=80")
    whole, pieces = planned(*overrides, folder="whole"), planned(*overrides, folder="pieces")
    assert train(whole) is Outcome.DONE
    outcomes = train_in_pieces(pieces, monkeypatch)
    assert outcomes[-1] is Outcome.DONE and len(outcomes) == whole.result()["steps"] + 1
    assert comparable(pieces) == comparable(whole)


def test_jtt_weighs_the_errors_of_erm_and_starts_again(planned, configured, monkeypatch):
    """The error set is that of a plain ERM's predictions after the warm-up, made sample by sample here."""
    run = planned("method.name=jtt", "method.strength=7.0", "train.epochs=3", "train.patience=1")
    rates: list[float] = []

    def noting(experiment, step, ledger):
        terms = joint_step(experiment, step, ledger)
        rates.append(experiment.trained["classifier"].parameter_groups[0]["lr"])
        return terms

    monkeypatch.setattr(loop, "joint_step", noting)
    assert train(run) is Outcome.DONE
    experiment = build(configured("train.epochs=3"))
    epoch = experiment.draws.steps_per_epoch
    for step in range(epoch):
        joint_step(experiment, step, Ledger(0.3))
    classifier = experiment.classifier.eval()
    samples = [experiment.train.batch([index]) for index in range(len(experiment.train))]
    with torch.no_grad():
        logits = torch.cat([classifier(sample.images, sample.tokens, sample.token_mask).logits for sample in samples])
    errors = logits.argmax(1) != experiment.train.labels
    assert 0 < errors.sum() < len(errors)
    saved, _ = checkpoints.latest(run.checkpoints)
    assert torch.equal(saved["method"]["errors"], errors)
    assert run.result()["method"]["errors"] == int(errors.sum())
    assert run.result()["best_epoch"] > 1  # the warm-up's classifier is never the kept one
    # the schedule begins anew with the classifier
    assert rates[0] == rates[epoch] == experiment.config.train.lr
    assert rates[epoch + 1] < rates[epoch]


def test_the_warm_up_of_jtt_neither_stops_the_run_nor_is_kept(planned):
    """Nothing is learned, so the first evaluation stays the best: patience runs out at epoch 2, and again at 4."""
    options = ("train.lr=1e-9", "train.patience=1", "train.epochs=5", "train.batch_size=80")
    run = planned("method.name=jtt", "method.warmup_epochs=2", *options)
    assert train(run) is Outcome.DONE
    assert run.result()["best_epoch"] == 3 and run.result()["stopped_early"]
    assert {line["epoch"] for line in read_jsonl(run.metrics_file)} == {1, 2, 3, 4}


def test_after_the_restart_classifier_and_optimiser_are_in_their_initial_state_and_errors_are_drawn_more(configured):
    experiment, fresh = build(configured("method.name=jtt", "method.strength=7.0")), build(configured())
    assert experiment.sampling is None
    for step in range(2):
        joint_step(experiment, step, Ledger(0.3))
    measure = functools.partial(over_split, processes=experiment.processes)
    experiment.method.before_restart(experiment.classifier, measure)
    experiment.restart_classifier()
    experiment.weigh_samples()
    for old, new in zip(
        fresh.classifier.state_dict().values(), experiment.classifier.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new)
    assert not experiment.trained["classifier"].optimizer_state()["state"]
    errors = experiment.method.errors
    drawn = torch.cat([experiment.classifier_batch(step).indices for step in range(200)])
    share = 7 * errors.sum() / (7 * errors.sum() + (~errors).sum())
    assert abs(errors[drawn].double().mean() - share) < 4 * float(share * (1 - share) / len(drawn)) ** 0.5


def test_dfr_refits_the_kept_classifier_and_the_checkpoint_has_it(planned):
    plain, refitted = planned(folder="erm"), planned("method.name=dfr", folder="dfr")
    assert train(plain) is Outcome.DONE and train(refitted) is Outcome.DONE
    kept = [checkpoints.latest(run.checkpoints)[0]["loop"]["best"] for run in (plain, refitted)]
    assert {name for name in kept[0] if not torch.equal(kept[0][name], kept[1][name])} == {
        "head.4.weight",
        "head.4.bias",
    }
    assert read_jsonl(plain.metrics_file)[0]["accuracy"] == read_jsonl(refitted.metrics_file)[0]["accuracy"]
    assert refitted.result()["method"]["trained_on"] == ["train", "val_balanced"]
    assert plain.result()["method"] == {"name": "erm", "strength": None, "trained_on": ["train"]}


@pytest.mark.parametrize("name", ["group_resample", "texture_swap", "rrr"])
def test_methods_work_beside_revision_and_the_generator(configured, name):
    config = configured(f"method.name={name}", *WITH_EVERYTHING, "revise.tau=0.0")
    experiment = build(config)
    terms = joint_step(experiment, 0, Ledger(0.0))
    assert terms["classifier/revise"] > 0 and terms["classifier/attribution"] > 0
    assert ("classifier/penalty" in terms) == (name == "rrr")
    assert all(value.isfinite() for value in terms.values())
