"""The frontier of bias versus fidelity: which runs make a point and a curve, what is written, and what is said."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import frontier
from analysis.frontier_picture import draw_panel
from analysis.measured import load_runs

GENERATOR = {"train.generator_metrics": True}
BOTH = ("fid", "fid_unbiased")


def add(
    runs: Any, weight: float, bias: list[float], fid: list[float], origin: dict[str, Any] | None = None, **options: Any
) -> None:
    """One configuration with a run per value."""
    settings = {**GENERATOR, "objective.lambda_bias": weight, **{k.replace("__", "."): v for k, v in options.items()}}
    values = {
        "generator/cramers_v": bias,
        "generator/fid": fid,
        "generator/cramers_v_real": [0.97] * len(fid),
        "generator/cramers_v_unbiased": [0.0] * len(fid),
        "generator/fid_floor": [0.5] * len(fid),
        "generator/fid_unbiased": [2 * value for value in fid],
        "generator/fid_unbiased_floor": [0.25] * len(fid),
        "generator/fid_unbiased_copy": [0.75] * len(fid),
        "generator/fid_object": fid,
    }
    runs.seeds(settings, values, folder="frontier", origin=origin)


@pytest.fixture
def swept(runs: Any) -> Any:
    add(runs, 10.0, [0.2, 0.4], [30.0, 34.0])
    add(runs, 0.0, [0.9, 0.9, 0.9], [20.0, 20.0, 20.0])
    add(runs, 0.0, [0.92], [21.0], objective__bias_reference="data")
    add(runs, 10.0, [0.91], [25.0], objective__bias_reference="data")
    return runs


def test_a_curve_joins_runs_that_differ_in_lambda_bias_alone_and_a_point_is_a_mean_over_seeds(swept):
    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    assert [(p.curve, p.lambda_bias, p.bias.n) for p in points] == [
        ("balanced, per class", 0.0, 3),
        ("balanced, per class", 10.0, 2),
        ("data, per class", 0.0, 1),
        ("data, per class", 10.0, 1),
    ]
    assert points[1].bias.mean == pytest.approx(0.3) and points[1].fidelity["fid"].value.mean == pytest.approx(32.0)
    assert points[1].fidelity["fid"].value.sd == pytest.approx(2.8284271)
    assert points[1].fidelity["fid_unbiased"].value.mean == pytest.approx(64.0)
    assert points[1].asked == 3 and points[2].fidelity["fid"].value.sd is None
    assert points[0].fidelity["fid"].floor.mean == 0.5 and points[0].bias_real.mean == pytest.approx(0.97)


def test_what_else_differs_is_named_and_never_averaged_over(swept):
    for weight in (0.0, 1.0):
        add(swept, weight, [0.5], [9.0], data__rho=0.9)
    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    assert {p.curve for p in points} == {
        "balanced, per class, rho = 0.9",
        "balanced, per class, rho = 0.98",
        "data, per class, rho = 0.98",
    }


def test_runs_without_the_metrics_unfinished_ones_and_those_that_only_chose_something_are_left_out(swept):
    swept.add({"objective.lambda_bias": 1.0}, {"test/accuracy": 0.9}, folder="frontier")
    swept.add({**GENERATOR, "objective.lambda_bias": 0.1}, folder="frontier", state="started")
    chooser = {
        "sweep": "frontier",
        "stage": "selection",
        "row": "full",
        "trial": 0,
        "point": {"objective.lambda_bias": 100.0},
    }
    add(swept, 100.0, [0.1], [9.0], origin=chooser)
    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    assert {p.lambda_bias for p in points} == {0.0, 10.0}


def test_a_single_point_is_no_curve(swept):
    add(swept, 0.1, [0.5], [9.0], data__rho=0.9)
    assert {p.curve for p in frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)} == {
        "balanced, per class, rho = 0.98",
        "data, per class, rho = 0.98",
    }


def test_what_real_images_score_is_shown_only_where_all_points_are_of_the_same_data(swept):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    other = replace(points[0], bias_real=points[0].bias, bias_unbiased=points[0].bias)
    draw_panel(axes, [*points, other], "fid")
    assert {line.get_label() for line in axes.lines if not line.get_label().startswith("_")} == {
        "real images, as biased as the reference"
    }


def test_distances_at_or_below_zero_are_drawn_on_a_linear_axis(swept):
    from matplotlib.figure import Figure

    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    for below_zero, scale in ((False, "log"), (True, "linear")):
        axes = Figure().add_subplot()
        fidelity = points[0].fidelity["fid"]
        floor = replace(fidelity.floor, values=(-0.1,)) if below_zero else fidelity.floor
        shown = [replace(p, fidelity={"fid": replace(p.fidelity["fid"], floor=floor)}) for p in points]
        draw_panel(axes, shown, "fid")
        assert axes.get_yscale() == scale


def test_only_distances_can_be_asked_for(swept, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        frontier.main(["--runs", str(swept.path), "--out", str(tmp_path), "--fidelity", "precision_object"])
    assert stopped.value.code == 2 and "fid_unbiased" in capsys.readouterr().err


def test_the_command_writes_data_and_a_picture(swept, tmp_path, capsys):
    assert frontier.main(["--runs", str(swept.path), "--out", str(tmp_path / "out"), "--sweep", "frontier"]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "frontier.csv").open()))
    assert [(row["curve"], row["lambda_bias"], row["seeds"], row["asked"]) for row in rows][1] == (
        "balanced, per class",
        "10",
        "2",
        "3",
    )
    assert float(rows[1]["cramers_v_mean"]) == pytest.approx(0.3) and rows[2]["fid_sd"] == ""
    assert float(rows[1]["fid_unbiased_mean"]) == pytest.approx(64.0) and rows[1]["fid_copy_mean"] == "0.5"
    assert float(rows[1]["fid_floor_mean"]) == 0.5 and float(rows[1]["fid_unbiased_copy_mean"]) == 0.75
    assert len(rows[1]["runs"].split()) == 2
    picture = (tmp_path / "out" / "frontier.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    printed = capsys.readouterr().out
    assert "balanced, per class" in printed and "32.0000 ± 2.8284 (2/3)" in printed


@pytest.mark.parametrize(("measure", "floor", "copied"), [("fid", 0.5, 0.5), ("fid_unbiased", 0.25, 0.75)])
def test_the_picture_shows_what_real_data_score_with_their_bias_and_without(swept, measure, floor, copied):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    points = frontier.frontier(load_runs(swept.path), "cramers_v", BOTH)
    draw_panel(axes, points, measure)
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["real images, as biased as the reference"].get_ydata()) == [floor, floor]
    assert lines["bias read off unbiased images"].get_xdata()[0] == 0.0
    images = lines["training images"]
    assert (images.get_xdata()[0], images.get_ydata()[0]) == (pytest.approx(0.97), copied)
    curves = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(curves["balanced, per class"].get_ydata()) == [points[n].fidelity[measure].value.mean for n in (0, 1)]


def test_json_is_for_programs(swept, tmp_path, capsys):
    assert frontier.main(["--runs", str(swept.path), "--out", str(tmp_path), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    found = points[0]["fidelity"]["fid_unbiased"]
    assert found["mean"] == 40.0 and found["floor"] == {"mean": 0.25, "sd": 0.0, "n": 3}


def test_without_matplotlib_the_data_are_written_and_what_is_missing_is_said(swept, tmp_path, capsys, monkeypatch):
    for name in list(sys.modules):
        if name.startswith("matplotlib"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert frontier.main(["--runs", str(swept.path), "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.glob("frontier.*")] == ["frontier.csv"]
    assert "pip install 'genxai[figures]'" in capsys.readouterr().err


def test_without_runs_one_message_says_what_to_run(runs, tmp_path, capsys):
    assert frontier.main(["--runs", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err and not list(tmp_path.glob("frontier*"))
    runs.add({}, {"test/accuracy": 0.9})
    assert frontier.main(["--runs", str(runs.path), "--out", str(tmp_path), "--bias", "nonsense"]) == 1
    assert "generator/nonsense" in capsys.readouterr().err


def test_the_sweep_asks_for_what_the_command_reads():
    from launch.sweepfile import load_sweep

    sweep = load_sweep(Path(__file__).parents[2] / "sweeps" / "frontier.yaml")
    assert sweep.base.train.generator_metrics and sweep.base.train.generator
    assert sweep.rows is not None and not sweep.rows.questions
    assert len(sweep.rows.cases) == 9 and len(sweep.definition.seeds) == 3
    assert [case.row for case in sweep.rows.cases].count("per_class_balanced") == 5
