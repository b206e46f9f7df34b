"""The processes of one run, one per GPU: started on this machine, or recognised in a Slurm step.

As torchrun does, but with our signals and exit codes: a stop is passed on, and 75 means saved.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from genxai.errors import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, GenxaiError
from genxai.training.stopping import handling

#: how long the other processes of a run have to end once one has failed [s]
GRACE_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
#: set for processes that `start_ranks` has started: the pid of the one that did
STARTED_HERE = "GENXAI_RANKS"


def is_rank() -> bool:
    """Whether a launcher has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def is_started_here() -> bool:
    """Whether `start_ranks` has started this process, which has told the person what they want to know."""
    return STARTED_HERE in os.environ


def is_first_rank() -> bool:
    """Whether this process speaks for its run."""
    return not is_rank() or os.environ.get("RANK", "0") in ("", "0")


def start_ranks(command: Sequence[str], count: int) -> int:
    """Run `command` as `count` processes that find each other; the exit code of the run.

    Signals that ask for a stop are passed on. If one process fails, the others, which would wait for it forever, are
    ended, and its exit code is returned.
    """
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        STARTED_HERE: str(os.getpid()),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    with passing_signals(ranks) as asked:
        for rank in range(count):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: Ctrl-C reaches it once, through us, and not from the terminal as well
            ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return _wait(ranks, asked)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    """The exit code of the run, once all have ended. asked: signals passed on so far."""
    failed: int | None = None
    deadline = float("inf")
    while any(rank.poll() is None for rank in ranks):
        ended = [rank.returncode for rank in ranks if rank.returncode not in (None, EXIT_OK, EXIT_STOPPED)]
        if ended and failed is None:
            failed, deadline = ended[0], time.monotonic() + GRACE_SECONDS
            _send(ranks, signal.SIGTERM)
        if time.monotonic() > deadline:
            _send(ranks, signal.SIGKILL)
        time.sleep(0.05)
    # one that a signal reached before it could listen has nothing to save
    if failed is not None and -failed in asked:
        return EXIT_STOPPED
    codes = [EXIT_STOPPED if -rank.returncode in asked else rank.returncode for rank in ranks]
    if failed is None:
        failed = next((code for code in codes if code not in (EXIT_OK, EXIT_STOPPED)), None)
    # a negative code is the signal that killed it; a shell would say 128 + n
    return codes[0] if failed is None else (128 - failed if failed < 0 else failed)


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


@contextlib.contextmanager
def passing_signals(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass stop signals on to the processes for the duration; yields those that were.

    A second Ctrl-C ends them at once: one that waits for another inside torch would not hear it.
    """
    asked: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        _send(ranks, signal.SIGKILL if number == signal.SIGINT and number in asked else number)
        asked.append(number)

    with handling(forward):
        yield asked


def free_port() -> int:
    """A port that nobody listens on, from below those that the kernel hands out by itself to whoever connects."""
    chooser = random.SystemRandom()
    while True:
        port = chooser.randrange(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def end_with_parent() -> None:
    """Stop when the process that started this one dies: nobody else would tell it.

    Linux is asked to send SIGTERM; a thread ends what has not stopped in time because it waits inside torch.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(int(os.environ[STARTED_HERE]),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)  # it may have died before Linux was asked
    time.sleep(GRACE_SECONDS)
    os._exit(EXIT_FAILED)


def join_slurm_step(environment: Mapping[str, str]) -> dict[str, str]:
    """torch's variables for one task of a Slurm step of several; empty where there is one task, or they are set.

    No torchrun: srun has started the tasks. Raises GenxaiError when the first node has no address.
    """
    count = int(environment.get("SLURM_STEP_NUM_TASKS") or 1)
    if count == 1 or "WORLD_SIZE" in environment:
        return {}
    job = int(environment.get("SLURM_JOB_ID") or 0)
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": environment.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0],
        "MASTER_ADDR": _first_node(environment),
        # the same on every task without asking, and another one for another job on the node
        "MASTER_PORT": str(20_000 + job % 20_000),
    }


def _first_node(environment: Mapping[str, str]) -> str:
    if int(environment.get("SLURM_STEP_NUM_NODES") or 1) == 1:
        return "127.0.0.1"
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    try:
        answer = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=60, check=True
        )
        name = answer.stdout.split()[0]
        return socket.gethostbyname(name)
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        # inside a batch job srun runs on the first node
        if address := environment.get("SLURM_LAUNCH_NODE_IPADDR"):
            return address
        raise GenxaiError(f"the first node of {nodes!r} has no address: {error}; set MASTER_ADDR") from None
