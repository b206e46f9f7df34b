"""Command: the frontier of bias versus fidelity of the generator over lambda_bias, as data and as a picture.

Reads run directories, never models; only finished runs enter a mean.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
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
regulariser (Eq. 5), and write frontier.csv and frontier.png.

Needs runs with train.generator_metrics=true, such as those of sweeps/frontier.yaml. A point is a mean over seeds, its
bars the sample standard deviation (ddof = 1). The stars are the real data: the training images (their bias, and what
they score in the generator's place), and the bias that the same measurement finds in test images without any.
"""

EXAMPLES = """
  python launch/sweep.py frontier && python analysis/frontier.py
  python analysis/frontier.py --sweep frontier              only the runs of that sweep
  python analysis/frontier.py --bias fairness_discrepancy_conditional_corrected --fidelity fid_object
  python analysis/frontier.py --runs /scratch/runs --out paper/figures
  python analysis/frontier.py --json | jq '.[] | [.curve, .lambda_bias, .bias.mean, .fidelity.mean]'
"""

LAMBDA = "objective.lambda_bias"
#: what a curve is named after, if curves differ in nothing else
REFERENCE = ("objective.bias_reference", "objective.bias_conditional")
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
    fidelity: Sample
    bias_real: Sample  # of the test images as they are
    bias_unbiased: Sample  # of the test images with uniform textures
    fidelity_floor: Sample  # training images in the generator's place
    n_generated: Sample
    n_reference: Sample
    runs: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 with the data written, 1 if there is nothing to draw or files cannot be written, 2 wrong usage."""
    options = _parser().parse_args(argv)
    return run_command(lambda: _main(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("frontier.py", DESCRIPTION, EXAMPLES)
    add_runs_option(parser)
    parser.add_argument("--sweep", metavar="NAME", help="only runs in RUNS/NAME (default: all that have the metrics)")
    parser.add_argument("--bias", default="cramers_v", metavar="METRIC", help="x: generator/METRIC (cramers_v)")
    parser.add_argument("--fidelity", default="fid", metavar="METRIC", help="y: generator/METRIC (fid)")
    parser.add_argument("--out", type=Path, default=Path("tables"), metavar="DIR", help="folder to write to (./tables)")
    parser.add_argument("--json", action="store_true", help="print the points as JSON instead of a table")
    return parser


def _main(options: argparse.Namespace) -> int:
    root = results_folder(options.runs)
    results = read_runs(root, "there is no frontier")
    if options.sweep and options.sweep not in results.folders():
        known = ", ".join(results.folders()) or "none"
        raise UsageError(f"--sweep: there are no runs of {options.sweep!r} in {root}; there are some of {known}")
    points = frontier(results.in_folder(options.sweep) if options.sweep else results, options.bias, options.fidelity)
    if not points:
        raise GenxaiError(
            f"no finished run in {root} has generator/{options.bias} and generator/{options.fidelity}; run "
            "launch/sweep.py frontier, or any configuration with train.generator_metrics=true"
        )
    files = write(points, options.bias, options.fidelity, options.out)
    if options.json:
        print(json.dumps([_as_json(point) for point in points], indent=1))
    else:
        print("\n".join(lines(points, options.bias, options.fidelity)))
    print(f"wrote {', '.join(map(str, files))}", file=sys.stderr)
    return EXIT_OK


# --- data ----------------------------------------------------------------------------------------


def frontier(results: Results, bias: str, fidelity: str) -> list[Point]:
    """The points by curve and lambda_bias. A curve: runs that differ in lambda_bias and the seed alone."""
    needed = [f"generator/{name}" for name in (bias, fidelity)]
    usable = [c for c in results.reported().configurations() if all(c.sample(name).n for name in needed)]
    names = _curve_names(usable)
    points = [_point(configuration, names[configuration.key], bias, fidelity) for configuration in usable]
    return sorted(points, key=lambda point: (point.curve, point.lambda_bias))


def _point(configuration: Configuration, curve: str, bias: str, fidelity: str) -> Point:
    def sample(name: str) -> Sample:
        return configuration.sample(f"generator/{name}")

    return Point(
        curve=curve,
        lambda_bias=float(configuration[LAMBDA]),
        asked=configuration.asked,
        bias=sample(bias),
        fidelity=sample(fidelity),
        bias_real=sample(f"{bias}_real"),
        bias_unbiased=sample(f"{bias}_unbiased"),
        fidelity_floor=sample(f"{fidelity}_floor"),
        n_generated=sample("n_generated"),
        n_reference=sample("n_reference"),
        runs=tuple(configuration.signatures()),
    )


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


def write(points: Sequence[Point], bias: str, fidelity: str, folder: Path) -> list[Path]:
    """frontier.csv, and frontier.png where matplotlib is installed; GenxaiError if the folder cannot be written."""
    contents: dict[str, str | bytes] = {"frontier.csv": as_csv(points, bias, fidelity)}
    picture = draw(points, bias, fidelity)
    if picture is None:
        print(NO_MATPLOTLIB, file=sys.stderr)
    else:
        contents["frontier.png"] = picture
    return write_files(contents, folder)


def as_csv(points: Sequence[Point], bias: str, fidelity: str) -> str:
    """One line per point; empty where there is no value."""
    columns = {
        bias: "bias",
        fidelity: "fidelity",
        f"{bias}_real": "bias_real",
        f"{bias}_unbiased": "bias_unbiased",
        f"{fidelity}_floor": "fidelity_floor",
    }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    counts = ("n_generated", "n_reference")
    numbered = (f"{column}_{part}" for column in columns for part in ("mean", "sd"))
    table.writerow(["curve", "lambda_bias", "seeds", "asked", *counts, *numbered, "runs"])
    for point in points:
        numbers: list[Any] = []
        for name in columns.values():
            sample: Sample = getattr(point, name)
            numbers += ["" if value is None else f"{value:.6g}" for value in (sample.mean, sample.sd)]
        images = (_count(getattr(point, name)) for name in counts)
        first = (point.curve, f"{point.lambda_bias:g}", point.fidelity.n, point.asked)
        table.writerow([*first, *images, *numbers, " ".join(point.runs)])
    return text.getvalue()


def _count(images: Sample) -> str:
    """Images behind a point; empty where the runs did not count them."""
    return "" if images.mean is None else f"{images.mean:g}"


def lines(points: Sequence[Point], bias: str, fidelity: str) -> list[str]:
    """The points for a terminal."""
    from analysis.verdicts import EM_DASH, fixed, mean_sd

    width = max(len("curve"), *(len(point.curve) for point in points))
    head = f"{'curve':{width}s} {'lambda_bias':>11s} {bias:>26s} {fidelity:>26s} {'floor':>9s} {'images':>8s}"
    rows = []
    for point in points:
        floor = point.fidelity_floor.mean
        values = f"{mean_sd(point.bias, DIGITS):>26s} {mean_sd(point.fidelity, DIGITS):>26s}"
        floor_text = EM_DASH if floor is None else fixed(floor, DIGITS)
        images = _count(point.n_generated)
        rows.append(f"{point.curve:{width}s} {point.lambda_bias:>11g} {values} {floor_text:>9s} {images:>8s}")
    return [head, *rows]


def _as_json(point: Point) -> dict[str, Any]:
    """Every sample as its mean, standard deviation and number of seeds."""
    from analysis.verdicts import Sample

    parts = {field.name: getattr(point, field.name) for field in fields(point)}
    return {
        name: {"mean": part.mean, "sd": part.sd, "n": part.n} if isinstance(part, Sample) else part
        for name, part in parts.items()
    }


def draw(points: Sequence[Point], bias: str, fidelity: str) -> bytes | None:
    """The picture as PNG; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(point.curve for point in points):
        curve = [point for point in points if point.curve == name]
        x, y = ([getattr(point, part).mean for point in curve] for part in ("bias", "fidelity"))
        xbars, ybars = ([getattr(point, part).sd or 0.0 for point in curve] for part in ("bias", "fidelity"))
        axes.errorbar(x, y, yerr=ybars, xerr=xbars, marker="o", capsize=2, linewidth=1, label=name)
        for point, place in zip(curve, zip(x, y, strict=True), strict=True):
            axes.annotate(f"{point.lambda_bias:g}", place, textcoords="offset points", xytext=(5, 4), fontsize=7)
    _draw_real(axes, points)
    images = " or ".join(sorted({_count(point.n_generated) for point in points} - {""}))
    axes.set(xlabel=f"bias of generated images: {bias}", ylabel=f"distance to real images: {fidelity}", yscale="log")
    axes.set_title(f"{images} generated images a run" if images else "", fontsize=9)
    axes.legend(fontsize=8, title="reference of R_bias (numbers: lambda_bias)", title_fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _draw_real(axes: Any, points: Sequence[Point]) -> None:
    """The real data's floor as a line, and on it the bias they have and the bias of none."""
    floors = [point.fidelity_floor.mean for point in points if point.fidelity_floor.mean is not None]
    if not floors:
        return
    floor = sum(floors) / len(floors)
    axes.axhline(floor, color="grey", linewidth=1, linestyle=":", label="real against real")
    for part, colour, name in ("bias_real", "black", "real, biased"), ("bias_unbiased", "grey", "real, unbiased"):
        known = [sample.mean for sample in (getattr(point, part) for point in points) if sample.mean is not None]
        if known:
            axes.plot(sum(known) / len(known), floor, "*", color=colour, markersize=10, linestyle="none", label=name)


if __name__ == "__main__":
    sys.exit(main())
