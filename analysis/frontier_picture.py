"""The picture of the frontier: a panel per measure of fidelity, a curve per reference of R_bias, and real data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.frontier import Point, count

if TYPE_CHECKING:
    from analysis.verdicts import Sample

#: where a curve's numbers stand [points], so that those of curves that meet can be read
PLACES = ((4, 5), (-8, -14), (8, -4), (-26, -4))


def draw(points: Sequence[Point], bias: str) -> bytes | None:
    """As PNG; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    measures = list(points[0].fidelity)
    figure = Figure(figsize=(1.2 + 4.4 * len(measures), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        draw_panel(axes, points, measure)
        axes.set(xlabel=f"bias of generated images: {bias}", ylabel=f"distance to real images: {measure}")
        axes.margins(0.1)
    title = "reference of R_bias (numbers: lambda_bias)"
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, title=title, title_fontsize=8)
    images = " or ".join(sorted({count(point.n_generated) for point in points} - {""}))
    figure.suptitle(f"{images} generated images a run" if images else "", fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def draw_panel(axes: Any, points: Sequence[Point], measure: str) -> None:
    """The curves, joined in the order of lambda_bias, and what real images score; logarithmic where all is above 0."""
    for number, name in enumerate(dict.fromkeys(point.curve for point in points)):
        curve = [point for point in points if point.curve == name]
        x, y = [point.bias for point in curve], [point.fidelity[measure].value for point in curve]
        means = [each.mean for each in x], [each.mean for each in y]
        bars = [each.sd or 0.0 for each in y], [each.sd or 0.0 for each in x]
        line = axes.errorbar(*means, *bars, marker="o", markersize=4, capsize=2, linewidth=1, label=name).lines[0]
        for index, (point, *place) in enumerate(zip(curve, *means, strict=True), start=number):
            beside = {"xytext": PLACES[index % len(PLACES)], "textcoords": "offset points", "fontsize": 7}
            axes.annotate(f"{point.lambda_bias:g}", place, color=line.get_color(), **beside)
    real = [point.fidelity[measure] for point in points]
    floor, copied = _same([each.floor for each in real]), _same([each.copy for each in real])
    biased, unbiased = _same([point.bias_real for point in points]), _same([point.bias_unbiased for point in points])
    if floor is not None:
        axes.axhline(floor, color="grey", linewidth=1, linestyle=":", label="real images, as biased as the reference")
    if unbiased is not None:
        axes.axvline(unbiased, color="grey", linewidth=1, linestyle="--", label="bias read off unbiased images")
    if biased is not None and copied is not None:
        axes.plot(biased, copied, "*", color="black", markersize=10, linestyle="none", label="training images")
    shown = [each.value.mean for each in real] + [floor, copied]
    if all(value > 0 for value in shown if value is not None):
        axes.set_yscale("log")


def _same(samples: Sequence[Sample]) -> float | None:
    """What real data score, if all points are of the same data: with several, a mean would be true of none."""
    means = [sample.mean for sample in samples if sample.mean is not None]
    alike = len(means) == len(samples) and max(means) - min(means) < 1e-9
    return means[0] if alike else None
