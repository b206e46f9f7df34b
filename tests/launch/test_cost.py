"""Device-hours and money on cards nobody has at hand: what is measured, what is assumed, and by which arithmetic."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from genxai.configfile import load_config
from genxai.errors import UsageError
from genxai.files import append_jsonl, write_json
from genxai.runs import effective_options
from launch import cost, sweep
from launch.cards import (
    Card,
    assumed_run,
    load_cards,
    measured_seconds,
    memory_gb,
    run_key,
    split_sizes,
    step_key,
    step_seconds,
    steps,
    this_device,
)
from launch.cost import Counter, Job, cost_lines, estimate, makespan, sweep_estimates, sweep_jobs
from launch.points import config_at
from launch.reproduction import jobs_by_table, load_reproduction
from launch.survey import Surveyor, affordable, eta_seconds
from launch.sweepfile import find_sweep, load_sweep

REPRODUCTION = Path(cost.__file__).with_name("reproduction.yaml")
CARDS = Path(cost.__file__).with_name("cards.yaml")


@pytest.fixture(scope="module")
def tiny_cost():
    from analysis.costs.step import measure_step

    return measure_step(load_config("tiny"))


@pytest.fixture
def plain(tiny_cost):
    """A step of one pass: 3 TFLOP in 1,000 kernels, twice a step; 800 MB moved by the optimisers."""
    from analysis.costs.meter import Work

    part = replace(tiny_cost.parts[0], work=Work(3 * 10**12, 1000, 0), times=2.0, precision="fp32")
    return replace(tiny_cost, parts=(part,), update_bytes=8e8)


@pytest.fixture
def card():
    peak = {"fp32": 10.0, "tf32": 10.0, "bf16": 100.0, "fp16": 100.0}
    return Card(title="c", names=("c",), peak=peak, memory_gb=40, bandwidth_gb_s=100, price_per_hour=2)


def survey_of(planner):
    trials = {trial.number: trial for trial in planner.grid()}
    return Surveyor(planner).look(trials, {}, [])


def finish_on(planned, device, seconds, **more):
    planned.run.plan(planned.config)
    append_jsonl(planned.run.provenance_file, {"device": device} | more)
    write_json(planned.run.result_file, {"metrics": {}, "seconds": seconds, "restarts": 0, "steps": 3})


# --- a run and its steps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.source=embedded"],
        ["data.source=embedded", "data.split=canonical"],
        ["data.source=embedded", "data.train_limit=1500", "data.test_limit=333", "data.val_fraction=0.2"],
        ["data.source=embedded", "data.train_limit=800", "data.val_limit=250"],
        ["data.source=embedded", "data.val_limit=100"],
    ],
)
def test_the_sizes_of_splits_are_those_of_the_data(overrides):
    from genxai.data import TexMM

    config = load_config("cpu", [f"data.{limit}=null" for limit in ("train_limit", "test_limit")] + overrides)
    sizes = split_sizes(config)
    found = {split: len(TexMM(config, split, "cpu")) for split in ("train", "val", "val_balanced", "test")}
    assert (sizes.train, sizes.val, sizes.test) == (found["train"], found["val"], found["test"])
    assert found["val_balanced"] <= sizes.balanced


def test_the_papers_preset_makes_its_hundred_epochs_of_four_fifths_less_validation():
    assert steps(load_config("paper")) == 100 * (50_400 // 32)


def test_a_pass_takes_its_operations_or_its_kernels_whichever_is_longer(plain, card):
    config, assumed = load_config("tiny"), load_cards().assumptions
    outside = 6 * assumed.kernels_per_batch * assumed.kernel_seconds
    update = 8e8 / (100e9 * assumed.bandwidth_utilisation)
    by_operations = 2 * 3e12 / (10e12 * assumed.utilisation["fp32"])
    assert step_seconds(plain, config, card) == pytest.approx(by_operations + update + outside)
    by_kernels = 2 * 1000 * assumed.kernel_seconds
    many = card.model_copy(update={"peak": dict.fromkeys(card.peak, 1e6)})
    assert step_seconds(plain, config, many) == pytest.approx(by_kernels + update + outside)


def test_what_stays_in_float32_is_charged_at_the_float32_peak_whatever_the_precision(tiny_cost):
    from analysis.costs.step import measure_step

    half = measure_step(load_config("tiny", ["train.precision=fp16"]), memory=False)
    always = {part.component for part in half.parts} - {
        part.component for part in half.parts if part.precision != "fp32"
    }
    assert always == {"penalty", "descriptor"}
    explained = [part for part in half.parts if part.component in ("explanation", "revision")]
    for part in explained:
        assert part.precision == ("fp16" if part.use.endswith("below the map") else "fp32")
    assert {part.precision for part in half.parts if part.component not in always and part not in explained} == {"fp16"}
    assert {part.precision for part in tiny_cost.parts} == {"fp32"}


def test_a_run_is_its_steps_and_its_evaluations(tiny_cost, card):
    config = load_config("tiny")
    once = assumed_run(tiny_cost, config, card)
    assert once.seconds > steps(config) * step_seconds(tiny_cost, config, card)
    twice = assumed_run(tiny_cost, load_config("tiny", ["train.epochs=6"]), card)
    assert once.seconds < twice.seconds < 2 * once.seconds  # the final evaluation is made once
    assert once.basis == "assumed"


def test_a_classifier_that_is_trained_alone_costs_its_own_passes_and_nothing_of_the_gan(tiny_cost):
    from analysis.costs.step import measure_step

    alone = measure_step(load_config("tiny", ["train.generator=false", "revise.enabled=false"]), memory=False)
    components = {part.component for part in alone.parts}
    assert components == {"image_encoder", "text_encoder", "fusion", "head", "explanation"}
    assert alone.flops("head") == tiny_cost.flops("head") and set(alone.updated) == {"classifier"}
    assert 0 < alone.update_flops < tiny_cost.update_flops and 0 < alone.resident_bytes < tiny_cost.resident_bytes


def test_only_options_that_cost_something_tell_runs_apart():
    base = load_config("tiny")
    for same in ("seed=3", "objective.lambda_gp=3.0", "data.rho=0.5", "train.lr=0.5", "model.dropout=0.1", "name=x"):
        assert run_key(load_config("tiny", [same])) == run_key(base), same
    alone = load_config("tiny", ["revise.enabled=false", "train.generator=false"])
    assert step_key(alone) != step_key(load_config("tiny", ["revise.enabled=false"]))
    different = ("objective.lambda_gp=0.0", "explain.fraction=0.5", "model.dim=64", "train.batch_size=16")
    for other in (*different, "method.name=rrr"):
        assert step_key(load_config("tiny", [other])) != step_key(base), other
    longer = ("train.epochs=4", "train.second_opinion=true", "train.generator_metrics=true", "explain.from_epoch=1")
    for other in (*longer, "data.val_limit=100"):
        more = load_config("tiny", [other])
        assert step_key(more) == step_key(base) and run_key(more) != run_key(base), other


def test_how_the_generator_is_scored_tells_runs_apart_only_where_it_is():
    scored = run_key(load_config("tiny", ["train.generator_metrics=true"]))
    for other in ("train.generated_samples=200", "train.fid_extractor=inception"):
        assert run_key(load_config("tiny", ["train.generator_metrics=true", other])) != scored, other
        assert run_key(load_config("tiny", [other])) == run_key(load_config("tiny")), other


def test_runs_on_comments_are_no_measure_of_runs_on_images():
    comments = load_config("toxicity")
    data = comments.data.model_copy(update={"dataset": "mnist"})
    assert step_key(comments.model_copy(update={"data": data})) != step_key(comments)


def test_epochs_without_explanation_are_charged_without_it(tiny_cost, card):
    bare = replace(tiny_cost, parts=tuple(p for p in tiny_cost.parts if p.component not in ("explanation", "revision")))
    whole, without = (step_seconds(counted, load_config("tiny"), card) for counted in (tiny_cost, bare))
    late = step_seconds(tiny_cost, load_config("tiny", ["explain.from_epoch=2"]), card)  # of three
    assert whole > without and late == pytest.approx(without + (whole - without) / 3)


def test_a_method_that_passes_more_often_is_charged_for_float32_passes_of_the_classifier_alone(tiny_cost, card):
    ours = ("image_encoder", "text_encoder", "fusion", "head")
    alone = replace(
        tiny_cost,
        update_bytes=0,
        parts=tuple(replace(p, precision="fp32") for p in tiny_cost.parts if p.component in ours),
    )
    config, assumed = load_config("tiny"), load_cards().assumptions
    outside = (config.objective.n_critic + 1) * assumed.kernels_per_batch * assumed.kernel_seconds
    passes = step_seconds(alone, config, card) - outside
    erm, rrr = (step_seconds(tiny_cost, load_config("tiny", [f"method.name={name}"]), card) for name in ("jtt", "rrr"))
    assert rrr - erm == pytest.approx(assumed.float32_passes["rrr"] * passes)


# --- cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("AMD EPYC 7763 64-Core Processor", "cpu"),
        ("Intel(R) Xeon(R) Platinum", "cpu"),
        ("Abacus", None),
    ],
)
def test_a_device_is_known_by_the_name_in_its_provenance(device, name):
    assert load_cards().named(device) == name


def test_every_figure_of_a_card_has_its_source_beside_it():
    text = CARDS.read_text().splitlines()
    figures = ("peak:", "memory_gb:", "bandwidth_gb_s:", "price_per_hour:")
    lines = [(line, above) for above, line in pairwise(text) if line.strip().startswith(figures)]
    assert len(lines) == len(figures) * len(load_cards().cards)
    assert [line for line, above in lines if "#" not in line and "# ASSUMED" not in above] == []
    assert all("ASSUMED" in line or "null" in line for line, _ in lines if "price" in line)


# --- a sweep -------------------------------------------------------------------------------------


def test_a_sweep_is_charged_for_the_runs_to_come(make_planner, finish):
    planner = make_planner()
    jobs = sweep_jobs(planner, survey_of(planner))
    # 4 grid points and 3 Bayesian ones with 2 seeds each; the latter at most a window of 2 points at a time
    assert sorted((job.count, job.at_once) for job in jobs if job.at_once) == [(6, 4)]
    assert sum(job.count for job in jobs) == 14
    for planned in planner.grid()[0].runs:
        finish(planned)
    assert sum(job.count for job in sweep_jobs(planner, survey_of(planner))) == 12


def test_a_sweep_is_charged_for_every_process_of_its_runs_but_waits_only_for_their_seconds(make_planner):
    planner = make_planner("bayes.points=0")
    done, begun, *others = [planned for trial in planner.grid() for planned in trial.runs]
    finish_on(done, "NVIDIA RTX A6000", 3600.0, processes=4)
    write_json(done.run.result_file, done.run.result() | {"processes": 4})
    begun.run.plan(begun.config)
    append_jsonl(begun.run.provenance_file, {"processes": 1}, {"processes": 2})
    append_jsonl(begun.run.metrics_file, {"seconds": 1800.0})
    survey = survey_of(planner)
    assert survey.hours_per_run == 4.0
    assert survey.hours_used == 4.0 + 2 * 0.5
    assert survey.hours_to_come == 4.0 * len(others) + (4.0 - 1.0)
    assert eta_seconds(survey, parallel=1) == 3600.0 * (len(others) + 0.5)
    assert affordable(survey, survey.hours_used + 8.0, wanted=5) == 2


def test_finished_runs_on_a_card_replace_what_is_assumed_of_it_alone(make_planner):
    planner = make_planner("bayes.points=0")
    for planned, seconds in zip(planner.grid()[0].runs, (30.0, 42.0), strict=True):
        finish_on(planned, "NVIDIA RTX A6000", seconds)
    lines = {line.card: line for line in sweep_estimates(planner, survey_of(planner)) if line.devices in (1, 2)}
    a6000 = lines["a6000"]
    assert (a6000.basis, a6000.device_hours) == ("measured", pytest.approx(6 * 36.0 / 3600))
    assert a6000.money == pytest.approx(a6000.device_hours * load_cards().cards["a6000"].price_per_hour)
    assert lines["h200"].basis == "assumed"


def test_runs_on_two_kinds_of_device_or_damaged_ones_measure_nothing(make_planner):
    planner = make_planner("bayes.points=0")
    mixed, damaged, *_ = [planned for trial in planner.grid() for planned in trial.runs]
    finish_on(mixed, "NVIDIA RTX A6000", 30.0)
    append_jsonl(mixed.run.provenance_file, {"device": "NVIDIA H200"})
    finish_on(damaged, "NVIDIA RTX A6000", 30.0)
    damaged.run.config_file.write_text("{")
    assert measured_seconds([mixed.run, damaged.run]) == {}


def test_a_run_on_several_devices_is_charged_for_each(make_planner):
    planned = make_planner().grid()[0].runs[0]
    finish_on(planned, "NVIDIA H200", 30.0, processes=4)
    assert measured_seconds([planned.run]) == {(run_key(planned.config), "h200"): [120.0]}


def test_device_hours_do_not_depend_on_how_many_cards_but_wall_time_does(tiny_cost):
    config = load_config("tiny")
    counter = Counter({(run_key(config), "a6000"): [3600.0]})
    counter._counts[step_key(config)] = tiny_cost
    jobs = [Job(config, 9), Job(config, 6, at_once=3)]
    lines = {(line.card, line.devices): line for line in estimate(jobs, counter, (this_device(), 1))}
    assert [lines["a6000", count].device_hours for count in (1, 4, 8)] == [15.0] * 3
    # nine free runs, then two rounds of three
    assert [lines["a6000", count].wall_hours for count in (1, 4, 8)] == [15.0, 3.0 + 2.0, 2.0 + 2.0]


def test_runs_of_different_length_start_longest_first():
    assert makespan([1, 1, 1, 3], 2) == 3
    assert makespan([2, 2, 2], 2) == 4
    assert makespan([], 4) == 0


def test_a_run_that_does_not_fit_is_said(tiny_cost):
    config = load_config("tiny")
    counter = Counter({})
    counter._counts[step_key(config)] = replace(tiny_cost, resident_bytes=100 * 10**9)
    lines = estimate([Job(config, 1)], counter, ("cpu", 1))
    assert {(line.card, line.fits) for line in lines} == {("a6000", False), ("h200", True), ("cpu", None)}
    words = [line for line in cost_lines(lines, 1) if "warning" in line]
    assert len(words) == 1 and "RTX A6000" in words[0] and "train.batch_size" in words[0]


def test_memory_adds_what_is_not_tensors(tiny_cost):
    assumed = load_cards().assumptions
    expected = tiny_cost.memory_bytes / 1e9 * assumed.fragmentation + assumed.context_gb
    assert memory_gb(tiny_cost) == pytest.approx(expected)


def test_a_dry_run_prints_every_card_with_its_assumptions(sweep_file, tmp_path, capsys):
    words = [str(sweep_file), "--dry-run", "--runs", str(tmp_path / "runs")]
    assert sweep.main(words) == 0
    said = capsys.readouterr().out
    for words_in_it in ("1 x RTX A6000", "4 x RTX A6000", "8 x RTX A6000", "1 x H200", "this machine", "assumed"):
        assert words_in_it in said
    assert sweep.main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)["cost"]
    assert [line["devices"] for line in content["estimates"][:4]] == [1, 4, 8, 1]
    assert content["unknown"] is None
    assert not (tmp_path / "runs").exists()


def test_a_plan_is_printed_even_where_its_cost_cannot_be_counted(sweep_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [str(sweep_file), "--dry-run", "--runs", str(tmp_path / "runs"), "model.text.name=/no/such/bert"]
    assert sweep.main(words) == 0
    said = capsys.readouterr().out
    assert "14 runs" in said and "cost on other devices unknown" in said and "/no/such/bert" in said


# --- the full reproduction -----------------------------------------------------------------------


def test_table_1_is_the_shipped_sweep_at_the_papers_scale():
    jobs = next(iter(jobs_by_table(load_reproduction(REPRODUCTION)).values()))
    assert sum(job.count for job in jobs) == 84
    assert {job.config.model.image.name for job in jobs} == {"resnet50"}


def planned(name):
    """Configurations of a sweep of rows at the paper's scale, by row and seed; a row that chooses as its first try."""
    sweep = load_sweep(find_sweep(name), ["base=paper"])
    seeds = sweep.definition.selection_seeds
    tried = [(q.row, candidate.point, seed) for q, candidate in sweep.rows.candidates for seed in seeds]
    run = [(case.row, case.options[0], seed) for case in sweep.rows.cases for seed in case.seeds]
    return [
        (row, config_at(sweep.base, point, row).model_copy(update={"seed": seed})) for row, point, seed in tried + run
    ]


def test_tables_come_from_their_sweeps_with_every_row_and_candidate_as_it_is():
    two, three = list(jobs_by_table(load_reproduction(REPRODUCTION)).values())[1:]
    assert {job.config.model.image.name for job in two + three} == {"resnet50"}
    runs = planned("table2")
    for name in {config.method.name for _, config in runs}:
        counted = sum(job.count for job in two if job.config.method.name == name)
        assert counted == sum(config.method.name == name for _, config in runs), name
    generators = sum(job.count for job in two if job.config.train.generator)
    assert generators == sum(config.train.generator for _, config in runs)


def test_a_run_that_two_rows_share_is_counted_once():
    two, three = list(jobs_by_table(load_reproduction(REPRODUCTION)).values())[1:]
    runs = {name: {str(effective_options(config)) for _, config in planned(name)} for name in ("table2", "table3")}
    shared = runs["table2"] & runs["table3"]
    # the full method's selection runs and final ones at rho 0.98, and fusion_no_xai, on 2 data sets
    tried = 3 * len(load_sweep(find_sweep("table2")).definition.selection_seeds)
    assert len(shared) == 2 * (tried + 5 + 3)
    assert sum(job.count for job in two) == len(runs["table2"])
    assert sum(job.count for job in three) == len(runs["table3"] - shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": [{"title": "t"}]}, "sweep"),
        ({"tables": []}, "tables"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_listing_names_what_is_wrong(change, message, tmp_path):
    import yaml

    file = tmp_path / "tables.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(REPRODUCTION.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        load_reproduction(file)


def test_the_command_adds_up_its_tables(sweep_file, rows_file, tmp_path, capsys):
    listing = tmp_path / "tables.yaml"
    listing.write_text(
        f"base: tiny\ntables:\n- {{title: A, sweep: {sweep_file}}}\n- {{title: B, sweep: {rows_file}}}\n"
    )
    assert cost.main([str(listing), "--runs", str(tmp_path / "runs"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    # rows: 6 candidates, and 6 cases of 2 or 3 seeds; of `full_balanced`, whose runs are those of `full`, none
    assert {title: table["runs"] for title, table in content["tables"].items()} == {"A": 14, "B": 15}
    parts = [table["estimates"][0]["device_hours"] for table in content["tables"].values()]
    assert content["total"][0]["device_hours"] == pytest.approx(sum(parts))
    assert cost.main([str(listing), "--runs", str(tmp_path / "runs")]) == 0
    assert "A" in capsys.readouterr().out
