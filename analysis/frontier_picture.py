"""The picture of the frontier: a panel per measure of fidelity, a curve per reference of R_bias, and real data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.frontier import Fidelity, Point, count

if TYPE_CHECKING:
    from analysis.verdicts import Sample

#: where a curve's numbers stand [points], so that those of curves that meet can be read
PLACES = ((5, 4), (-16, -11), (5, -11), (-16, 4))


def draw(points: Sequence[Point], bias: str) -> bytes | None:
    """As PNG; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    measures = list(points[0].fidelity)
    figure = Figure(figsize=(1.2 + 4.4 * len(measures), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        draw_panel(axes, points, measure)
        axes.set(xlabel=f"bias of generated images: {bias}", ylabel=f"distance to real images: {measure}", yscale="log")
        axes.margins(0.08)
    panels[0].legend(fontsize=8, title="reference of R_bias (numbers: lambda_bias)", title_fontsize=8)
    images = " or ".join(sorted({count(point.n_generated) for point in points} - {""}))
    figure.suptitle(f"{images} generated images a run" if images else "", fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def draw_panel(axes: Any, points: Sequence[Point], measure: str) -> None:
    """The curves, joined in the order of lambda_bias, and what real images score."""
    for number, name in enumerate(dict.fromkeys(point.curve for point in points)):
        curve = [point for point in points if point.curve == name]
        x, y = [point.bias for point in curve], [point.fidelity[measure].value for point in curve]
        means = [each.mean for each in x], [each.mean for each in y]
        bars = [each.sd or 0.0 for each in y], [each.sd or 0.0 for each in x]
        axes.errorbar(*means, *bars, marker="o", markersize=4, capsize=2, linewidth=1, label=name)
        beside = {"xytext": PLACES[number % len(PLACES)], "textcoords": "offset points", "fontsize": 7}
        for point, *place in zip(curve, *means, strict=True):
            axes.annotate(f"{point.lambda_bias:g}", place, **beside)
    real = [point.fidelity[measure] for point in points]
    unbiased = _mean([point.bias_unbiased for point in points])
    floor, biased, copied = (
        _mean(samples) for samples in ([f.floor for f in real], [p.bias_real for p in points], _copies(real))
    )
    if floor is not None:
        axes.axhline(floor, color="grey", linewidth=1, linestyle=":", label="real against real")
    if unbiased is not None:
        axes.axvline(unbiased, color="grey", linewidth=1, linestyle="--", label="bias read off unbiased images")
    if biased is not None and copied is not None:
        axes.plot(biased, copied, "*", color="black", markersize=10, linestyle="none", label="training images")


def _copies(real: Sequence[Fidelity]) -> list[Sample]:
    """What the training images as they are score: where the reference is biased as they are, that is the floor."""
    return [each.copy if each.copy.n else each.floor for each in real]


def _mean(samples: Sequence[Sample]) -> float | None:
    """Of those that there are; they are of real data, and differ with the data's seed alone."""
    known = [sample.mean for sample in samples if sample.mean is not None]
    return sum(known) / len(known) if known else None
