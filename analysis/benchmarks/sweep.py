"""Suite `sweep`: what one pass of the reconciler costs when there is nothing left to do.

A finished sweep is written into a temporary folder (nine tenths grid, one tenth Bayesian trials of three seeds, each
run with configuration, provenance and result, through genxai.runs) and then reconciled as launch/sweep.py does it:
* start: `Reconciler(planner, executor)` and its first `run_pass`, everything read and planned anew;
* again: a further `run_pass` of the same reconciler;
* reading: the result.json of every run read once and parsed, and nothing else: what no pass can do without.
Writing 10,000 runs, each file synced, takes minutes on a disk; TMPDIR=/dev/shm puts them into memory.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.benchmarks.figures import Figure, ratio
from analysis.benchmarks.setting import Setting
from analysis.benchmarks.timing import alternate, calls

if TYPE_CHECKING:
    from launch.plan import Planner, Trial

RUNS, SHORT_RUNS = 10_000, 300
SEEDS = (0, 1, 2)
#: a pass over ten thousand runs takes seconds
REPEATS = 3
#: every so many-th trial is Bayesian
BAYESIAN = 10
SWEEP = """
name: benchmark
base: tiny
space:
  objective.lambda_gp: {{grid: {grid}, low: 0.01, high: 1000, log: true}}
bayes: {{points: {points}}}
seeds: {seeds}
"""


def measure(setting: Setting) -> list[Figure]:
    """Seconds of a pass per 1,000 runs, and what it is to reading the results only."""
    wanted = SHORT_RUNS if setting.short else RUNS
    with tempfile.TemporaryDirectory(prefix="genxai-benchmark-") as folder:
        planner = make_planner(Path(folder), wanted // len(SEEDS))
        runs = wanted // len(SEEDS) * len(SEEDS)
        with setting.progress.task(f"sweep: writing {runs} finished runs", runs) as tick:
            for trial in trials(planner):
                write_finished(trial, tick)
        return _timed(setting, planner, runs)


def _timed(setting: Setting, planner: Planner, runs: int) -> list[Figure]:
    from launch.executors import LocalRuns
    from launch.reconciler import Reconciler

    executor = LocalRuns(planner.folder, max_parallel=1)

    def start() -> Reconciler:
        reconciler = Reconciler(planner, executor, note=lambda line: None)
        survey, submitted = reconciler.run_pass()
        if submitted or not survey.complete:
            raise RuntimeError(f"the sweep of finished runs is not complete: {submitted} runs were submitted")
        return reconciler

    standing = start()
    files = sorted(planner.folder.path.glob("*/result.json"))
    contenders: dict[str, Callable[[], Any]] = {
        "start": start,
        "again": standing.run_pass,
        "reading": lambda: [json.loads(file.read_bytes()) for file in files],
    }
    repeats = min(setting.repeats, REPEATS)
    with setting.progress.task(f"sweep: passes over {runs} runs", calls(len(contenders), repeats, warm_up=1)) as tick:
        times = alternate(contenders, repeats, tick, warm_up=1, limit=setting.limit)
    per_thousand = {name: tuple(1000.0 * value / runs for value in values) for name, values in times.items()}
    return [
        Figure("sweep/start", f"first pass over {runs} finished runs, per 1,000", "s", per_thousand["start"]),
        Figure("sweep/again", "a further pass, per 1,000 runs", "s", per_thousand["again"]),
        ratio("sweep/reading", "first pass, of reading every result once", times["start"], times["reading"]),
        ratio("sweep/again_reading", "a further pass, of the same", times["again"], times["reading"]),
    ]


def make_planner(folder: Path, trial_count: int) -> Planner:
    """The planner of a sweep of so many trials, as launch/sweep.py makes it."""
    from genxai.data import fingerprint
    from launch.plan import Planner, cached
    from launch.sweepdir import SweepDir
    from launch.sweepfile import load_sweep

    points = trial_count // BAYESIAN
    grid = [round(0.1 + 0.01 * number, 2) for number in range(trial_count - points)]
    file = folder / "benchmark.yaml"
    file.write_text(SWEEP.format(grid=grid, points=points, seeds=list(SEEDS)))
    sweep = load_sweep(file)
    return Planner(sweep, SweepDir(folder / "runs" / sweep.name), cached(fingerprint))


def trials(planner: Planner) -> Iterator[Trial]:
    """Every trial of the sweep, the Bayesian ones at points that no grid has."""
    grid = planner.grid()
    for number in range(len(grid), planner.sweep.trial_count):
        yield planner.trial(number, "bayes", {"objective.lambda_gp": 0.0151 + 0.01 * (number - len(grid))})
    yield from grid


def write_finished(trial: Trial, tick: Callable[[], None]) -> None:
    """The run directories of a trial as training leaves them, without checkpoints and pictures."""
    from genxai.runs import append_jsonl, write_json

    # independent objectives, of which a front has few points as real ones have, not all of them
    objectives = random.Random(trial.number)
    accuracy, alignment = objectives.random(), objectives.random()
    for place, planned in enumerate(trial.runs):
        run = planned.run
        run.plan(planned.config)
        append_jsonl(run.provenance_file, {"command": "benchmark", "resumed_from_step": 0})
        result = {
            "signature": run.signature,
            "seed": planned.config.seed,
            "metrics": {"val/accuracy": accuracy + 0.01 * place, "val/ssim_align": alignment - 0.01 * place},
            "seconds": 36.0,
            "restarts": 0,
            "steps": 3,
            "steps_redone": 0,
        }
        write_json(run.result_file, result)
        tick()
