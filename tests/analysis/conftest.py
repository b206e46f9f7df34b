"""Synthetic RUNS folders, written through genxai.runs as training and sweep write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from genxai.config import Config
from genxai.configfile import set_dotted, validate
from genxai.files import append_jsonl, write_json
from genxai.runs import Run, run_signature

CROSS_PLAIN = {"model.fusion": "cross", "objective.lambda_attribution": 0.0, "revise.enabled": False}
BASELINE = {"objective.lambda_attribution": 0.0, "revise.enabled": False}


#: a line of provenance with what only one machine has
START: dict[str, Any] = {
    "time": "2026-01-01T00:00:00+00:00",
    "restart": 0,
    "command": ["train.py", "/home/somebody/runs"],
    "host": "node17",
    "device": "a processor",
    "threads": 1,
    "data": {"origin": "/home/somebody/data"},
}


class RunsFolder:
    """Writes runs; `add` returns the run, so that a test can point at it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        options: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        folder: str = "demo",
        state: str = "done",
        origin: Mapping[str, Any] | None = None,
        data: str = "data",
        result: Mapping[str, Any] | None = None,
    ) -> Run:
        """One run directory in the given state; only a done one has a result."""
        tree: dict[str, Any] = {"name": folder, "seed": seed, "origin": dict(origin) if origin else None}
        for key, value in (options or {}).items():
            set_dotted(tree, key, value)
        config = validate(Config, tree, "test")
        run = Run(self.path / folder / run_signature(config, data))
        run.plan(config)
        if state != "pending":
            append_jsonl(run.provenance_file, START | {"data": {**START["data"], "fingerprint": data}})
        if state == "started":  # a running one has metrics of its own, which no table may use
            append_jsonl(run.metrics_file, {"step": 1, "split": "test", **dict(metrics or {})})
        if state == "failed":
            write_json(run.failed_file, {"exception": "NonFiniteError: loss_critic", "step": 3})
        if state == "done":
            content = {"signature": run.signature, "seed": seed, "metrics": dict(metrics or {}), "seconds": 1.0}
            write_json(run.result_file, content | dict(result or {}))
        return run

    def seeds(
        self, options: Mapping[str, Any], values: Mapping[str, Sequence[float | None]], **keywords: Any
    ) -> list[Run]:
        """One done run per position of the metric lists."""
        count = len(next(iter(values.values())))
        return [
            self.add(options, {name: series[seed] for name, series in values.items()}, seed=seed, **keywords)
            for seed in range(count)
        ]

    def row(
        self,
        name: str,
        options: Mapping[str, Any],
        values: Mapping[str, Sequence[float | None]],
        *,
        folder: str = "table2",
        first_seed: int = 0,
        stage: str = "row",
        **keywords: Any,
    ) -> list[str]:
        """Signatures of the done runs of a row of a sweep, one per position of the metric lists."""
        origin = {"sweep": folder, "trial": 0, "stage": stage, "point": {}, "row": name}
        return [
            self.add(
                options,
                {metric: series[place] for metric, series in values.items()},
                seed=first_seed + place,
                folder=folder,
                origin=origin,
                **keywords,
            ).signature
            for place in range(len(next(iter(values.values()))))
        ]

    def select(self, folder: str, rows: Sequence[Mapping[str, Any]], choices: Sequence[Mapping[str, Any]] = ()) -> None:
        """The selected.yaml of a sweep with rows."""
        content = {"sweep": folder, "rule": "words", "choices": list(choices), "rows": list(rows)}
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        (self.path / folder / "selected.yaml").write_text(yaml.safe_dump(content))

    def sweep_files(self, folder: str, definition: Mapping[str, Any], selected: Mapping[str, Any] | None) -> None:
        """sweep.yaml and selected.yaml as launch/sweep.py leaves them."""
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        (self.path / folder / "sweep.yaml").write_text(yaml.safe_dump({"name": folder, "base": "tiny", **definition}))
        if selected:
            (self.path / folder / "selected.yaml").write_text(yaml.safe_dump(dict(selected)))


@pytest.fixture
def runs(tmp_path: Path) -> RunsFolder:
    return RunsFolder(tmp_path / "runs")


@pytest.fixture
def sweep(runs: RunsFolder) -> RunsFolder:
    """Three points of lambda_gp: 0 is complete, 1 is complete and selected, 2 lacks a seed that failed."""
    scores = {0: (1.0, [0.80, 0.82, 0.84], 0.50), 1: (10.0, [0.90, 0.91, 0.92], 0.70), 2: (30.0, [0.99, 0.99], 0.10)}
    signatures = []
    for trial, (weight, accuracy, ssim) in scores.items():
        point = {"objective.lambda_gp": weight, "objective.lambda_bias": 0.1}
        origin = {"sweep": "lambda", "trial": trial, "stage": "bayes" if trial == 2 else "grid", "point": point}
        values: dict[str, Sequence[float | None]] = {
            "val/accuracy": accuracy,
            "val/ssim_align": [ssim] * len(accuracy),
            "test/accuracy": [value - 0.01 for value in accuracy],
            "generator/bias_gap_reference": [0.01] * len(accuracy),
        }
        done = runs.seeds(point, values, folder="lambda", origin=origin)
        if trial == 1:
            signatures = [run.signature for run in done]
        if trial == 2:
            runs.add(point, seed=2, folder="lambda", origin=origin, state="failed")
    definition = {
        "space": {
            "objective.lambda_gp": {"grid": [1, 10], "low": 0.1, "high": 100, "log": True},
            "objective.lambda_bias": {"grid": [0.1]},
        },
        "seeds": [0, 1, 2],
    }
    selected = {
        "rule": "largest scaled sum",
        "trials": {"wanted": 4, "complete": 2, "failed": 1},
        "selected": {
            "trial": 1,
            "point": {"objective.lambda_gp": 10.0, "objective.lambda_bias": 0.1},
            "runs": signatures,
        },
    }
    runs.sweep_files("lambda", definition, selected)
    return runs


@pytest.fixture
def tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""
    from analysis.make_tables import main

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "tables"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
