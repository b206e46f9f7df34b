"""launch/sweep.py --cancel: what it says, whom it asks, whom it stops first, and what is not counted."""

import contextlib
import io
import json
import signal
import socket

import pytest

from genxai.errors import GenxaiError
from genxai.files import append_jsonl, exclusive, read_jsonl, write_json
from launch import cancel, executors, interrupts, sweep
from launch.attempts import excuses_file
from launch.cli import Interrupted
from launch.executors import LocalRuns
from launch.processes import find_processes
from launch.reconciler import Reconciler
from launch.submissions import RECONCILER, histories, intend, read_submissions, submitted
from launch.sweepdir import SweepDir

SMALL = ("bayes.points=0", "seeds=[0]", "space.objective.lambda_gp.grid=[1]")

# --- on this machine -----------------------------------------------------------------------------


def jobs_of(fake_sweep) -> dict[int, str]:
    return find_processes(f"{fake_sweep.runs}/s/jobs/")


@pytest.fixture
def running(fake_sweep):
    """The sweep with two long runs in progress, and its reconciler, killed or not."""
    (fake_sweep.runs / "steps").write_text("1000")

    def start(kill: bool):
        process = fake_sweep.start("--max-parallel", "2", *SMALL)
        fake_sweep.wait_until(lambda: len(list(fake_sweep.runs.glob("s/*/step"))) == 2)
        if kill:
            process.kill()
            process.communicate()
        return process

    return start


def test_local_runs_save_and_stop_are_not_counted_and_go_on_later(running, fake_sweep):
    running(kill=True)
    done = fake_sweep.run("--cancel", "--yes", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "sweep s: 2 running on this machine" in done.stdout and "2 saved and stopped" in done.stdout
    assert not jobs_of(fake_sweep) and fake_sweep.finished() == []
    folder = SweepDir(fake_sweep.runs / "s")
    assert histories(folder, read_submissions(folder)) == {}
    (fake_sweep.runs / "steps").write_text("3")
    assert fake_sweep.run(*SMALL).returncode == 0 and len(fake_sweep.finished()) == 2


def test_a_living_reconciler_is_ended_first(running, fake_sweep):
    process = running(kill=False)
    done = fake_sweep.run("--cancel", "--yes", "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reconciler"] == f"process {process.pid} on {socket.gethostname()}" and told["cancelled"]
    assert (told["running"], told["still_alive"]) == (2, 0)
    process.communicate(timeout=30)
    assert process.returncode == 143 and not jobs_of(fake_sweep)


def test_a_dry_run_says_what_would_be_cancelled(running, fake_sweep):
    running(kill=True)
    told = json.loads(fake_sweep.run("--cancel", "--dry-run", "--json", *SMALL).stdout)
    assert told["running"] == 2 and told["cancelled"] is False and len(jobs_of(fake_sweep)) > 0
    assert fake_sweep.run("--cancel", *SMALL).returncode == 2  # nobody to ask
    assert len(jobs_of(fake_sweep)) > 0
    assert fake_sweep.run("--cancel", "--yes", *SMALL).returncode == 0


def test_a_sweep_that_nobody_runs_and_one_that_does_not_exist(fake_sweep, tmp_path, capsys):
    missing = fake_sweep.run("--cancel", "--yes")
    assert missing.returncode == 1 and "no sweep in" in missing.stderr and missing.stderr.count("\n") == 1
    (fake_sweep.runs / "s").mkdir()
    idle = fake_sweep.run("--cancel")
    assert idle.returncode == 0 and "nothing is running or queued" in idle.stdout


@pytest.mark.parametrize("words", [["--yes"], ["--cancel", "--once"], ["--cancel", "--retry-failed"]])
def test_options_that_do_not_go_together_are_refused(sweep_file, capsys, words):
    assert sweep.main([str(sweep_file), *words]) == 2
    assert "--cancel" in capsys.readouterr().err


# --- on Slurm ------------------------------------------------------------------------------------


class Cluster:
    """Slurm as cancelling sees it: a queue that scancel changes, in the way the test wants."""

    def __init__(self, planner, monkeypatch) -> None:
        self.planner, self.folder = planner, planner.folder
        self.jobs: dict[str, tuple[str, int, str]] = {}  # id -> name, index, state
        self.calls: list[str] = []
        self.deaf: set[str] = set()  # jobs that do not hear a signal
        self.at_signal = lambda: None
        self.at_scancel = lambda name: None
        monkeypatch.setattr("launch.slurm.ask", self.ask)
        monkeypatch.setattr(cancel, "SAVE_SECONDS", 1.5)
        monkeypatch.setattr(cancel, "SIGNAL_AGAIN_SECONDS", 0.0)

    def ask(self, command, timeout_seconds=60.0):
        if command[0] == "squeue":
            return "".join(f"{i}|{index}|{state}|None|{name}\n" for i, (name, index, state) in self.jobs.items())
        self.calls.append(" ".join(command[1:]))
        name = command[-1].removeprefix("--name=")
        self.at_scancel(name)
        mine = {job: (index, state) for job, (own, index, state) in self.jobs.items() if own == name}
        if "--signal=TERM" in command:
            self.at_signal()
        for job, (_, state) in mine.items():
            meant = f"--state={state}" in command or "state" not in " ".join(command)
            if meant and not (job in self.deaf and "--signal=TERM" in command):
                del self.jobs[job]
        return ""

    def submission(self, *states: str, **details):
        runs = [planned for trial in self.planner.grid() for planned in trial.runs][: len(states)]
        for planned in runs:
            planned.run.plan(planned.config)
            append_jsonl(planned.run.provenance_file, {"resumed_from_step": 0})
        record = intend(self.folder, "slurm", [(planned.signature, 0) for planned in runs], **details)
        self.jobs |= {f"7_{i}": (record.name, i, state) for i, state in enumerate(states)}
        return submitted(self.folder, record, [f"7_{i}" for i in range(len(states))])

    def cancel(self, yes: bool = True) -> tuple[int, list[str]]:
        said: list[str] = []
        return cancel.cancel_sweep(self.folder, said.append, yes, False, False), said


@pytest.fixture
def cluster(make_planner, monkeypatch):
    return Cluster(make_planner("bayes.points=0"), monkeypatch)


def test_waiting_jobs_leave_the_queue_and_running_ones_are_asked_to_save_before_anything_is_ended(cluster):
    record = cluster.submission("RUNNING", "RUNNING", "PENDING")
    states = []
    cluster.at_signal = lambda: states.append(read_submissions(cluster.folder)[0].state)
    code, said = cluster.cancel()
    assert code == 0 and said == [
        "sweep s: 2 running and 1 queued on Slurm",
        "cancelled: 2 saved and stopped, 1 taken out of the queue; start the sweep again to go on",
    ]
    assert cluster.calls == [
        f"--state=PENDING --name={record.name}",
        f"--signal=TERM --state=RUNNING --name={record.name}",
    ]
    assert states == ["stopped"]  # noted before: a job that is asked to stop does not requeue itself
    assert histories(cluster.folder, read_submissions(cluster.folder)) == {}


def test_a_run_that_does_not_save_in_time_is_ended_by_slurm_and_said_and_not_counted(cluster):
    record = cluster.submission("RUNNING", "RUNNING")
    cluster.deaf = {"7_1"}
    code, said = cluster.cancel()
    assert code == 0 and "1 saved and stopped, 1 were ended before they had saved" in said[-1]
    assert cluster.calls[-1] == f"--name={record.name}"
    first, second = (cluster.folder.run(name) for name in record.signatures)
    assert read_jsonl(excuses_file(first)) == []
    assert [(line["outcome"], line["starts"]) for line in read_jsonl(excuses_file(second))] == [("stopped", 1)]


def test_a_job_that_never_ends_is_said_with_an_exit_code(cluster, monkeypatch):
    cluster.submission("RUNNING")
    monkeypatch.setattr(cancel, "END_SECONDS", 0.5)
    monkeypatch.setattr(cancel, "_scancel", lambda name, *options: None)
    code, said = cluster.cancel()
    assert code == 1 and said[-1].startswith("not everything ended: 1 are still alive")


def test_a_detached_reconciler_is_cancelled_before_the_runs(cluster):
    runs = cluster.submission("RUNNING")
    detached = intend(cluster.folder, "slurm", [], role=RECONCILER)
    cluster.jobs["8"] = (detached.name, 0, "RUNNING")
    with exclusive(cluster.folder.lock):
        pass  # it exists; the fake job holds nothing
    code, said = cluster.cancel()
    assert code == 0 and "run by Slurm job 8, which is ended first" in said[0]
    assert cluster.calls[0] == f"--name={detached.name}" and runs.name in cluster.calls[1]
    assert all(record.state == "stopped" for record in read_submissions(cluster.folder))


def test_a_reconciler_on_another_machine_is_named_and_nothing_is_cancelled(cluster):
    cluster.submission("RUNNING")
    with exclusive(cluster.folder.lock):
        write_json(cluster.folder.holder, {"host": "elsewhere", "pid": 12, "since": 0.0})
        with pytest.raises(GenxaiError, match="run by process 12 on elsewhere, which would submit again"):
            cluster.cancel()
        # a pid of this machine that is something else by now is not signalled either
        write_json(cluster.folder.holder, {"host": socket.gethostname(), "pid": 1, "since": 0.0})
        with pytest.raises(GenxaiError, match="run by process 1 on"):
            cluster.cancel()
    assert cluster.calls == []


@pytest.mark.parametrize(("answer", "cancelled"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_it_asks(cluster, monkeypatch, capsys, answer, cancelled):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    cluster.submission("PENDING")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    code, said = cluster.cancel(yes=False)
    assert "[y/N]" in capsys.readouterr().err
    assert (code == 0) is cancelled and bool(cluster.calls) is cancelled
    assert cancelled or said[-1] == "nothing was cancelled"


def test_done_runs_of_a_living_job_are_not_among_those_to_be_cancelled(cluster, finish):
    cluster.submission("RUNNING", "RUNNING", runs_per_job=2)
    finish(cluster.planner.grid()[0].runs[0])
    del cluster.jobs["7_1"]
    assert cluster.cancel()[1][0] == "sweep s: 1 running and 0 queued on Slurm"


def test_a_run_that_was_started_by_hand_is_not_this_commands_to_end(cluster):
    record = cluster.submission("PENDING", "PENDING")
    cluster.jobs.pop("7_1")
    with cluster.folder.run(record.signatures[1]).lock():
        code, said = cluster.cancel()
    assert code == 1 and "1 more, started by hand or from another machine" in said[0]


def test_while_it_cancels_no_other_reconciler_can_start(cluster, monkeypatch):
    cluster.submission("RUNNING")
    free = []

    def at_signal():
        with exclusive(cluster.folder.lock) as mine:
            free.append(mine)

    cluster.at_signal = at_signal
    cluster.cancel()
    assert free == [False]


class Holder:
    """A reconciler of this machine that holds the sweep until it is signalled; `at_end` is the last thing it does."""

    def __init__(self, folder, monkeypatch, pid: int = 12) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        self.held = contextlib.ExitStack()
        self.held.enter_context(exclusive(folder.lock))
        self.signalled: list[tuple[int, int]] = []
        self.at_end = lambda: None
        monkeypatch.setattr(cancel, "_holder", lambda folder: (f"process {pid} on here", pid))
        monkeypatch.setattr(cancel.os, "kill", self.kill)

    def kill(self, pid: int, number: int) -> None:
        self.signalled.append((pid, number))
        self.at_end()
        self.held.close()


@pytest.fixture
def holder(cluster, monkeypatch):
    return Holder(cluster.folder, monkeypatch)


def test_a_signal_to_a_reconciler_that_has_just_gone_is_no_error(cluster, holder):
    cluster.submission("RUNNING")

    def gone():
        holder.held.close()
        raise ProcessLookupError

    holder.at_end = gone
    assert cluster.cancel()[0] == 0 and holder.signalled == [(12, signal.SIGTERM)]


def test_jobs_that_the_reconciler_submitted_until_it_ended_are_cancelled_too(cluster, holder):
    holder.at_end = lambda: cluster.submission("RUNNING", "PENDING")
    code, said = cluster.cancel()
    assert code == 0 and cluster.jobs == {}
    assert said == [
        "sweep s: run by process 12 on here, which is ended first",
        "cancelled: 1 saved and stopped, 1 taken out of the queue; start the sweep again to go on",
    ]


def test_a_run_that_began_after_the_question_and_does_not_save_is_said_and_not_counted(cluster, holder):
    record = cluster.submission("PENDING")
    cluster.deaf = {"7_0"}
    holder.at_end = lambda: cluster.jobs.update({"7_0": (record.name, 0, "RUNNING")})
    code, said = cluster.cancel()
    assert code == 0 and "0 saved and stopped, 1 were ended before they had saved" in said[-1]
    excuses = read_jsonl(excuses_file(cluster.folder.run(record.signatures[0])))
    assert [line["outcome"] for line in excuses] == ["stopped"]


def test_who_ended_while_the_person_thought_is_not_signalled(cluster, holder, monkeypatch):
    """Its pid may be somebody else's by now."""
    cluster.submission("RUNNING")

    def think() -> bool:
        holder.held.close()
        return True

    monkeypatch.setattr(cancel, "_agreed", think)
    assert cluster.cancel(yes=False)[0] == 0
    assert holder.signalled == [] and cluster.jobs == {}


def test_a_detached_reconciler_that_waits_is_not_said_to_run_the_sweep(cluster):
    detached = intend(cluster.folder, "slurm", [], role=RECONCILER)
    cluster.jobs["8"] = (detached.name, 0, "PENDING")
    code, said = cluster.cancel()
    assert code == 0 and cluster.jobs == {}
    assert said[0] == "sweep s: 0 running and 0 queued on Slurm, to be run by Slurm job 8, which is ended first"


def test_a_reconciler_that_waits_does_not_hide_the_one_that_runs(cluster, holder):
    detached = intend(cluster.folder, "slurm", [], role=RECONCILER)
    cluster.jobs["8"] = (detached.name, 0, "PENDING")
    code, said = cluster.cancel()
    assert "run by process 12 on here" in said[0] and "to be run" not in said[0]
    assert code == 0 and holder.signalled == [(12, signal.SIGTERM)] and cluster.jobs == {}


# --- Ctrl-C, and a node of a cluster -------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """Processes of submissions on this machine, by pid; what was signalled."""
    processes: dict[int, str] = {}
    signalled: list[int] = []
    monkeypatch.setattr(executors, "find_processes", lambda text: processes)
    monkeypatch.setattr(executors.os, "kill", lambda pid, number: signalled.append(pid))
    return processes, signalled


def process_of(folder, record) -> str:
    return f"python -m submitit.core._submit {folder.jobs / record.nonce}"


def test_a_slurm_job_on_this_machine_is_no_local_run(make_planner, seen):
    processes, signalled = seen
    folder = make_planner().folder
    here, there = intend(folder, "local", [("a" * 12, 0)]), intend(folder, "slurm", [("b" * 12, 0)])
    processes |= {21: process_of(folder, here), 22: process_of(folder, there)}
    runs = LocalRuns(folder, max_parallel=2)
    assert runs.slots([here, there], {}) == 1
    assert runs.stop([here, there]) == 1 and signalled == [21]
    assert {record.cluster: record.state for record in read_submissions(folder)} == {
        "local": "stopped",
        "slurm": "intent",
    }


def test_ctrl_c_stops_what_was_being_submitted_when_it_came(make_planner, seen, monkeypatch):
    processes, signalled = seen
    planner = make_planner()
    reconciler = Reconciler(planner, LocalRuns(planner.folder, max_parallel=2), lambda line: None)

    def submit(runs):
        record = intend(planner.folder, "local", [(planned.signature, starts) for planned, starts in runs])
        processes[21] = process_of(planner.folder, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(reconciler.executor, "submit", submit)
    monkeypatch.setattr(interrupts, "STOP_SECONDS", 0.0)
    with pytest.raises(Interrupted, match="1 runs are still running"), interrupts.orderly_stop(reconciler, print):
        reconciler.run_pass()
    assert signalled == [21]
