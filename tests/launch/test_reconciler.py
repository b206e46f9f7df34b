"""Passes of the reconciler in this process, with jobs that end when the test says so."""

import math
import random

import pytest
from ending_jobs import EndingJobs, Killed

from genxai.files import write_json
from genxai.runs import Run
from launch.attempts import Live, Status
from launch.plan import PlannedRun
from launch.reconciler import Reconciler


def jobs_that_end(parallel: int, order: random.Random) -> EndingJobs:
    """Jobs whose scores are a function of what they ran."""

    def end(planned: PlannedRun) -> None:
        gp, bias, seed = planned.config.objective.lambda_gp, planned.config.objective.lambda_bias, planned.config.seed
        values = {
            "val/accuracy": 1 / (1 + abs(math.log10(gp / 10))) + 0.01 * seed,
            "val/ssim_align": 1 / (1 + abs(math.log10(max(bias, 1e-3) / 0.1))) - 0.01 * seed,
        }
        write_json(planned.run.result_file, {"metrics": values, "seconds": 36.0})

    return EndingJobs(end, parallel, order)


WORDS = ("bayes.points=5", "bayes.startup=2", "space.objective.lambda_gp.grid=[1, 10, 50]")


def run_sweep(make_planner, jobs: EndingJobs, interrupted: bool) -> Reconciler:
    """The sweep, complete; `interrupted` starts anew for every pass."""
    reconciler = Reconciler(make_planner(*WORDS), jobs, note=lambda line: None)
    for _ in range(500):
        try:
            survey, _ = reconciler.run_pass()
            if survey.complete:
                return reconciler
        except Killed:
            pass
        jobs.end_one()
        if interrupted:
            reconciler = Reconciler(make_planner(*WORDS), jobs, note=lambda line: None)
    raise AssertionError("the sweep does not end")


@pytest.fixture
def undisturbed(make_planner, tmp_path):
    """Points of the sweep by trial, run one after the other; its folder is gone."""
    reconciler = run_sweep(make_planner, jobs_that_end(1, random.Random(0)), interrupted=False)
    points = {number: trial.point for number, trial in reconciler.trials.items()}
    (tmp_path / "runs").rename(tmp_path / "undisturbed")
    return points


@pytest.mark.parametrize(("parallel", "seed"), [(1, 1), (3, 2), (8, 3)])
def test_a_sweep_started_anew_at_every_pass_proposes_what_an_uninterrupted_one_does(
    make_planner, undisturbed, monkeypatch, parallel, seed
):
    moments, plan = random.Random(seed), Run.plan

    def plan_or_die(run, config):
        if moments.random() < 0.15:  # with none, or only some, of a trial's directories planned
            raise Killed
        plan(run, config)

    monkeypatch.setattr(Run, "plan", plan_or_die)
    jobs = jobs_that_end(parallel, moments)
    reconciler = run_sweep(make_planner, jobs, interrupted=True)
    assert {number: trial.point for number, trial in reconciler.trials.items()} == undisturbed
    assert len(undisturbed) == 11
    assert len(jobs.submitted) == len(set(jobs.submitted)) == 22


def test_starting_again_on_finished_runs_changes_no_file(make_planner, tmp_path):
    run_sweep(make_planner, jobs_that_end(4, random.Random(5)), interrupted=False)
    files = {file: file.read_bytes() for file in sorted((tmp_path / "runs").rglob("*")) if file.is_file()}
    jobs = jobs_that_end(4, random.Random(5))
    run_sweep(make_planner, jobs, interrupted=True)
    assert jobs.submitted == []
    assert {file: file.read_bytes() for file in sorted((tmp_path / "runs").rglob("*")) if file.is_file()} == files


def test_a_sweep_without_its_caches_writes_the_same_selection_and_study(make_planner, tmp_path):
    folder = run_sweep(make_planner, jobs_that_end(4, random.Random(6)), interrupted=False).planner.folder
    selected, digest = folder.selected.read_bytes(), folder.journal_digest.read_bytes()
    for cache in (folder.selected, folder.journal, folder.journal_digest):
        cache.unlink()
    run_sweep(make_planner, jobs_that_end(4, random.Random(6)), interrupted=False)
    assert (folder.selected.read_bytes(), folder.journal_digest.read_bytes()) == (selected, digest)
    assert folder.journal.exists()


def test_what_another_reconciler_submitted_before_this_one_held_the_sweep_is_not_submitted_again(
    make_planner, monkeypatch, tmp_path
):
    """Between the plan that a person is shown and the lock, another one may come and go."""
    from argparse import Namespace

    from launch import sweep
    from launch.executors import Executor
    from launch.submissions import intend, submitted

    class Noted(Executor):
        cluster = "slurm"
        runs_per_job = 1

        def live(self, submissions):
            return {signature: Live(Status.QUEUED) for s in submissions for signature in s.signatures}

        def slots(self, submissions, live):
            return None

        def array_size(self, count):
            return count

        def submit(self, runs):
            record = intend(self.folder, "slurm", [(planned.signature, starts) for planned, starts in runs])
            return [submitted(self.folder, record, ["1"])]

    planner = make_planner()
    other = Reconciler(planner, Noted(planner.folder), note=lambda line: None)
    look = Reconciler.look

    def meanwhile(self):
        survey = look(self)
        if self is not other and not other.submissions:
            other.run_pass()
        return survey

    monkeypatch.setattr(Reconciler, "look", meanwhile)
    arguments = Namespace(json=False, retry_failed=False, dry_run=False, once=True, runs=tmp_path, max_parallel=None)
    assert sweep.run_sweep(arguments, planner, Noted(planner.folder)) == 0
    assert len(list(planner.folder.submissions.iterdir())) == 1
