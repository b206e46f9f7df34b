"""Where the time of a step goes, and what explanation and revision cost, as ratios measured side by side."""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from genxai.errors import EXIT_OK, UsageError
from launch.cli import make_parser, run_command, split_overrides

DESCRIPTION = """
Time one step of the joint loop, split into data, critic, generator, classifier and explanation + revision, and the
composition of a batch of 64 images. The overhead is the ratio of the loop with and without explanation and revision,
both timed alternately in this process (the paper claims under 1.12).
"""
EXAMPLES = """
  python analysis/benchmark.py
  python analysis/benchmark.py cpu --repeats 30 explain.fraction=0.25
  python analysis/benchmark.py tiny --json
"""
Figures = dict[str, dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = make_parser("benchmark.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="SOURCE [key=value ...]", help="preset or YAML (default: tiny)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed steps of each kind (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_intermixed_args(argv)
    if options.repeats < 1:
        raise UsageError(f"--repeats: expected at least 1, got {options.repeats}")
    source, overrides = split_overrides(options.words, "preset or YAML")
    figures = measure(source or "tiny", overrides, options.repeats)
    print(json.dumps(figures, indent=1) if options.json else _table(figures))
    return EXIT_OK


def measure(source: str, overrides: Sequence[str], repeats: int) -> Figures:
    """All figures: times in ms and ratios, each with median, min and max over the repeats."""
    import torch

    from genxai.configfile import load_config
    from genxai.training.experiment import build

    without_explanation = ["revise.enabled=false", "objective.lambda_attribution=0"]
    full = load_config(source, overrides)
    torch.set_num_threads(full.train.threads)
    experiment = build(full)
    plain = build(load_config(source, [*overrides, *without_explanation]))
    figures = _loop_figures(experiment, plain, repeats)
    indices = torch.randint(len(experiment.train), (64,), generator=torch.Generator().manual_seed(0))
    indices = indices.to(experiment.device)
    figures["compose a batch of 64"] = _spread(
        _times(lambda: experiment.train.batch(indices), experiment, repeats), "ms"
    )
    return figures


def _loop_figures(experiment: Any, plain: Any, repeats: int) -> Figures:
    from genxai.fairness import Ledger
    from genxai.training.loop import joint_step
    from genxai.training.steps import classifier_step, critic_step, generator_step

    ledger = Ledger(experiment.config.revise.tau)
    turns = range(plain.config.objective.n_critic)
    _, generated = generator_step(plain, 0)
    batch = plain.draws.classifier_indices(0)
    parts: dict[str, Callable[[int], Any]] = {
        "step with explanation and revision": lambda step: joint_step(experiment, step, ledger),
        "step without": lambda step: joint_step(plain, step, ledger),
        "data": lambda step: [plain.train.batch(batch) for _ in range(len(turns) + 1)],
        "critic (data included)": lambda step: [critic_step(plain, step, turn) for turn in turns],
        "generator": lambda step: generator_step(plain, step),
        "classifier (data included)": lambda step: classifier_step(plain, step, generated, ledger),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for step in range(-2, repeats):  # two rounds to warm up; alternating, so that load falls on all alike
        for name, part in parts.items():
            elapsed = _time(functools.partial(part, max(step, 0)), experiment)
            if step >= 0:
                times[name].append(elapsed)
    figures = {name: _spread(values, "ms") for name, values in times.items()}
    whole, bare = times["step with explanation and revision"], times["step without"]
    differences = [one - other for one, other in zip(whole, bare, strict=True)]
    figures["explanation + revision"] = _spread(differences, "ms")
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    figures["overhead of explanation + revision"] = _spread(ratios, "ratio")
    shares = [one / other for one, other in zip(times["data"], bare, strict=True)]
    figures["data supply"] = _spread(shares, "of a step")
    return figures


def _time(work: Callable[[], Any], experiment: Any) -> float:
    import torch

    if experiment.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if experiment.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _times(work: Callable[[], Any], experiment: Any, repeats: int) -> list[float]:
    work()
    return [_time(work, experiment) for _ in range(max(repeats, 50))]


def _spread(values: list[float], unit: str) -> dict[str, Any]:
    scale = 1e3 if unit == "ms" else 1.0
    return {
        "median": round(statistics.median(values) * scale, 3),
        "min": round(min(values) * scale, 3),
        "max": round(max(values) * scale, 3),
        "unit": unit,
        "repeats": len(values),
    }


def _table(figures: Figures) -> str:
    lines = [f"{'':38s}{'median':>9s}{'min':>9s}{'max':>9s}"]
    for name, row in figures.items():
        numbers = "".join(f"{row[key]:9.2f}" for key in ("median", "min", "max"))
        lines.append(f"{name:38s}{numbers}  {row['unit']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
