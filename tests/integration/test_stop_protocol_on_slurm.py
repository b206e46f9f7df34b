"""Everything that can stop a run on a real Slurm: it goes on where it was, and nothing of it counts as a failure."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from local_cluster import LocalCluster
from local_processes import Process
from slurm_sweeps import ONE_POINT, REPOSITORY, TINY, SlurmSweep, hold, step_daemons
from training_runs import science

from genxai.files import read_jsonl
from genxai.runs import Run, State, find_runs

Until = Callable[[Callable[[], object], float, str], None]
Ages = dict[Path, int]  # file -> when it was written last [ns]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

#: how often one run is stopped by a signal: submitit gives up at the fourth in a job that is shorter than ten minutes
STOPS = 4


@dataclass
class Struck:
    """A sweep whose runs were stopped in the middle of their training, each in another way."""

    sweep: SlurmSweep
    signalled: Run  # by USR2, again and again
    limited: Run  # by its time limit
    cancelled: Run  # by a person, with scancel
    killed: Run  # its process alone
    finished: Run  # at its end, but Slurm has queued it again before it knew
    submitted: set[str]  # the first job of each
    finished_files: tuple[Ages, Ages] = ({}, {})


def starts_of(run: Run) -> list[int]:
    """The step that each start of the run went on from."""
    return [line["resumed_from_step"] for line in read_jsonl(run.provenance_file)]


def ages(run: Run) -> Ages:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name[0] != "."}


def logs(sweep: SlurmSweep, run: Run, kind: str = "out") -> str:
    """What the jobs of the sweep printed of this run."""
    lines = [line for file in sorted(sweep.path.glob(f"jobs/*/*_log.{kind}")) for line in file.read_text().splitlines()]
    return "\n".join(line for line in lines if run.signature in line)


@pytest.fixture(scope="module")
def struck(slurm_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Struck]:
    """Five runs of one array, all at once: starting a run costs more than all that happens to it."""
    sweep = SlurmSweep(slurm_cluster, tmp_path_factory.mktemp("struck"), TINY + ONE_POINT + "seeds: [0, 1, 2, 3, 4]\n")
    # below ten minutes submitit takes every signal for the time limit
    with sweep.reconciler("--profile", "time=9", "--profile", "signal_delay_s=90") as reconciler:
        until(lambda: len(sweep.jobs()) == 5, 60, "five jobs are submitted")
        seen = Struck(sweep, *sweep.found(), sweep.jobs())
        signalled, _, cancelled, killed, finished = hold(*sweep.found())
        for pickle in sweep.path.glob("jobs/*/*.pkl"):
            pickle.with_suffix(".pkl.save_tmp").touch()  # as submitit leaves it when it is killed while it writes
        killed.send(signal.SIGKILL)
        slurm_cluster.output("scancel", sweep.job(seen.cancelled))
        cancelled.send(signal.SIGCONT)
        _wait_for_the_time_limit(sweep, seen.limited, until)  # these two go on meanwhile
        seen.finished_files = _requeue_while_it_finishes(sweep, seen.finished, finished, until)
        _stop_again_and_again(sweep, seen.signalled, signalled, until)
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    yield seen
    sweep.cancel_jobs()


def _wait_for_the_time_limit(sweep: SlurmSweep, run: Run, until: Until) -> None:
    """Slurm looks at time limits twice a minute, and speaks half a minute too early rather than too late."""
    job = sweep.job(run)
    sweep.cluster.output("scontrol", "update", f"JobId={job}", f"TimeLimit={sweep.minutes(job) + 2}")
    until(lambda: sweep.was_requeued(job), 60, "it is told that its time is up, and asks to be requeued")
    sweep.cluster.output("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    sweep.start_now(job)


def _requeue_while_it_finishes(
    sweep: SlurmSweep, run: Run, process: Process, until: Until
) -> tuple[dict[Path, int], ...]:
    """Slurm queues the job again and its notice comes late: the run ends before it could hear of it.

    Returns the ages of the run's files then, and after its second start.
    """
    job, daemons = sweep.job(run), step_daemons(sweep.cluster, run)
    assert daemons
    for daemon in daemons:
        daemon.send(signal.SIGSTOP)
    sweep.cluster.output("scontrol", "requeue", job)
    process.send(signal.SIGCONT)
    until(lambda: not process.alive(), 60, "it has ended")
    for daemon in daemons:
        daemon.send(signal.SIGCONT)
    until(lambda: sweep.was_requeued(job), 60, "it is requeued")
    before = ages(run)
    sweep.start_now(job)
    until(lambda: logs(sweep, run).count(": done") == 2, 60, "it has been started a second time")
    return before, ages(run)


def _stop_again_and_again(sweep: SlurmSweep, run: Run, process: Process, until: Until) -> None:
    job = sweep.job(run)
    for stop in range(1, STOPS + 1):
        sweep.cluster.output("scancel", "--signal=USR2", job)
        process.send(signal.SIGCONT)
        until(lambda number=stop: sweep.was_requeued(job, number), 60, "it asks to be requeued")
        sweep.start_now(job)
        until(lambda number=stop: len(starts_of(run)) > number, 60, "it is started again")
        if stop < STOPS:
            (process,) = hold(run)


def test_a_run_stopped_by_usr2_more_often_than_submitit_allows_goes_on_without_a_step_redone(struck: Struck) -> None:
    assert starts_of(struck.signalled) == sorted(set(starts_of(struck.signalled)))
    assert len(starts_of(struck.signalled)) == STOPS + 1
    assert struck.signalled.result()["steps_redone"] == 0


def test_a_run_at_its_time_limit_saves_is_requeued_and_goes_on(struck: Struck) -> None:
    first, second = starts_of(struck.limited)
    assert first == 0 < second and struck.limited.result()["steps_redone"] == 0


def test_a_run_whose_job_is_cancelled_saves_is_not_requeued_and_is_continued_by_a_new_job(struck: Struck) -> None:
    first, second = read_jsonl(struck.cancelled.provenance_file)
    assert first["slurm_job"] != second["slurm_job"]
    assert second["resumed_from_step"] > 0 and struck.cancelled.result()["steps_redone"] == 0
    assert "not requeued: Slurm says the job is COMPLETING" in "".join(
        file.read_text() for file in struck.sweep.path.glob("jobs/*/*_log.err")
    )


def test_a_run_whose_process_is_killed_goes_on_from_its_last_checkpoint_in_a_new_job(struck: Struck) -> None:
    first, second = read_jsonl(struck.killed.provenance_file)
    assert first["slurm_job"] != second["slurm_job"] and second["resumed_from_step"] > 0


def test_a_run_that_finished_although_slurm_had_requeued_it_exits_as_done_and_computes_nothing(struck: Struck) -> None:
    assert len(starts_of(struck.finished)) == 1
    before, after = struck.finished_files
    assert before == after


def test_no_stop_of_any_kind_is_a_failure(struck: Struck) -> None:
    """`.save_tmp` lay beside every job file: submitit's own handler would have failed on it for good."""
    assert [run.state for run in struck.sweep.found()] == [State.DONE] * 5
    assert [run.failures() for run in struck.sweep.found()] == [[]] * 5
    # those that Slurm requeued are the same jobs; only the cancelled and the killed one were submitted again
    assert len(struck.sweep.jobs() - struck.submitted) == 2


# --- as most clusters are: preemption is announced by SIGTERM alone ----------------------------------


@pytest.fixture(scope="module")
def stock_cluster(slurm_packages: None) -> Iterator[LocalCluster]:
    """Slurm without preempt_send_user_signal."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        LocalCluster(Path(folder), nodes=2, preempt_signal=False) as cluster,
    ):
        yield cluster


def undisturbed(run: Run, folder: Path) -> dict[str, object]:
    """What the run says when its configuration is trained from beginning to end by launch/train.py."""
    train = [sys.executable, str(REPOSITORY / "launch/train.py"), str(run.config_file)]
    subprocess.run([*train, "--runs", str(folder), "--quiet"], check=True, capture_output=True)
    (same,) = find_runs(folder)
    assert same.signature == run.signature
    return science(same)


def test_a_run_preempted_by_term_alone_saves_is_requeued_and_goes_on(
    stock_cluster: LocalCluster, tmp_path: Path, until: Until
) -> None:
    sweep = SlurmSweep(stock_cluster, tmp_path, TINY + ONE_POINT + "seeds: [0]\n")
    with sweep.reconciler() as reconciler:
        until(sweep.found, 60, "the run is planned")
        (run,) = sweep.found()
        hold(run)
        job = sweep.job(run)
        sweep.preempt()  # Slurm lets a stopped process go on before it sends SIGTERM
        until(lambda: sweep.was_requeued(job), 60, "it asks to be requeued")
        sweep.start_now(job)
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    assert "stopped by SIGTERM" in run.log_file.read_text()
    first, second = starts_of(run)
    assert first == 0 < second and run.result()["steps_redone"] == 0
    assert run.failures() == [] and sweep.jobs() == {job}


def test_a_run_whose_node_dies_is_requeued_by_slurm_goes_on_elsewhere_and_ends_as_if_nothing_had_been(
    stock_cluster: LocalCluster, tmp_path: Path, until: Until
) -> None:
    """submitit takes NODE_FAIL for the end of a job, although Slurm starts it again."""
    sweep = SlurmSweep(stock_cluster, tmp_path, TINY + ONE_POINT + "seeds: [1]\n")
    with sweep.reconciler() as reconciler:
        until(sweep.found, 60, "the run is planned")
        (run,) = sweep.found()
        hold(run)
        job, node = sweep.job(run), sweep.node(run)
        stock_cluster.crash_node(node)
        # who watches the cluster's health says so; Slurm alone would find out after half a minute
        stock_cluster.output("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")
        until(lambda: sweep.was_requeued(job), 60, "Slurm requeues it")
        sweep.start_now(job)
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    assert len(starts_of(run)) == 2 and run.failures() == [] and sweep.jobs() == {job}
    assert science(run) == undisturbed(run, tmp_path / "undisturbed")


# --- what is no stop ---------------------------------------------------------------------------------


def test_a_job_that_takes_too_much_memory_is_killed_retried_and_fails_with_slurms_own_words(
    slurm_cluster: LocalCluster, tmp_path: Path
) -> None:
    sweep = SlurmSweep(slurm_cluster, tmp_path, TINY + ONE_POINT + "seeds: [0]\nretries: 1\n")
    with sweep.reconciler("--profile", "mem=200M") as reconciler:
        said, _ = reconciler.communicate(timeout=120)
    assert reconciler.returncode == 1
    assert "its job ended 2 times before the run began" in said
    assert "exceeded memory limit" in said and len(sweep.jobs()) == 2
