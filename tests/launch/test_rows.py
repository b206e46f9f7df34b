"""Rows of a table in a sweep file: what they come to before any work, and what is refused."""

import pytest

from genxai.errors import UsageError
from launch.rowfile import LEARNT_FROM, LOWER_IS_BETTER
from launch.rows import count_runs
from launch.sweepfile import dump_sweep, find_sweep, load_sweep

GP = "objective.lambda_gp"
RHO = "data.rho"


@pytest.fixture
def load(rows_file):
    """The test table with parts of its text replaced."""

    def change(*pairs):
        text = rows_file.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        rows_file.write_text(text)
        return load_sweep(rows_file)

    return change


def test_candidates_come_first_and_rows_after_them_each_once_per_setting(load):
    rows = load().rows
    candidates = [(q.row, q.setting[RHO], q.by, c.trial, c.values[GP]) for q, c in rows.candidates]
    assert candidates == [
        ("full", 0.9, "val/accuracy", 0, 1.0),
        ("full", 0.9, "val/accuracy", 1, 10.0),
        ("full", 0.9, "val/accuracy", 2, 50.0),
        ("full_balanced", 0.9, "val_balanced/accuracy", 3, 1.0),
        ("full_balanced", 0.9, "val_balanced/accuracy", 4, 10.0),
        ("full_balanced", 0.9, "val_balanced/accuracy", 5, 50.0),
    ]
    assert [(case.trial, case.row, case.setting[RHO], case.seeds, case.question) for case in rows.cases] == [
        (6, "plain", 0.5, (0, 1), None),
        (7, "plain", 0.9, (0, 1), None),
        (8, "full", 0.5, (0, 1, 2), 0),  # what was chosen at 0.9 holds here as well
        (9, "full", 0.9, (0, 1, 2), 0),
        (10, "full_balanced", 0.9, (0, 1), 1),
        (11, "placebo", 0.9, (0, 1), 0),
    ]


def test_a_choice_without_a_fixed_part_is_made_in_every_setting_and_one_with_it_once(load):
    rows = load((", at: {data.rho: 0.9}", "")).rows
    assert [(q.row, q.setting[RHO]) for q in rows.questions] == [("full", 0.5), ("full", 0.9), ("full_balanced", 0.9)]
    assert [case.question for case in rows.cases if case.row == "full"] == [0, 1]


def test_a_choice_holds_for_all_settings_that_agree_in_the_other_keys(load):
    rows = load(("space:\n", "space:\n  data.seed: {grid: [7, 8]}\n")).rows
    asked = [(q.setting["data.seed"], q.setting[RHO]) for q in rows.questions if q.row == "full"]
    assert asked == [(7, 0.9), (8, 0.9)]
    taken = [
        (c.setting["data.seed"], rows.questions[c.question].setting["data.seed"]) for c in rows.cases if c.question
    ]
    assert taken and all(mine == chosen for mine, chosen in taken)


def test_a_row_is_its_settings_then_what_it_sets_then_what_is_chosen(load):
    rows = load().rows
    placebo = rows.cases[-1]
    assert list(placebo.options) == [{RHO: 0.9, "explain.masks": "random", GP: value} for value in (1.0, 10.0, 50.0)]
    assert rows.cases[0].options == ({RHO: 0.5, "objective.lambda_bias": 0.0},)


def test_what_a_row_like_another_sets_itself_is_not_taken_over(load):
    rows = load(
        (
            "{objective.lambda_gp: [1, 10, 50]}, by: val/",
            "{objective.lambda_gp: [1, 10, 50], revise.weight: [3]}, by: val/",
        ),
        ("{explain.masks: random}", "{explain.masks: random, objective.lambda_gp: 7}"),
    ).rows
    assert [(option[GP], option["revise.weight"]) for option in rows.cases[-1].options] == [(7.0, 3.0)] * 3


def test_the_number_of_runs_is_known_without_the_configurations(load):
    sweep = load()
    selection, rows = 6, sum(len(case.seeds) for case in sweep.rows.cases)
    assert count_runs(sweep.definition) == selection + rows == 6 + 2 * 2 + 2 * 3 + 2 + 2


def test_the_dumped_table_is_the_same_table(load, tmp_path):
    sweep = load()
    again = tmp_path / "again.yaml"
    again.write_text(dump_sweep(sweep.definition))
    assert load_sweep(again).definition == sweep.definition and load_sweep(again).rows == sweep.rows


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_the_command_for_the_papers_scale_in_the_files_header_is_one_that_works(name):
    file = find_sweep(name)
    (words,) = [
        line[1:].split() for line in file.read_text().splitlines() if line.startswith("#") and "base=paper" in line
    ]
    sweep = load_sweep(file, words)
    assert sweep.base.train.epochs == 100 and sweep.base.data.captions.texture == 0
    assert sweep.base.revise.weight == sweep.base.objective.lambda_attribution == 1
    starts = [case.options[0]["explain.from_epoch"] for case in sweep.rows.cases if case.row == "post_hoc"]
    assert all(start == 67 for start in starts) and (name != "table3" or starts)


def test_what_an_override_has_made_wrong_is_not_said_of_the_file_alone(rows_file):
    with pytest.raises(UsageError, match=r"r.yaml with rows.plain.seeds=\[100\]: rows.plain: seed 100 is one of"):
        load_sweep(rows_file, ["rows.plain.seeds=[100]"])


def test_overrides_reach_the_dotted_keys_of_rows(rows_file):
    sweep = load_sweep(
        rows_file,
        [
            "rows.plain.set.objective.lambda_bias=0.5",
            "rows.plain.only.data.rho=[0.5]",
            "rows.full.seeds=[4]",
            "rows.full.choose.space.objective.lambda_gp=[2, 3, 4]",
            "rows.full.choose.at.data.rho=0.5",
            "train.epochs=1",
        ],
    )
    plain, full = sweep.definition.rows["plain"], sweep.definition.rows["full"]
    assert plain.set == {"objective.lambda_bias": 0.5} and plain.only == {RHO: (0.5,)}
    assert full.seeds == (4,) and full.choose.space == {GP: (2, 3, 4)} and full.choose.at == {RHO: 0.5}
    assert sweep.base.train.epochs == 1
    with pytest.raises(UsageError, match=r"rows\.full\.choose\.space\.objective\.lambda_gp|full_balanced"):
        load_sweep(rows_file, ["objective.lambda_gp=3"])


BY = "by: val/accuracy"
SET = "set: {objective.lambda_bias: 0}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # unknown keys, with the nearest
        ("seeds: [0, 1, 2]", "sedes: [0, 1, 2]", ["rows.full", "'sedes'", "'seeds'"]),
        (BY, "bye: val/accuracy", ["rows.full.choose", "'bye'", "'by'"]),
        (SET, "set: {objective.lambda_bais: 0}", ["rows.plain.set", "objective.lambda_bais", "objective.lambda_bias"]),
        ("{objective.lambda_gp: [", "{objective.lambda_pg: [", ["choose.space", "objective.lambda_gp"]),
        (SET, "set: {objective: 0}", ["rows.plain.set", "'objective' cannot be set"]),
        (SET, "set: {run.log_every: 3}", ["cannot be set"]),
        ("rows:\n", "row:\n", ["'row'", "'rows'"]),
        # a configuration that is invalid, with its row and setting
        (SET, "set: {model.fusion: text}", ["row 'plain'", "data.rho=0.5", "model.fusion=text has no image map"]),
        ("[1, 10, 50]}, by: val/", "[1, -10, 50]}, by: val/", ["'full'", "objective.lambda_gp=-10", ">= 0"]),
        (SET, "set: {objective.lambda_bias: 'much'}", ["row 'plain' at data.rho=0.5", "much"]),
        # settings
        (SET, "set: {data.rho: 0.5}", ["data.rho", "part of the setting"]),
        (SET, "only: {data.rho: [0.7]}", ["rows.plain.only", "data.rho=0.7", "0.5, 0.9"]),
        (SET, "only: {data.rhu: [0.7]}", ["rows.plain.only", "data.rhu"]),
        ("at: {data.rho: 0.9}", "at: {data.rho: 0.7}", ["rows.full.choose.at", "0.7"]),
        ("grid: [0.5, 0.9]", "grid: [0.5, 0.5]", ["twice"]),
        ("{grid: [0.5, 0.9]}", "{low: 0.1, high: 0.5}", ["space.data.rho", "grid of their settings"]),
        # rows like others
        ("like: full", "like: fool", ["rows.placebo.like", "'fool'", "full, full_balanced"]),
        ("like: full", "like: plain", ["rows.placebo.like", "'plain' chooses nothing itself"]),
        ("explain.masks: random", "objective.lambda_gp: 3", ["rows.placebo", "takes nothing"]),
        ("at: {data.rho: 0.9}}", "at: {data.rho: 0.9}}\n    like: plain", ["either chooses or is like"]),
        ("only: {data.rho: [0.9]}, like: full", "like: full_balanced", ["rows.placebo", "=0.5", "chooses nothing"]),
        # choosing
        (BY, "by: test/accuracy", ["rows.full.choose", "'test/accuracy' cannot choose", "validation"]),
        (BY, "by: validation/accuracy", ["cannot choose"]),
        (BY, "by: val/", ["cannot choose"]),
        ("selection_seeds: [100]", "selection_seeds: [2]", ["rows.full", "seed 2", "fresh seeds"]),
        ("selection_seeds: [100]", "selection_seeds: [1]", ["rows.plain", "seed 1"]),
        ("selection_seeds: [100]", "selection_seeds: [7, 7]", ["twice"]),
        ("selection_seeds: [100]", "selection_seeds: []", ["rows.full", "no selection_seeds"]),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", ["rows.full", "twice"]),
        ("[1, 10, 50]}, by: val/", "[1, 1.0, 50]}, by: val/", ["rows.full.choose.space", "twice"]),
        ("[1, 10, 50]}, by: val/", "[1, 10]}, by: val/", ["same budget", "full 2", "full_balanced 3"]),
        ("[1, 10, 50]}, by: val/", "[]}, by: val/", ["rows.full.choose"]),
        ("    seeds: [0, 1, 2]\n", "    set: {objective.lambda_gp: 3}\n", ["rows.full", "both set and chosen"]),
        # what does not go with rows
        ("seeds: [0, 1]\n", "seeds: [0, 1]\nbayes: {points: 2}\n", ["bayes.points=2"]),
        ("seeds: [0, 1]\n", "seeds: [0, 1]\nobjectives: [{metric: val/loss}]\n", ["objectives"]),
        ("seeds: [0, 1]\n", "seeds: [0, 1]\nreuse: [r]\n", ["this sweep itself"]),
        ("seeds: [0, 1]\n", "seeds: [0, 1]\nreuse: [../r]\n", ["reuse"]),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_message_that_names_what_is_wrong(load, old, new, words):
    with pytest.raises(UsageError) as caught:
        load((old, new))
    assert "r.yaml" in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)


def test_selection_seeds_where_nothing_is_chosen_are_refused(sweep_file, tmp_path):
    with pytest.raises(UsageError, match="selection_seeds are for rows that choose"):
        load_sweep(sweep_file, ["selection_seeds=[5]"])
    rows = tmp_path / "plain.yaml"
    rows.write_text("base: tiny\nselection_seeds: [100]\nrows:\n  plain: {}\n")
    with pytest.raises(UsageError, match="selection_seeds are for rows that choose"):
        load_sweep(rows)


BALANCED = "objective.lambda_gp: [1, 10, 50]}, by: val_balanced/accuracy}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BALANCED, f"{BALANCED}\n    set: {{method.name: dfr}}"),
        (BALANCED, BALANCED.replace("50]", "50], method.name: [dfr]")),
        ("base: tiny", "base: tiny\noverrides: {method.name: dfr}"),
    ],
)
def test_data_that_a_method_learns_from_do_not_choose_its_hyper_parameters(load, old, new):
    with pytest.raises(UsageError) as caught:
        load((old, new))
    said = str(caught.value)
    assert "rows.full_balanced.choose.by" in said and "dfr learns from val_balanced" in said
    assert said.endswith("choose by val/<metric>")


def test_what_methods_are_said_to_learn_from_is_what_their_classes_say():
    from genxai.fairness.methods import known_methods

    said = {
        name: tuple(split for split in kind.trained_on if split != "train") for name, kind in known_methods().items()
    }
    assert {name: splits for name, splits in said.items() if splits} == LEARNT_FROM


def test_metrics_that_are_better_when_small_choose_nothing(load):
    with pytest.raises(UsageError, match=r"the largest mean is chosen, and ece is better when small"):
        load(("by: val/accuracy", "by: val/ece"))


def test_which_metrics_are_better_when_small_is_what_the_registry_says():
    from genxai.metrics.registry import METRICS, metrics_of

    metrics_of("other")  # has them all registered
    lower = {name for name, entry in METRICS.items() if not entry.higher_is_better}
    assert {name for name in lower if not name.startswith("generator/")} == LOWER_IS_BETTER


def test_only_validation_splits_that_the_data_have_may_choose(tmp_path):
    file = tmp_path / "comments.yaml"
    choose = "{space: {train.lr: [0.1, 0.01]}, by: BY/accuracy}"
    file.write_text(f"base: toxicity\nseeds: [0]\nselection_seeds: [100]\nrows:\n  plain:\n    choose: {choose}\n")
    with pytest.raises(UsageError, match=r"by val/<metric>$"):
        load_sweep(file, ["rows.plain.choose.by=val_balanced/accuracy"])
    assert load_sweep(file, ["rows.plain.choose.by=val/accuracy"]).rows.questions[0].by == "val/accuracy"


# --- the shipped tables --------------------------------------------------------------------------


def changed(sweep, case) -> set[str]:
    """What a row changes of the common base, settings and choice apart."""
    return set(sweep.definition.rows[case.row].set)


def test_an_ablation_of_table_3_differs_from_the_full_method_in_what_it_sets_alone():
    sweep = load_sweep(find_sweep("table3"))
    full = {str(case.setting): case for case in sweep.rows.cases if case.row == "full"}
    for case in sweep.rows.cases:
        if case.like is None:
            continue
        whole = full[str(case.setting)]
        assert case.question == whole.question and len(case.options) == len(whole.options) == 3
        for mine, its in zip(case.options, whole.options, strict=True):
            assert {key for key in {*mine, *its} if mine.get(key) != its.get(key)} == changed(sweep, case)
    alone = {row for row, spec in sweep.definition.rows.items() if spec.like is None}
    assert alone == {"full", "without_xai", "without_bias_feedback", "cam_loss_every_step", "revise_only"}


def test_headline_rows_of_table_2_have_all_rho_and_five_seeds_and_the_others_one_rho_and_three():
    sweep = load_sweep(find_sweep("table2"))
    cases = sweep.rows.cases
    for row in sweep.definition.rows:
        mine = [case for case in cases if case.row == row]
        headline = row in ("full", "cross_modal_attention")
        assert {len(case.seeds) for case in mine} == {5 if headline else 3}
        assert {case.setting[RHO] for case in mine} == ({0.1, 0.9, 0.98, 1.0} if headline else {0.98})
        assert {case.setting["data.dataset"] for case in mine} == {"mnist", "fashion-mnist"}


def test_a_row_of_table_2_keeps_the_classifier_by_the_split_that_chooses_its_hyper_parameters():
    sweep = load_sweep(find_sweep("table2"))
    for name, row in sweep.definition.rows.items():
        kept_on = row.set.get("train.select_on", "val")
        assert kept_on == ("val_balanced" if name.endswith("_balanced") else "val")
        assert row.choose is None or row.choose.by == f"{kept_on}/accuracy"


def test_tables_2_and_3_train_the_full_method_alike_so_that_one_finds_the_runs_of_the_other(tmp_path):
    from launch.plan import Planner
    from launch.sweepdir import SweepDir

    runs = []
    for name in ("table2", "table3"):
        sweep = load_sweep(find_sweep(name))
        planner = Planner(sweep, SweepDir(tmp_path / name), lambda data: data.model_dump_json())
        at = [case for case in sweep.rows.cases if case.row == "full" and case.setting[RHO] == 0.98]
        trials = planner.cases((case, option) for case in at for option in case.options)
        trials += [trial for trial in planner.selection() if trial.row == "full"]
        runs.append({planned.signature for trial in trials for planned in trial.runs})
    assert runs[0] == runs[1] and len(runs[0]) == 2 * 3 * 5 + 2 * 3 * len(sweep.definition.selection_seeds)
