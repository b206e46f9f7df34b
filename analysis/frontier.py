"""Command: the frontier of bias versus fidelity of the generator over lambda_bias, as data and as a picture.

Reads run directories, never models; only finished runs enter a mean.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.commands import read_runs, results_folder, write_files
from genxai.errors import EXIT_OK, GenxaiError, UsageError
from genxai.optional import install
from launch.cli import add_runs_option, make_parser, run_command

if TYPE_CHECKING:
    from analysis.configuration import Configuration
    from analysis.measured import Results
    from analysis.verdicts import Sample

DESCRIPTION = """
Set the bias of generated images against their fidelity, a curve over objective.lambda_bias for every reference of the
regulariser (Eq. 5), and write frontier.csv and frontier.png, with a panel per measure of fidelity: by default FID to
the data as they are, which a generator without their bias cannot reach, to unbiased data, and of the objects alone.

Needs runs with train.generator_metrics=true, such as those of sweeps/frontier.yaml, with two values of lambda_bias or
more. A point is a mean over seeds, its bars the sample standard deviation (ddof = 1). The star is what training images
score in the generator's place (its bias: of test images like them); the dotted line what real images score that are as
biased as those they are held against; the dashed line the bias read off unbiased images.
"""

EXAMPLES = """
  python launch/sweep.py frontier && python analysis/frontier.py
  python analysis/frontier.py --sweep frontier              only the runs of that sweep
  python analysis/frontier.py --bias fairness_discrepancy_conditional_corrected --fidelity fid_object
  python analysis/frontier.py --runs /scratch/runs --out paper/figures
  python analysis/frontier.py --json | jq '.[] | [.curve, .lambda_bias, .bias.mean, .fidelity.fid.mean]'
"""

LAMBDA = "objective.lambda_bias"
#: what a curve is named after, if curves differ in nothing else
REFERENCE = ("objective.bias_reference", "objective.bias_conditional")
FIDELITIES = ("fid", "fid_unbiased", "fid_object")
#: what can be asked for: distances, so that less is better in every panel
DISTANCES = (*FIDELITIES, "kid")
#: held against unbiased images, so that training images as they are do not reach the floor
UNBIASED = ("fid_unbiased",)
#: decimals on a terminal
DIGITS = 4
NO_MATPLOTLIB = f"no picture: matplotlib is not installed; {install('matplotlib')}"


@dataclass(frozen=True)
class Point:
    """One value of lambda_bias on one curve."""

    curve: str
    lambda_bias: float
    asked: int  # seeds
    bias: Sample
    bias_real: Sample  # of the test images as they are
    bias_unbiased: Sample  # of the test images with uniform textures
    fidelity: Mapping[str, Fidelity]  # by measure
    n_generated: Sample
    n_reference: Sample
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Fidelity:
    """One distance of generated images to a reference, and what real training images score in their place."""

    value: Sample
    floor: Sample  # training images as biased, or as free of bias, as the reference
    copy: Sample  # training images as they are


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 with the data written, 1 if there is nothing to draw or files cannot be written, 2 wrong usage."""
    options = _parser().parse_args(argv)
    return run_command(lambda: _main(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("frontier.py", DESCRIPTION, EXAMPLES)
    add_runs_option(parser)
    parser.add_argument("--sweep", metavar="NAME", help="only runs in RUNS/NAME (default: all that have the metrics)")
    parser.add_argument("--bias", default="cramers_v", metavar="METRIC", help="x: generator/METRIC (cramers_v)")
    panels = f"y: generator/METRIC, a panel each, of {', '.join(DISTANCES)} (default: the first three)"
    parser.add_argument("--fidelity", nargs="+", default=FIDELITIES, choices=DISTANCES, metavar="METRIC", help=panels)
    parser.add_argument("--out", type=Path, default=Path("tables"), metavar="DIR", help="folder to write to (./tables)")
    parser.add_argument("--json", action="store_true", help="print the points as JSON instead of a table")
    return parser


def _main(options: argparse.Namespace) -> int:
    root = results_folder(options.runs)
    results = read_runs(root, "there is no frontier")
    if options.sweep and options.sweep not in results.folders():
        known = ", ".join(results.folders()) or "none"
        raise UsageError(f"--sweep: there are no runs of {options.sweep!r} in {root}; there are some of {known}")
    measures = tuple(dict.fromkeys(options.fidelity))
    points = frontier(results.in_folder(options.sweep) if options.sweep else results, options.bias, measures)
    if not points:
        needed = " and ".join(f"generator/{name}" for name in (options.bias, *measures))
        raise GenxaiError(
            f"no finished run in {root} has {needed}, or none at two values of {LAMBDA}; run "
            "launch/sweep.py frontier, or any configuration with train.generator_metrics=true"
        )
    files = write(points, options.bias, options.out)
    if options.json:
        print(json.dumps([_as_json(point) for point in points], indent=1))
    else:
        print("\n".join(lines(points, options.bias)))
    print(f"wrote {', '.join(map(str, files))}", file=sys.stderr)
    return EXIT_OK


# --- data ----------------------------------------------------------------------------------------


def frontier(results: Results, bias: str, measures: Sequence[str]) -> list[Point]:
    """The points by curve and lambda_bias. A curve: runs that differ in lambda_bias and the seed alone.

    A single point is no curve, and left out; and so are configurations that lack a measure.
    """
    needed = [f"generator/{name}" for name in (bias, *measures)]
    usable = [c for c in results.reported().configurations() if all(c.sample(name).n for name in needed)]
    names = _curve_names(usable)
    weights: dict[str, set[float]] = {}
    for each in usable:
        weights.setdefault(names[each.key], set()).add(float(each[LAMBDA]))
    points = [_point(each, names[each.key], bias, measures) for each in usable if len(weights[names[each.key]]) > 1]
    return sorted(points, key=lambda point: (point.curve, point.lambda_bias))


def _point(configuration: Configuration, curve: str, bias: str, measures: Sequence[str]) -> Point:
    def sample(name: str) -> Sample:
        return configuration.sample(f"generator/{name}")

    return Point(
        curve=curve,
        lambda_bias=float(configuration[LAMBDA]),
        asked=configuration.asked,
        bias=sample(bias),
        bias_real=sample(f"{bias}_real"),
        bias_unbiased=sample(f"{bias}_unbiased"),
        fidelity={name: _fidelity(name, sample) for name in measures},
        n_generated=sample("n_generated"),
        n_reference=sample("n_reference"),
        runs=tuple(configuration.signatures()),
    )


def _fidelity(name: str, sample: Callable[[str], Sample]) -> Fidelity:
    floor = sample(f"{name}_floor")
    return Fidelity(sample(name), floor, sample(f"{name}_copy") if name in UNBIASED else floor)


def _curve_names(configurations: Sequence[Configuration]) -> dict[str, str]:
    """Key of a configuration -> `balanced, per class`, and whatever else the curves differ in."""
    from analysis.conditions import effective

    options = {c.key: effective(c.config) for c in configurations}
    every = list(options.values())
    differing = [
        key
        for key in sorted(every[0] if every else ())
        if key not in (LAMBDA, *REFERENCE) and any(other[key] != every[0][key] for other in every)
    ]
    names = {}
    for key, own in options.items():
        reference, conditional = (own[name] for name in REFERENCE)
        name = f"{reference}, {'per class' if conditional else 'marginal'}"
        names[key] = ", ".join([name, *(f"{other.rsplit('.', 1)[-1]} = {own[other]}" for other in differing)])
    return names


# --- writing -------------------------------------------------------------------------------------


def write(points: Sequence[Point], bias: str, folder: Path) -> list[Path]:
    """frontier.csv, and frontier.png where matplotlib is installed; GenxaiError if the folder cannot be written."""
    from analysis.frontier_picture import draw

    contents: dict[str, str | bytes] = {"frontier.csv": as_csv(points, bias)}
    picture = draw(points, bias)
    if picture is None:
        print(NO_MATPLOTLIB, file=sys.stderr)
    else:
        contents["frontier.png"] = picture
    return write_files(contents, folder)


def as_csv(points: Sequence[Point], bias: str) -> str:
    """One line per point; empty where there is no value."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for number, point in enumerate(points):
        columns = {bias: point.bias, f"{bias}_real": point.bias_real, f"{bias}_unbiased": point.bias_unbiased}
        for name, fidelity in point.fidelity.items():
            columns |= {name: fidelity.value, f"{name}_floor": fidelity.floor, f"{name}_copy": fidelity.copy}
        if number == 0:
            numbered = (f"{column}_{part}" for column in columns for part in ("mean", "sd"))
            table.writerow(["curve", "lambda_bias", "seeds", "asked", "n_generated", "n_reference", *numbered, "runs"])
        numbers = [
            "" if value is None else f"{value:.6g}" for each in columns.values() for value in (each.mean, each.sd)
        ]
        images = (count(each) for each in (point.n_generated, point.n_reference))
        first = (
            point.curve,
            f"{point.lambda_bias:g}",
            min(point.bias.n, *(f.value.n for f in point.fidelity.values())),
            point.asked,
        )
        table.writerow([*first, *images, *numbers, " ".join(point.runs)])
    return text.getvalue()


def count(images: Sample) -> str:
    """Images behind a point; empty where the runs did not count them."""
    return "" if images.mean is None else f"{images.mean:g}"


def lines(points: Sequence[Point], bias: str) -> list[str]:
    """The points for a terminal."""
    from analysis.verdicts import EM_DASH, fixed, mean_sd

    width = max(len("curve"), *(len(point.curve) for point in points))
    heads = "".join(f" {name:>26s} {'floor':>9s}" for name in points[0].fidelity)
    rows = [f"{'curve':{width}s} {'lambda_bias':>11s} {bias:>26s}{heads} {'images':>8s}"]
    for point in points:
        row = f"{point.curve:{width}s} {point.lambda_bias:>11g} {mean_sd(point.bias, DIGITS):>26s}"
        for fidelity in point.fidelity.values():
            floor = EM_DASH if fidelity.floor.mean is None else fixed(fidelity.floor.mean, DIGITS)
            row += f" {mean_sd(fidelity.value, DIGITS):>26s} {floor:>9s}"
        rows.append(f"{row} {count(point.n_generated):>8s}")
    return rows


def _as_json(part: Any) -> Any:
    """Every sample as its mean, standard deviation and number of seeds."""
    from analysis.verdicts import Sample

    if isinstance(part, Sample):
        return {"mean": part.mean, "sd": part.sd, "n": part.n}
    if isinstance(part, Fidelity):
        return {**_as_json(part.value), "floor": _as_json(part.floor), "copy": _as_json(part.copy)}
    if isinstance(part, Mapping):
        return {name: _as_json(value) for name, value in part.items()}
    return {name: _as_json(value) for name, value in vars(part).items()} if isinstance(part, Point) else part


if __name__ == "__main__":
    sys.exit(main())
