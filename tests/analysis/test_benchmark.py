"""The benchmark's command line, its figures, targets and floors; what it measures is a matter of the machine."""

from __future__ import annotations

import json

import pytest

from analysis import benchmark, benchmarks
from analysis.benchmarks import floors, report, timing
from analysis.benchmarks.figures import Figure, milliseconds, ratio
from analysis.benchmarks.progress import Progress
from analysis.benchmarks.setting import Setting

MACHINE = {"processor": "CPU", "cores": 2, "gpu": None, "threads": 1, "torch": "2", "python": "3", "load": 0.0}


@pytest.mark.parametrize("repeats", ["0", "-1"])
def test_nothing_is_not_measured(repeats: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--repeats", repeats]) == 2
    assert capsys.readouterr().err == f"error: --repeats: expected at least 1, got {repeats}\n"


def test_an_unknown_option_of_the_configuration_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["tiny", "train.speed=3"]) == 2
    assert "train.speed" in capsys.readouterr().err


def test_a_ratio_is_taken_within_each_round_and_of_the_best_times() -> None:
    figure = ratio("loop/bare", "speed", [2.0, 12.0, 3.0], [1.0, 4.0, 3.0])
    assert figure.values == (2.0, 3.0, 1.0)
    assert figure.median == 2.0
    assert figure.of_best == 2.0
    assert ratio("data/share", "share", [1.0], [50.0], percent=True).values == (2.0,)
    assert milliseconds("loop/step", "step", [0.25]).values == (250.0,)


def test_contenders_take_turns_in_rotating_order_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []
    work = {name: lambda n=name: order.append(n) for name in "abc"}
    ticks: list[int] = []
    times = timing.alternate(work, 3, lambda: ticks.append(1), warm_up=1)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = ["".join(order[start : start + 3]) for start in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert len(ticks) == timing.calls(3, 3, warm_up=1) == 12


def test_a_time_limit_leaves_the_rounds_that_a_median_needs() -> None:
    times = timing.alternate({"a": lambda: None}, 50, lambda: None, limit=0.0)
    assert len(times["a"]) == timing.FEWEST


def test_every_mark_belongs_to_a_suite_and_its_floor_is_no_stricter_than_its_target() -> None:
    marks = floors.load_marks()
    for key, mark in marks.items():
        assert key.partition("/")[0] in benchmarks.SUITES
        if mark.target is not None and mark.floor is not None:
            assert mark.reaches(mark.target, mark.floor), key


def test_a_figure_falls_when_its_median_and_its_best_times_miss_the_floor() -> None:
    higher = floors.Mark(better="higher", target=0.9, floor=0.5)
    lower = floors.Mark(better="lower", target=1.1, floor=2.0)
    slow = Figure("loop/bare", "speed", "x", (0.4,), of_best=0.4)
    disturbed = Figure("loop/bare", "speed", "x", (0.4,), of_best=0.8)
    costly = Figure("loop/overhead", "overhead", "x", (2.5,))
    assert floors.fallen([slow], {"loop/bare": higher}) == ["loop/bare: speed: 0.4 is below its floor of 0.5"]
    assert floors.fallen([disturbed], {"loop/bare": higher}) == []
    assert floors.fallen([costly], {"loop/overhead": lower}) == ["loop/overhead: overhead: 2.5 is above its limit of 2"]
    assert floors.fallen([slow, costly], {}) == []
    assert floors.fallen([slow], {"loop/bare": higher.model_copy(update={"floor": None})}) == []


def test_the_target_of_a_gpu_is_its_own() -> None:
    mark = floors.Mark(better="higher", target=3.0, cuda_target=10.0)
    assert (mark.aim("cpu"), mark.aim("cuda")) == (3.0, 10.0)
    assert floors.Mark(better="higher", target=3.0).aim("cuda") == 3.0


def test_the_table_says_what_is_met_and_names_the_machine() -> None:
    figures = [
        Figure("loop/bare", "speed", "x", (0.96, 0.97, 0.98)),
        Figure("loop/overhead", "overhead", "x", (1.2,)),
        Figure("sweep/pass", "first pass", "s", (0.02,)),
    ]
    marks = {"loop/bare": floors.Mark(better="higher", target=0.95), "loop/overhead": _lower()}
    lines = report.table(figures, marks, MACHINE, "core on tiny").splitlines()
    assert lines[1] == "loop"
    assert lines[2].split() == ["speed", "0.970", "0.960", "0.980", "x", ">=", "0.95", "met"]
    assert lines[3].split()[-4:] == ["<=", "1.12", "not", "met"]
    assert lines[5].split() == ["first", "pass", "0.020", "0.020", "0.020", "s"]
    assert lines[-1] == "on CPU, 2 cores, 1 thread, torch 2, load 0 before"


def _lower() -> floors.Mark:
    return floors.Mark(better="lower", target=1.12, floor=1.5)


class FakeSuite:
    """Stands in for the measuring, which takes its time."""

    def __init__(self, overhead: float) -> None:
        self.overhead, self.asked = overhead, list[tuple[str, Setting]]()

    def __call__(self, suite: str, setting: Setting) -> list[Figure]:
        self.asked.append((suite, setting))
        return [Figure("loop/overhead", "overhead", "x", (self.overhead,))]


def test_check_fails_and_names_what_fell(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "measure", FakeSuite(99.0))
    assert benchmark.main(["--short", "--check"]) == 1
    assert "fallen: loop/overhead: overhead: 99 is above" in capsys.readouterr().err
    assert benchmark.main(["--short"]) == 0
    monkeypatch.setattr(benchmark, "measure", FakeSuite(1.0))
    assert benchmark.main(["--short", "--check"]) == 0


def test_json_is_one_object_with_machine_target_and_floor(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSuite(1.05)
    monkeypatch.setattr(benchmark, "measure", fake)
    assert benchmark.main(["cpu", "train.threads=1", "--suite", "loop", "--json", "--repeats", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["suite"], found["source"], found["overrides"]) == ("loop", "cpu", ["train.threads=1"])
    assert found["machine"]["processor"]
    assert found["machine"]["threads"] == 1
    record = found["figures"]["loop/overhead"]
    assert (record["median"], record["target"], record["met"], record["fallen"]) == (1.05, 1.12, True, False)
    (suite, setting), *_ = fake.asked
    assert (suite, setting.repeats, setting.short, setting.limit) == ("loop", 3, False, None)


def test_core_is_every_suite_in_its_short_form(monkeypatch) -> None:
    asked: list[tuple[str, bool]] = []

    class Module:
        def __init__(self, name: str) -> None:
            self.name = name

        def measure(self, setting: Setting) -> list[Figure]:
            asked.append((self.name, setting.short))
            return []

    monkeypatch.setattr(benchmarks.importlib, "import_module", Module)
    benchmarks.measure(benchmarks.CORE, Setting())
    assert asked == [(f"analysis.benchmarks.{name}", True) for name in benchmarks.SUITES]
    benchmarks.measure("cam", Setting())
    assert asked[-1] == ("analysis.benchmarks.cam", False)


def test_progress_is_silent_about_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    with progress.task("cam", 3) as tick:
        tick()
    assert capsys.readouterr().err == ""
    progress._began -= 10.0
    with progress.task("cam", 3) as tick:
        tick()
        tick()
    assert capsys.readouterr().err == "measuring cam ...\n"
