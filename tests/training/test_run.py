"""A run from its directory to result.json: resuming, early stopping, failing, and what is written on the way."""

import errno
import shutil

import pytest
import torch
from whole_runs import comparable, train_in_pieces

from genxai.configfile import load_config
from genxai.data import fingerprint
from genxai.data.supply import TEXMM
from genxai.errors import CheckpointError, GenxaiError, UsageError
from genxai.files import append_jsonl, read_json, read_jsonl, write_json
from genxai.runs import Run, State, run_signature
from genxai.training import Outcome, train
from genxai.training import resume as resume_module
from genxai.training.final_evaluation import evaluate_checkpoint


@pytest.fixture
def planned(tmp_path, small):
    def plan(*overrides: str, folder: str = "sweep") -> Run:
        config = load_config("tiny", [*small, "run.pictures=false", *overrides])
        run = Run(tmp_path / folder / run_signature(config, fingerprint(config.data)))
        run.plan(config)
        return run

    return plan


def test_a_run_ends_with_metrics_of_every_split_and_names_what_selected(planned):
    run = planned()
    assert train(run) is Outcome.DONE and run.state is State.DONE
    result = run.result()
    assert {name.split("/")[0] for name in result["metrics"]} == {*TEXMM.evaluated, "generator"}
    assert result["selected_on"] == "val/accuracy" and result["restarts"] == 0 and result["steps_redone"] == 0
    assert [line["split"] for line in read_jsonl(run.metrics_file)] == ["val", "val_balanced", "generator"] * 2
    (start,) = read_jsonl(run.provenance_file)
    assert {"command", "git", "packages", "host", "device", "slurm_job", "data", "threads", "resumed_from_step"} <= set(
        start
    )
    assert evaluate_checkpoint(run, ("val",))["val/accuracy"] == result["metrics"]["val/accuracy"]
    assert "epoch 2" in run.log_file.read_text()


def test_stopping_after_every_step_changes_nothing(planned, monkeypatch):
    whole, pieces = planned(folder="whole"), planned(folder="other")
    assert train(whole) is Outcome.DONE
    outcomes = train_in_pieces(pieces, monkeypatch)
    # the stop after the last step only postpones the final evaluation
    assert outcomes[-1] is Outcome.DONE and len(outcomes) == whole.result()["steps"] + 1
    assert comparable(pieces) == comparable(whole)


def test_lines_written_after_the_last_checkpoint_are_cut_off_on_resume(planned):
    whole = planned(folder="whole")
    train(whole)
    run = planned(folder="other")
    append_jsonl(run.metrics_file, {"step": 999})
    append_jsonl(run.ledger_file, {"step": 999})
    append_jsonl(run.provenance_file, {"resumed_from_step": 0})
    train(run)
    assert comparable(run) == comparable(whole)


def test_early_stopping_keeps_the_best_classifier_and_ends_the_run(planned):
    run = planned("train.epochs=6", "train.patience=1", "train.lr=1e-9")  # nothing is learned: the first stays best
    assert train(run) is Outcome.DONE
    result = run.result()
    assert result["stopped_early"] and result["best_epoch"] == 1
    assert {line["epoch"] for line in read_jsonl(run.metrics_file)} == {1, 2}


def test_a_loss_that_is_not_finite_fails_the_run_naming_the_term(planned):
    run = planned("train.lr=1e30", "train.optimizer=sgd")
    assert train(run) is Outcome.FAILED and run.state is State.FAILED
    failure = read_json(run.failed_file)
    assert failure["exception"] == "NonFiniteError" and failure["term"].startswith("classifier/")
    assert failure["term"] in failure["message"] and failure["step"] >= 1
    assert not any(torch.isnan(t).any() for t in _saved_tensors(run))


def _saved_tensors(run: Run) -> list[torch.Tensor]:
    from genxai.training import checkpoints

    found = checkpoints.latest(run.checkpoints)
    return [] if found is None else list(found[0]["modules"]["classifier"].values())


def test_a_retry_moves_the_failure_aside_and_goes_on(planned):
    run = planned()
    write_json(run.failed_file, {"exception": "RuntimeError", "message": "a cosmic ray"})
    assert train(run) is Outcome.DONE
    assert not run.failed_file.exists() and [f["message"] for f in run.failures()] == ["a cosmic ray"]


def test_an_exception_in_training_is_recorded_with_its_traceback(planned, monkeypatch):
    from genxai.training import loop

    def broken(*arguments):
        raise RuntimeError("broken step")

    monkeypatch.setattr(loop, "joint_step", broken)
    run = planned()
    assert train(run) is Outcome.FAILED
    assert "broken step" in read_json(run.failed_file)["traceback"]


def test_a_lost_connection_is_the_runs_failure_and_recorded(planned, monkeypatch):
    from genxai.training import loop

    def unreachable(*arguments):
        raise ConnectionError("tracker unreachable")

    monkeypatch.setattr(loop, "joint_step", unreachable)
    run = planned()
    assert train(run) is Outcome.FAILED and "unreachable" in run.failures()[-1]["message"]


def test_a_network_that_is_not_finite_is_never_published_or_evaluated(planned, monkeypatch):
    from genxai.training import loop

    step = loop.joint_step

    def poison(experiment, number, ledger):
        terms = step(experiment, number, ledger)
        if number == 9:  # the last step: no later loss would tell
            next(experiment.classifier.parameters()).data.fill_(float("nan"))
        return terms

    monkeypatch.setattr(loop, "joint_step", poison)
    run = planned()
    assert train(run) is Outcome.FAILED
    assert read_json(run.failed_file)["term"] == "parameters of classifier"
    assert not any(torch.isnan(t).any() for t in _saved_tensors(run))


def test_damage_to_progress_json_harms_nothing(planned):
    run = planned()
    append_jsonl(run.provenance_file, {"resumed_from_step": 0})
    run.progress_file.write_text("")
    assert train(run) is Outcome.DONE


def test_fewer_processes_than_were_asked_for_are_refused(planned):
    run = planned("run.processes=2")
    with pytest.raises(UsageError, match=r"1 process\(es\) joined, but run.processes=2"):
        train(run)
    assert run.state is State.PENDING


def test_a_configuration_edited_after_planning_is_refused(planned):
    run = planned()
    run.config_file.write_text(run.config_file.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(GenxaiError, match="edited, or the folder renamed"):
        train(run)
    assert not run.failed_file.exists()


def test_a_checkpoint_of_another_run_is_refused(planned):
    other, run = planned("seed=5", folder="other"), planned()
    train(other)
    shutil.copytree(other.checkpoints, run.checkpoints)
    with pytest.raises(CheckpointError, match=f"belongs to run {other.signature}"):
        train(run)


@pytest.mark.parametrize("override", ["data.train_limit=10", "data.train_limit=60", "data.val_fraction=0.001"])
def test_a_split_that_would_be_empty_is_refused_before_the_first_step(planned, override):
    run = planned(override)
    with pytest.raises(UsageError, match=r"the split val.* is empty: data\.train_limit"):
        train(run)
    assert run.state is State.PENDING


def test_a_full_disk_is_not_the_runs_failure_and_harms_nothing(planned, monkeypatch):
    run = planned("run.checkpoint_seconds=0")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(resume_module.checkpoints, "publish_flat", full)
        train(run)
    assert not run.failed_file.exists() and run.state is State.STARTED
    assert train(run) is Outcome.DONE


def test_a_second_call_on_a_finished_run_does_nothing(planned):
    run = planned()
    train(run)
    before = run.result_file.stat().st_mtime_ns
    assert train(run) is Outcome.DONE and run.result_file.stat().st_mtime_ns == before


def test_pictures_are_written_at_evaluations(planned):
    run = planned("run.pictures=true")
    train(run)
    assert [path.name for path in run.newest_pictures()] == ["attribution-0000010.png", "samples-0000010.png"]


ALONE = ("train.generator=false", "revise.enabled=false", "objective.lambda_attribution=5.0")


def test_the_classifier_trained_alone_is_the_one_trained_beside_a_generator_that_corrects_nothing(planned):
    alone, beside = planned(*ALONE, folder="alone"), planned(*ALONE[1:], folder="beside")
    assert train(alone) is Outcome.DONE and train(beside) is Outcome.DONE
    metrics = beside.result()["metrics"]
    assert alone.result()["metrics"] == {name: v for name, v in metrics.items() if not name.startswith("generator/")}
    assert "reference_groups_missing" not in alone.result()


def test_the_split_that_selects_is_the_configured_one(planned):
    run = planned("train.select_on=val_balanced", *ALONE)
    assert train(run) is Outcome.DONE
    by_epoch = {
        line["epoch"]: line["accuracy"] for line in read_jsonl(run.metrics_file) if line["split"] == "val_balanced"
    }
    assert run.result()["selected_on"] == "val_balanced/accuracy"
    assert run.result()["best_epoch"] == max(by_epoch, key=by_epoch.__getitem__)


def test_a_post_hoc_fine_tune_keeps_nothing_of_the_classifier_before_it(planned):
    late = planned(*ALONE, "explain.from_epoch=1", folder="late")
    plain = planned(*ALONE[:2], "objective.lambda_attribution=0.0", folder="plain")
    assert train(late) is Outcome.DONE and train(plain) is Outcome.DONE
    lines = [
        [(line["ece"], line["iou_half_max"]) for line in read_jsonl(run.metrics_file) if line["split"] == "val"]
        for run in (late, plain)
    ]
    assert lines[0][0] == lines[1][0] and lines[0][1] != lines[1][1]
    assert late.result()["best_epoch"] == 2 and plain.result()["best_epoch"] == 1
