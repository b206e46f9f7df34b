"""The one-machine Slurm: it schedules, preempts and requeues like a real one, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import local_cluster
import pytest
from local_cluster import LocalCluster, main
from local_processes import ClusterError, Process, end_processes, processes_with
from slurm_sweeps import requeues, start_now

from genxai.errors import UsageError

COMMAND = [sys.executable, local_cluster.__file__]
Until = Callable[[Callable[[], object], float, str], None]


def processes_of(cluster: LocalCluster) -> list[Process]:
    """Found by the cluster's path in the command line or environment, not by the cluster's own records."""
    needle = str(cluster.root).encode() + b"/"
    found = []
    for entry in Path("/proc").iterdir():
        process = Process.find(int(entry.name)) if entry.name.isdigit() else None
        try:
            if process and needle in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(process)
        except OSError:
            continue
    return [process for process in found if process.alive()]


def submit(cluster: LocalCluster, folder: Path, script: str, *options: str) -> str:
    """sbatch of a shell script whose output goes to FOLDER/out-*; the job id."""
    file = folder / "job.sh"
    file.write_text(f"#!/bin/sh\n{script}\n")
    return cluster.output("sbatch", "--parsable", f"--output={folder}/out-%a", *options, str(file)).strip()


# --- it is a Slurm -------------------------------------------------------------------------------


@pytest.mark.slurm
def test_a_step_runs_once_on_each_node(slurm_cluster: LocalCluster) -> None:
    names = slurm_cluster.output("srun", "-N4", "printenv", "SLURMD_NODENAME").split()
    assert sorted(names) == slurm_cluster.node_names == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]


@pytest.mark.slurm
def test_hostname_is_that_of_this_machine(slurm_cluster: LocalCluster) -> None:
    assert slurm_cluster.output("srun", "hostname").strip() == os.uname().nodename


@pytest.mark.slurm
def test_a_job_is_given_as_many_gpus_as_it_asks_for(slurm_cluster: LocalCluster) -> None:
    assert slurm_cluster.output("srun", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES").strip() == "0,1"


@pytest.mark.slurm
def test_every_task_of_an_array_runs_once(slurm_cluster: LocalCluster, tmp_path: Path, until: Until) -> None:
    job = submit(slurm_cluster, tmp_path, "echo $SLURM_ARRAY_TASK_ID", "--array=0-9")
    until(lambda: not slurm_cluster.output("squeue", "-h", "-j", job), 20, "array has ended")
    assert [(tmp_path / f"out-{i}").read_text() for i in range(10)] == [f"{i}\n" for i in range(10)]


@pytest.mark.slurm
def test_an_array_index_has_the_limit_that_real_clusters_have(slurm_cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        submit(slurm_cluster, tmp_path, "true", "--array=1001")


STEP = """\
import os, pathlib, signal, subprocess, sys, time
first = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
def note(text):
    with pathlib.Path(sys.argv[1]).open("a") as file:
        file.write(text + "\\n")
def stop(number, frame):
    note("USR2")
    if sys.argv[2] == "polite":
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        sys.exit(75)
signal.signal(signal.SIGUSR2, stop)
note("start" if first else "start again")
while first:
    time.sleep(0.05)
"""


@pytest.mark.slurm
@pytest.mark.parametrize("manners", ["polite", pytest.param("deaf", marks=pytest.mark.slow)])
def test_preemption_tells_a_low_job_by_usr2_and_it_runs_again_after_the_high_one(
    slurm_cluster: LocalCluster, tmp_path: Path, until: Until, manners: str
) -> None:
    """A polite job asks to be requeued at once, as launch/worker.py does; a deaf one is requeued after its grace."""
    (tmp_path / "step.py").write_text(STEP)
    events = tmp_path / "events"

    def seen() -> list[str]:
        return events.read_text().splitlines() if events.exists() else []

    def queued(job: str) -> bool:
        return bool(slurm_cluster.output("squeue", "-h", "-j", job))

    step = f"srun -N1 -n1 {sys.executable} {tmp_path}/step.py {events} {manners}"
    low = submit(slurm_cluster, tmp_path, step, "-N4", "--exclusive", "--signal=USR2@60", "--requeue")
    until(lambda: seen() == ["start"], 10, "the low job runs")
    high = submit(slurm_cluster, tmp_path, "true", "-N4", "--exclusive", "--partition=high")
    until(lambda: not queued(high), 40, "the high job has run")
    assert seen() == ["start", "USR2"]
    until(lambda: not queued(low), 30, "the requeued job has ended")
    assert seen() == ["start", "USR2", "start again"]


@pytest.mark.slurm
def test_without_preempt_signal_a_job_is_told_by_term_only_as_on_most_clusters(
    cluster_folder: Path, tmp_path: Path
) -> None:
    with LocalCluster(cluster_folder, nodes=1, preempt_signal=False) as cluster:
        assert "preempt_send_user_signal" not in cluster.output("scontrol", "show", "config")


@pytest.mark.slurm
@pytest.mark.slow
def test_with_accounting_sacct_knows_how_a_job_ended(cluster_folder: Path, tmp_path: Path, until: Until) -> None:
    cluster = LocalCluster(cluster_folder, nodes=1, accounting=True)
    if missing := cluster.missing_packages():
        pytest.skip(f"Debian packages {' '.join(missing)} are not installed")
    with cluster:
        job = submit(cluster, tmp_path, "exit 3")
        ask = ("sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode")
        until(lambda: cluster.output(*ask).strip() == "FAILED|3:0", 20, "sacct says FAILED|3:0")


# --- start and stop ------------------------------------------------------------------------------


@pytest.mark.slurm
def test_stop_leaves_no_process_even_of_a_job_that_ignores_term_on_a_crashed_node(
    cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    cluster = LocalCluster(cluster_folder, nodes=2)
    with cluster:
        started = tmp_path / "started"
        body = f"trap '' TERM USR2; echo $$ > {started}.new; mv {started}.new {started}; while :; do sleep 1; done"
        submit(cluster, tmp_path, body, "--nodelist=127.0.0.2")
        until(started.exists, 10, "the job runs")
        cluster.daemons()["slurmd-127.0.0.2"].send(signal.SIGKILL)
        job = Process.find(int(started.read_text()))
        before = processes_of(cluster)
        assert job in before and len(before) > len(cluster.daemons())
    assert processes_of(cluster) == []
    assert not any(process.alive() for process in before)


@pytest.mark.slurm
def test_two_clusters_live_side_by_side(
    slurm_cluster: LocalCluster, cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    with LocalCluster(cluster_folder, nodes=1) as second:
        assert second.node_states() == {"127.0.0.1": "idle"}
        job = submit(second, tmp_path, "sleep 600")
        assert slurm_cluster.output("squeue", "-h", "-o", "%i").split() == []
        until(lambda: second.output("squeue", "-h", "-j", job, "-t", "RUNNING"), 10, "the second one's job runs")
    assert slurm_cluster.is_running()
    assert set(slurm_cluster.node_states().values()) == {"idle"}


@pytest.mark.slurm
def test_the_command_starts_says_that_it_runs_shows_it_and_stops_twice(
    cluster_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(cluster_folder)
    export = f"export SLURM_CONF={folder}/etc/slurm.conf\n"
    try:
        assert main(["start", folder, "--nodes", "2"]) == 0
        assert capfd.readouterr() == (export, f"started: {folder}\n")
        assert main(["start", folder]) == 0
        assert capfd.readouterr() == (export, f"already running: {folder}\n")
        assert main(["status", folder, "--json"]) == 0
        status = json.loads(capfd.readouterr().out)
        assert status["running"] and status["nodes"] == {"127.0.0.1": "idle", "127.0.0.2": "idle"}
    finally:
        assert main(["stop", folder]) == 0
    assert main(["stop", folder]) == 0
    assert capfd.readouterr().out == f"stopped: {folder}\nnot running: {folder}\n"
    assert main(["status", folder]) == 1


#: local_cluster.py's command after root has become somebody else, who may not be able to read root's Python
AS_USER = """\
import os, pwd, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import local_cluster
user = pwd.getpwnam(sys.argv[2])
os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
sys.exit(local_cluster.main(sys.argv[3:]))
"""


@pytest.mark.slurm
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; as another one all tests show this")
def test_a_user_who_is_not_root_starts_a_cluster_runs_a_job_and_stops_it(cluster_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(cluster_folder, nobody.pw_uid, nobody.pw_gid)
    cluster = LocalCluster(cluster_folder, nodes=2)
    environment = os.environ | {"USER": "nobody", "LOGNAME": "nobody", "HOME": str(cluster_folder)}

    def command(action: str) -> None:
        run = [sys.executable, "-c", AS_USER, local_cluster.__file__, "nobody", action, str(cluster_folder)]
        done = subprocess.run([*run, "--nodes", "2"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    try:
        command("start")
        owners = {Path(f"/proc/{daemon.pid}").stat().st_uid for daemon in cluster.daemons().values()}
        assert cluster.is_running() and owners == {nobody.pw_uid}
        who = subprocess.run(
            ["srun", "-N2", "--gres=gpu:1", "id", "-un"],
            env=environment | cluster.environment(),
            cwd="/",
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert who.stdout.split() == ["nobody", "nobody"], who.stderr
        command("stop")
        assert processes_of(cluster) == []
    finally:
        cluster.stop()


@pytest.mark.slurm
def test_a_crashed_node_is_back_after_a_restart_and_its_job_is_run_again(
    cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    with LocalCluster(cluster_folder, nodes=2) as cluster:
        job = submit(cluster, tmp_path, "echo $SLURMD_NODENAME; test $SLURM_RESTART_COUNT || sleep 600", "--requeue")
        out = tmp_path / "out-4294967294"  # %a of a job that is no array
        until(lambda: out.exists() and out.read_text(), 20, "the job runs")
        (node,) = out.read_text().split()
        before = processes_of(cluster)
        cluster.crash_node(node)
        assert [one for one in before if not one.alive()]
        cluster.output("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")
        until(lambda: requeues(cluster, job) == 1, 30, "the job is requeued")
        start_now(cluster, job, 0)
        until(lambda: not cluster.output("squeue", "-h", "-j", job), 30, "it has ended")
        assert out.read_text().split() == [cluster.node_names[1]]
        cluster.restart_node(node)
        with contextlib.suppress(ClusterError):  # refused where the node has come back by itself
            cluster.output("scontrol", "update", f"NodeName={node}", "State=RESUME")
        until(lambda: set(cluster.node_states().values()) == {"idle"}, 30, "the node is back")


@pytest.mark.slurm
def test_a_step_that_takes_more_memory_than_its_job_asked_for_is_killed(
    slurm_cluster: LocalCluster, tmp_path: Path
) -> None:
    greedy = "import time; it = b'x' * 300_000_000; time.sleep(30)"
    with pytest.raises(ClusterError, match="exceeded memory limit"):
        slurm_cluster.output("srun", "--mem=100M", sys.executable, "-c", greedy)


def test_limits_without_accounting_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give accounting=True"):
        LocalCluster(tmp_path, enforce_limits=True)


@pytest.mark.slurm
def test_job_ids_of_a_folder_are_never_given_out_again(cluster_folder: Path, tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        with LocalCluster(cluster_folder, nodes=1) as cluster:
            ids.append(int(submit(cluster, tmp_path, "true")))
    assert ids[0] < ids[1]


@pytest.mark.slurm
def test_a_start_killed_half_way_is_cleaned_up_by_stop_and_does_not_hinder_the_next(
    cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    cluster = LocalCluster(cluster_folder, nodes=2)
    with subprocess.Popen([*COMMAND, "start", str(cluster.root)], stdout=subprocess.DEVNULL) as starter:
        until(lambda: "munged" in cluster.daemons(), 20, "the first daemon has been started")
        starter.kill()
    assert processes_of(cluster) and not cluster.is_running()
    assert cluster.stop()
    assert processes_of(cluster) == []
    with cluster:
        assert cluster.is_running()


@pytest.mark.slurm
def test_a_start_that_fails_names_the_daemon_and_its_words_and_leaves_no_process(
    cluster_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_cluster, "SLURM_CONF", local_cluster.SLURM_CONF + "NoSuchOption=1\n")
    cluster = LocalCluster(cluster_folder, nodes=1)
    with pytest.raises(ClusterError, match=r"ended with exit status 1: .*NoSuchOption"):
        cluster.start()
    assert processes_of(cluster) == [] and cluster.daemons() == {}


# --- what needs no Slurm -------------------------------------------------------------------------


def test_stop_never_touches_a_stranger_who_was_given_a_recorded_pid(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            process = Process.find(stranger.pid)
            assert process is not None
            (tmp_path / ".lock").touch()
            for boot, started in ((local_cluster.boot_id(), process.started - 1), ("another boot", process.started)):
                daemons = {"slurmctld": {"pid": stranger.pid, "started": started}}
                record = {"boot": boot, "cluster": "local0", "complete": True, "daemons": daemons}
                (tmp_path / "cluster.json").write_text(json.dumps(record))
                assert not cluster.is_running()
                assert not cluster.stop()
                assert process.alive()
        finally:
            stranger.kill()


def test_a_zombie_counts_as_ended() -> None:
    child = subprocess.Popen(["sleep", "600"])
    process = Process.find(child.pid)
    assert process is not None and process.alive()
    end_processes([process], grace=5.0)
    assert Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z"
    assert not process.alive()
    child.wait()


def test_processes_are_found_by_all_the_variables_they_were_started_with() -> None:
    environment = os.environ | {"LOCAL_TEST_ONE": "abc", "LOCAL_TEST_TWO": "x"}
    with subprocess.Popen(["sleep", "600"], env=environment) as child:
        try:
            assert [one.pid for one in processes_with("LOCAL_TEST_ONE=abc", "LOCAL_TEST_TWO=")] == [child.pid]
            assert processes_with("LOCAL_TEST_ONE=other", "LOCAL_TEST_TWO=") == []
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("options", "packages"),
    [
        ([], "munge slurm-client slurmctld slurmd"),
        (
            ["--accounting"],
            "mariadb-client-core mariadb-server-core munge slurm-client slurmctld slurmd slurmdbd",
        ),
    ],
)
def test_missing_packages_are_named_with_the_command_that_installs_them(
    options: list[str],
    packages: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local_cluster, "find_program", lambda name: None)
    assert main(["start", str(tmp_path / "c"), *options]) == 2
    assert f"apt-get install --no-install-recommends {packages}\n" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_folder_with_other_things_in_it_is_refused(
    cluster_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalCluster, "missing_packages", lambda self: [])
    cluster_folder.mkdir(exist_ok=True)
    (cluster_folder / "thesis.tex").touch()
    assert main(["start", str(cluster_folder)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert os.listdir(cluster_folder) == ["thesis.tex"]


@pytest.mark.parametrize("folder", ["/tmp/with space", "/tmp/a,b", "/tmp/" + "x" * 60])
def test_a_path_that_slurm_cannot_hold_is_refused(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", folder]) == 2
    assert folder in capsys.readouterr().err


def test_stop_where_there_never_was_a_cluster_is_fine(tmp_path: Path) -> None:
    assert main(["stop", str(tmp_path / "nowhere")]) == 0
    assert not (tmp_path / "nowhere").exists()
