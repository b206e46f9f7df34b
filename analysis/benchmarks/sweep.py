"""Suite `sweep`: what the reconciler costs when there is nothing left to do.

A finished sweep is written into a temporary folder (nine tenths grid, one tenth Bayesian trials of three seeds, each
run with configuration, provenance and result, through genxai.runs; submitted in arrays of a thousand) and reconciled
as launch/sweep.py does it:
* scan: `Reconciler(planner, executor)` and its `look`, so every trial planned and every result read anew;
* pass: the same with a whole `run_pass`: the points selected, the Optuna study rebuilt and its journal written anew;
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
#: runs per submission: MaxArraySize of a cluster that nobody has configured
ARRAY = 1_000
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
    """Seconds of a scan and of a pass, and what they are to reading the results only."""
    wanted = SHORT_RUNS if setting.short else RUNS
    with tempfile.TemporaryDirectory(prefix="genxai-benchmark-") as folder:
        planner = make_planner(Path(folder), wanted // len(SEEDS))
        runs = wanted // len(SEEDS) * len(SEEDS)
        with setting.progress.task(f"sweep: writing {runs} finished runs", runs) as tick:
            for trial in trials(planner):
                write_finished(trial, tick)
        write_submissions(planner)
        return _timed(setting, planner, runs)


def _timed(setting: Setting, planner: Planner, runs: int) -> list[Figure]:
    from launch.executors import LocalRuns
    from launch.reconciler import Reconciler

    executor = LocalRuns(planner.folder, max_parallel=1)

    def new() -> Reconciler:
        return Reconciler(planner, executor, note=lambda line: None)

    def whole() -> Reconciler:
        for cache in (planner.folder.journal, planner.folder.journal_digest, planner.folder.selected):
            cache.unlink(missing_ok=True)
        reconciler = new()
        survey, submitted = reconciler.run_pass()
        if submitted or not survey.complete:
            raise RuntimeError(f"the sweep of finished runs is not complete: {submitted} runs were submitted")
        return reconciler

    standing = whole()
    files = sorted(planner.folder.path.glob("*/result.json"))
    contenders: dict[str, Callable[[], Any]] = {
        "scan": lambda: new().look(),
        "pass": whole,
        "again": standing.run_pass,
        "reading": lambda: [json.loads(file.read_bytes()) for file in files],
    }
    repeats = min(setting.repeats, REPEATS)
    with setting.progress.task(f"sweep: passes over {runs} runs", calls(len(contenders), repeats, warm_up=1)) as tick:
        times = alternate(contenders, repeats, tick, warm_up=1, limit=setting.limit)
    names = {
        "scan": f"scanning and re-planning {runs} finished runs",
        "pass": "a first pass over them, Optuna study and journal anew",
        "again": "a further pass",
    }
    few = "_short" if setting.short else ""  # targets in seconds are for all the runs
    return [
        *(Figure(f"sweep/{part}{few}", name, "s", tuple(times[part])) for part, name in names.items()),
        *(
            ratio(f"sweep/{part}_reading", f"{part}, of reading every result", times[part], times["reading"])
            for part in names
        ),
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
    from genxai.files import append_jsonl, write_json

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


def write_submissions(planner: Planner) -> None:
    """The records of the arrays in which a cluster was given the runs, long gone."""
    from launch.plan import wanted_runs
    from launch.submissions import intend, submitted

    names = list(wanted_runs(trials(planner)))
    for number, start in enumerate(range(0, len(names), ARRAY)):
        record = intend(planner.folder, "slurm", [(name, 0) for name in names[start : start + ARRAY]])
        submitted(planner.folder, record, [f"{number}_{index}" for index in range(len(record.signatures))])
