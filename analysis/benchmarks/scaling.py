"""Suite `scaling`: two processes on the CPU against one with half the threads.

Compared, steps of the joint loop in real processes that stay alive and take turns:
* two: two processes with half of train.threads (at least one) each, gradients averaged over gloo, half a batch each;
* half: a single such process with a batch of half the size, what each of the two computes;
* apart: two such processes at once that know nothing of each other, as fast as this machine lets two be;
* one: a single such process with the whole batch.
Of twice the throughput, per sample: time of half / time of two; of that of two apart, time of apart / time of two,
where 1 would be free communication; and at the same batch, time of one / (2 * time of two), where smaller shares cost
their fixed part of a step as well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from analysis.benchmarks.figures import Figure, milliseconds, ratio
from analysis.benchmarks.setting import Setting
from analysis.benchmarks.timing import alternate, calls
from genxai.errors import GenxaiError
from launch.cli import REPOSITORY
from launch.ranks import free_port

#: joint steps in one timed call: a word through a pipe at either end costs a fraction of a millisecond
STEPS = 5
REPEATS = 12
#: what a launcher would have set, not for our processes
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def measure(setting: Setting) -> list[Figure]:
    """Achieved share of twice one process's throughput; nothing where there is a single core to share."""
    config = setting.config()
    if usable_cores() < 2:
        setting.progress.say("scaling: not measured, two processes need two cores")
        return []
    if config.train.batch_size % 2:
        setting.progress.say(f"scaling: not measured, train.batch_size={config.train.batch_size} is not even")
        return []
    half = max(1, config.train.threads // 2)
    words = [setting.source, *setting.overrides, "run.device=cpu", f"train.threads={half}"]
    share = [*words, f"train.batch_size={config.train.batch_size // 2}"]
    repeats = min(setting.repeats, REPEATS)
    with (
        setting.progress.task("scaling: one process and two", calls(4, repeats)) as tick,
        workers(words, 1, half) as one,
        workers(share, 1, half) as smaller,
        workers(share, 1, half) as another,
        workers(words, 2, half) as two,
    ):
        contenders = {
            "one": lambda: ask(one, STEPS),
            "half": lambda: ask(smaller, STEPS),
            "apart": lambda: ask([*smaller, *another], STEPS),
            "two": lambda: ask(two, STEPS),
        }
        times = alternate(contenders, repeats, tick, limit=setting.limit)
    threads = f"{half} thread{'s' if half > 1 else ''} each"
    steps = [value / STEPS for value in times["two"]]
    twice = [2.0 * value for value in times["two"]]
    return [
        milliseconds("scaling/step", f"one step on two processes, {threads}", steps),
        ratio("scaling/two", f"two processes, of twice one's throughput, {threads}", times["half"], times["two"]),
        ratio("scaling/communication", "the same, of two processes apart", times["apart"], times["two"]),
        ratio("scaling/same_batch", "the same, on the same global batch", times["one"], twice),
    ]


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Worker = subprocess.Popen[str]


@contextlib.contextmanager
def workers(words: Sequence[str], count: int, threads: int) -> Iterator[list[Worker]]:
    """The processes of one run, built and waiting; they end when their standard input does."""
    shared = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
    shared |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": _search_path()}
    if count > 1:
        place = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        shared |= {name: str(value) for name, value in place.items()}
    with tempfile.TemporaryFile("w+") as log, contextlib.ExitStack() as stack:
        started: list[Worker] = []
        stack.callback(_end, started)
        for rank in range(count):
            ranked = shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {})
            started.append(_start(words, ranked, log))
        try:
            for worker in started:
                listen(worker)
            yield started
        except BrokenPipeError:
            log.seek(0)
            last = log.read().strip().splitlines()[-1:] or ["without a word"]
            raise GenxaiError(f"scaling: a process of {count} ended: {last[0]}") from None


def _start(words: Sequence[str], environment: dict[str, str], log: IO[str]) -> Worker:
    command = [sys.executable, "-m", "analysis.benchmarks.scaling_worker", *words]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )


def _end(started: Sequence[Worker]) -> None:
    for worker in started:
        if worker.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
    for worker in started:
        try:
            worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def ask(group: Sequence[Worker], steps: int) -> None:
    """Have every process of a group make so many joint steps, and wait for all."""
    for worker in group:
        if worker.stdin is not None:
            print(steps, file=worker.stdin, flush=True)
    for worker in group:
        listen(worker)


def listen(worker: Worker) -> None:
    """Wait for the word that a process is ready. Raises BrokenPipeError if it has ended instead."""
    if worker.stdout is None or not worker.stdout.readline():
        raise BrokenPipeError


def _search_path() -> str:
    """Where the processes find this very package, installed or not."""
    return os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
