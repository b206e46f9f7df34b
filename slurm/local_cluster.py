"""A real Slurm on one machine, for development and CI: `python slurm/local_cluster.py start|stop|status DIR`.

Every file, socket, key and log is under DIR; nothing is installed, no service is touched (slurm/README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import getpass
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from local_conf import GRES_CONF, SLURM_CONF, SLURMDBD_CONF, ClusterOptions, settings
from local_processes import (
    ClusterError,
    Process,
    answers,
    boot_id,
    end_processes,
    find_program,
    free_ports,
    processes_with,
    write_private,
)

from genxai.errors import EXIT_FAILED, EXIT_OK, GenxaiError, UsageError
from genxai.files import exclusive, read_json, write_json

#: program -> the Debian package that brings it
PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
ACCOUNTING_PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}

#: characters that a Unix socket's path can have
SOCKET_PATH_LIMIT = 107
LOCK_PATIENCE = 2.0  # seconds


@dataclass
class LocalCluster(ClusterOptions):
    """Slurm with `nodes` nodes of 127.0.0.x and partitions low (preemptable, requeued) and high (preempts low).

    Raises UsageError for a folder it must not use and for missing packages, ClusterError for anything else.
    """

    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False, repr=False)

    # --- asking --------------------------------------------------------------------------------------

    @property
    def conf(self) -> Path:
        return self.root / "etc/slurm.conf"

    @property
    def node_names(self) -> list[str]:
        return [f"127.0.0.{number}" for number in range(1, self.nodes + 1)]

    def environment(self) -> dict[str, str]:
        """All that clients (sbatch, submitit, ...) need to talk to this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def missing_packages(self) -> list[str]:
        """Debian packages that have to be installed first, in alphabetical order."""
        programs = PROGRAMS | (ACCOUNTING_PROGRAMS if self.accounting else {})
        return sorted({package for program, package in programs.items() if find_program(program) is None})

    def output(self, *command: str, timeout: float = 30.0) -> str:
        """What a client command prints, as in output("squeue", "-h"). Raises ClusterError if it fails."""
        try:
            done = subprocess.run(
                command,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(f"{' '.join(command)}: {error}") from None
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def node_states(self) -> dict[str, str]:
        """Node -> state as sinfo calls it ('idle', 'mixed', 'down*', ...); empty if the controller does not answer."""
        with contextlib.suppress(ClusterError):
            return dict(line.split() for line in self.output("sinfo", "-h", "-N", "-o", "%N %T").splitlines())
        return {}

    def daemons(self) -> dict[str, Process]:
        """The daemons of the last start, in the order they were started; `.alive()` says whether one still runs."""
        record = read_json(self._record)
        if record.get("boot") != boot_id():  # the machine has been started anew since
            return {}
        return {name: Process(**process) for name, process in record["daemons"].items()}

    def is_running(self) -> bool:
        """Whether a start was completed and every one of its daemons still runs."""
        daemons = self.daemons().values()
        complete = bool(daemons) and read_json(self._record).get("complete", False)
        return complete and all(daemon.alive() for daemon in daemons)

    def status(self) -> dict[str, Any]:
        """JSON-ready: running, slurm_conf, daemons, state of the nodes, number of jobs."""
        running = self.is_running()
        return {
            "running": running,
            "slurm_conf": str(self.conf),
            "daemons": {name: {"pid": one.pid, "alive": one.alive()} for name, one in self.daemons().items()},
            "nodes": self.node_states() if running else {},
            "jobs": len(self.output("squeue", "-h", "-r").splitlines()) if running else 0,
        }

    # --- starting ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> bool:
        """Start and wait until every node is idle; False if it was running already. A failed start leaves nothing."""
        if missing := self.missing_packages():
            raise UsageError(
                f"a local Slurm needs Debian packages that are not installed: {', '.join(missing)}\n"
                f"as root: apt-get install --no-install-recommends {' '.join(missing)}"
            )
        self._make_root()
        with self._alone():
            if self.is_running():
                return False
            self._end_all()  # what a start that was killed, or half a cluster, has left
            try:
                self._start_all()
            except BaseException:
                self._end_all()
                raise
        return True

    def _make_root(self) -> None:
        if not re.fullmatch(r"[\w./+-]+", str(self.root), re.ASCII):
            raise UsageError(
                f"{self.root}: the path may hold letters, digits and ._+- only, as slurm.conf quotes nothing"
            )
        node = self.node_names[-1]
        spare = SOCKET_PATH_LIMIT - len(f"{self.root}/spool/{node}/{node}_67043328.4294967291")  # of a job's step
        if spare < 0:
            longest = len(str(self.root)) + spare
            raise UsageError(f"{self.root}: too long a path for the Unix sockets in it; allowed: {longest} characters")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            strange = any(self.root.iterdir()) and not self._lock.exists()
        except OSError as error:
            raise UsageError(f"{self.root}: cannot be a cluster's folder: {error.strerror}") from None
        if strange:
            raise UsageError(f"{self.root}: not empty, and no cluster's folder; give a new one")

    def _start_all(self) -> None:
        folders = [self.root / name for name in ("etc", "munge", "state", "spool", "run", "dev")]
        for folder in folders:  # only logs and the accounting database stay from an earlier start
            shutil.rmtree(folder, ignore_errors=True)
        for folder in [*folders, self.root / "log"]:
            folder.mkdir(exist_ok=True)
        values = settings(self, getpass.getuser(), free_ports(self.nodes + 2))
        self._write_record(cluster=values["cluster"], complete=False)
        for number in range(self.gpus):  # slurmd wants character devices; without any it drops the gres
            (self.root / f"dev/nvidia{number}").symlink_to("/dev/null")
        self.conf.write_text(SLURM_CONF.format(**values))
        (self.root / "etc/gres.conf").write_text(GRES_CONF.format(**values))
        self._start_munge()
        if self.accounting:
            write_private(self.root / "etc/slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())
            self._start_database(values["user"], values["database_port"])
        self._spawn("slurmctld", "-D")
        for node in self.node_names:
            (self.root / "spool" / node).mkdir()
            self._spawn_slurmd(node)
        idle = dict.fromkeys(self.node_names, "idle")
        self._wait("slurmctld and slurmd", lambda: self.node_states() == idle)
        if self.enforce_limits:
            self._add_account(values["user"])
        self._write_record(complete=True)

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        write_private(folder / "key", secrets.token_bytes(1024))
        files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
        # forced, because it would not run in a private folder: other users could not reach its socket, and need not
        self._spawn("munged", "-F", "--force", f"--socket={folder}/munge.sock", "--num-threads=2", *files)
        self._wait("munged", (folder / "munge.sock").exists)

    def _start_database(self, user: str, port: int) -> None:
        """A database behind a Unix socket that only this user may open, then slurmdbd on it."""
        data, database = self.root / "mysql", self.root / "run/mysql.sock"
        if not data.exists():
            new = self.root / "mysql.new"  # renamed when complete: a start may be killed meanwhile
            shutil.rmtree(new, ignore_errors=True)
            login = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}", "--skip-test-db"]
            install = str(find_program("mariadb-install-db"))
            self.output(install, "--no-defaults", f"--datadir={new}", f"--user={user}", *login, timeout=120.0)
            new.rename(data)
        place = [f"--datadir={data}", f"--socket={database}", f"--pid-file={self.root}/run/mysql.pid", f"--user={user}"]
        # small, and need not survive a power cut; slurmdbd asks for the long lock wait
        size = ["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"]
        self._spawn("mariadbd", "--no-defaults", *place, "--skip-networking", "--skip-log-bin", *size)
        self._wait("mariadbd", database.exists)
        create = "create database if not exists slurm_acct_db"
        self.output("mariadb", "--no-defaults", f"--socket={database}", f"--user={user}", "-e", create)
        self._spawn("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: answers(port))  # slurmctld gives up if it is not there at its first start

    def _add_account(self, user: str) -> None:
        """Where limits hold, only those who have an account may submit."""
        self.output("sacctmgr", "-i", "add", "account", "everybody", f"cluster={self._cluster}")
        self.output("sacctmgr", "-i", "add", "user", user, "account=everybody", f"cluster={self._cluster}")

    def _spawn_slurmd(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node, name=f"slurmd-{node}")

    def _spawn(self, program: str, *arguments: str, name: str = "") -> None:
        """Start a daemon in the foreground, in a session of its own, and record it."""
        name = name or program
        environment = os.environ | self.environment()
        # as in the tasks of jobs, by which `_end_all` knows both (a shell made by salloc has the first one only)
        environment |= {"SLURM_CLUSTER_NAME": self._cluster, "SLURMD_NODENAME": name}
        environment["MYSQL_UNIX_PORT"] = str(self.root / "run/mysql.sock")  # where slurmdbd finds `localhost`
        with open(self.root / f"log/{name}.out", "wb") as log:
            self._children[name] = subprocess.Popen(
                [str(find_program(program)), *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._write_record()

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until ready. Raises ClusterError with its last words once any daemon has ended, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not ready():
            for name, child in self._children.items():
                if child.poll() is not None:
                    words = (self.root / f"log/{name}.out").read_text(errors="replace").split("\n")
                    raise ClusterError(f"{name} ended with exit status {child.returncode}: {' | '.join(words[-4:-1])}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not ready after {seconds:.0f} s; see {self.root / 'log'}")
            time.sleep(0.05)

    # --- a node that fails ---------------------------------------------------------------------------

    def crash_node(self, node: str) -> None:
        """End everything on a node at once, as a power cut does: its slurmd, the steps of its jobs and their tasks."""
        for name in (f"slurmd-{node}", node):  # first those who could still tell the controller: slurmd and slurmstepd
            there = processes_with(f"SLURM_CLUSTER_NAME={self._cluster}", f"SLURMD_NODENAME={name}")
            end_processes(there, grace=0.0)

    def restart_node(self, node: str) -> None:
        """Start a crashed node's slurmd again; only the process that has started the cluster can do that."""
        self._children.pop(f"slurmd-{node}").wait()
        self._spawn_slurmd(node)

    # --- stopping ------------------------------------------------------------------------------------

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> bool:
        """Cancel the jobs and end every process of the cluster; False if there was none, which is fine."""
        if not self._lock.exists():
            return False
        with self._alone():
            controller = self.daemons().get("slurmctld")
            if controller and controller.alive():
                self._cancel_jobs()
            return self._end_all()

    def _cancel_jobs(self) -> None:
        """By Slurm's own hand, so that steps end in order; what escapes meets `_end_all`."""
        with contextlib.suppress(ClusterError):
            self.output("scancel", "--me")
            self.output("scancel", "--me", "--signal=KILL")  # do not wait KillWait for those that ignore TERM
            deadline = time.monotonic() + 3.0  # jobs on a dead node never end
            while self.output("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.05)

    def _end_all(self) -> bool:
        """End the daemons, the last started first, then everything else that carries the cluster's name."""
        daemons = self.daemons()
        found = [daemon for daemon in daemons.values() if daemon.alive()]
        for program in ("slurmd-", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            # a slurmd that cannot reach its controller ignores TERM
            end_processes([one for name, one in daemons.items() if name.startswith(program)], grace=5.0)
        # job steps that outlived their slurmd, or a daemon whose starter was killed before it could record it
        while (name := self._cluster) and (strays := processes_with(f"SLURM_CLUSTER_NAME={name}", "SLURMD_NODENAME=")):
            found += strays
            end_processes(strays, grace=0.0)
        for child in self._children.values():
            child.wait()  # so that no zombie of ours stays
        self._children.clear()
        self._record.unlink(missing_ok=True)
        return bool(found)

    # --- the record ----------------------------------------------------------------------------------

    @property
    def _record(self) -> Path:
        return self.root / "cluster.json"

    @property
    def _lock(self) -> Path:
        return self.root / ".lock"

    @property
    def _cluster(self) -> str:
        """ClusterName, new at every start: daemons and jobs carry it in their environment."""
        return read_json(self._record).get("cluster", "")

    def _write_record(self, **changes: Any) -> None:
        """Who runs, durable after every spawn: a start that is killed half-way can still be cleaned up."""
        children = {name: Process.find(child.pid) for name, child in self._children.items()}
        daemons = {name: dataclasses.asdict(process) for name, process in children.items() if process}
        write_json(self._record, read_json(self._record) | {"boot": boot_id(), "daemons": daemons} | changes)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One start or stop at a time; a child that a killed start was just forking holds the lock until its exec."""
        with contextlib.ExitStack() as held:
            deadline = time.monotonic() + LOCK_PATIENCE
            while not held.enter_context(exclusive(self._lock)):
                held.close()
                if time.monotonic() > deadline:
                    raise ClusterError(f"{self.root}: another start or stop is under way; try again when it has ended")
                time.sleep(0.05)
            yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed or (status) not running, 2 usage or missing packages."""
    parser = argparse.ArgumentParser(prog="local_cluster.py", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the cluster lives, such as /tmp/slurm")
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help="number of nodes (default: 4)")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct works")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    given = parser.parse_args(arguments)
    try:
        cluster = LocalCluster(given.folder, given.nodes, given.accounting)
        return _ACTIONS[given.action](cluster, given.json)
    except GenxaiError as error:
        print(f"local_cluster.py: {error}", file=sys.stderr)
        return error.exit_code


def _start(cluster: LocalCluster, as_json: bool) -> int:
    new = cluster.start()
    if as_json:
        print(json.dumps(cluster.status() | {"already": not new}))
    else:  # the only line on stdout: eval "$(python slurm/local_cluster.py start DIR)"
        print(f"{'started' if new else 'already running'}: {cluster.root}", file=sys.stderr)
        print(f"export SLURM_CONF={cluster.conf}")
    return EXIT_OK


def _stop(cluster: LocalCluster, as_json: bool) -> int:
    stopped = cluster.stop()
    print(json.dumps({"stopped": stopped}) if as_json else f"{'stopped' if stopped else 'not running'}: {cluster.root}")
    return EXIT_OK


def _status(cluster: LocalCluster, as_json: bool) -> int:
    status = cluster.status()
    if as_json:
        print(json.dumps(status))
    else:
        print(f"{'running' if status['running'] else 'not running'}: {cluster.root}, {status['jobs']} jobs")
        for name, one in status["daemons"].items():
            node = status["nodes"].get(name.removeprefix("slurmd-"), "")
            print(f"  {name:<20} pid {one['pid']:<8} {'runs' if one['alive'] else 'has ended'} {node}".rstrip())
    return EXIT_OK if status["running"] else EXIT_FAILED


_ACTIONS = {"start": _start, "stop": _stop, "status": _status}

if __name__ == "__main__":
    sys.exit(main())
