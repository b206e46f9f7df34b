"""Which runs stand for a row of a table, in one setting: those a sweep names for it, else those whose options fit.

Decided on configuration and validation data alone, never on a test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.captions import caption, describe_setting, made_on, scale_warning
from analysis.conditions import in_words, matches
from analysis.configuration import Configuration
from analysis.measured import Results
from analysis.row_words import ON_TEST_DATA, row_notes, why_not
from analysis.specs import RowSpec, TableSpec
from analysis.sweeps import Sweep
from analysis.verdicts import plain
from genxai.configfile import get_dotted
from genxai.errors import GenxaiError
from launch.selected import RowRuns

#: what chooses between configurations when no sweep has selected one
CHOOSING_METRIC = "val/accuracy"


@dataclass(frozen=True)
class Setting:
    """The runs that may stand in one table, with that table's name and caption; `runs` is None if there are none."""

    id: str
    caption: str
    runs: Results | None
    records: tuple[RowRuns, ...] = ()  # of sweeps with rows, the table's own sweeps first

    def described(self, title: str) -> str:
        """The caption below another title."""
        return f"{caption(title)} {self.caption}"


@dataclass(frozen=True)
class Choice:
    """The runs that stand for a row, or why there are none; and what a reader must know about them."""

    configuration: Configuration | None
    notes: tuple[str, ...] = ()
    reason: str = ""
    planned: bool = False  # a sweep has this row in this setting


def settings(spec: TableSpec, results: Results) -> list[Setting]:
    """One per setting found (`split_by`) in which a run fits a row; one without runs if there is none."""
    reported = results.reported()
    records = _records(spec, results.sweeps)
    everywhere = set(reported.frame["signature"]) if len(reported) else set[str]()
    found: list[Setting] = []
    for part in reported.split_by(spec.split_by, spec.across):
        here = tuple(record for record in records if _belongs(record, part, everywhere, spec.across))
        place = Setting("", "", part, here)
        if not _has_table(spec, place):
            continue
        config = part.frame["config"].iloc[0]
        starts = (start for run in part.frame["starts"] for start in run)
        about = caption(describe_setting(config, spec.split_by, spec.across), scale_warning([config]), made_on(starts))
        rho = "" if "data.rho" in spec.across else f"-rho{plain(config.data.rho)}"
        name = f"{spec.id}-{config.data.dataset}-{config.data.source}{rho}"
        found.append(replace(place, id=name, caption=about))
    if not found:
        return [Setting(spec.id, caption("No run fits any row yet"), None)]
    found.sort(key=_fullest_first)
    names = [setting.id for setting in found]
    return [
        replace(setting, id=f"{name}-{earlier + 1}") if (earlier := names[:place].count(name)) else setting
        for place, (name, setting) in enumerate(zip(names, found, strict=True))
    ]


def _fullest_first(setting: Setting) -> tuple[int, bool]:
    """Of settings with as many rows, MNIST's."""
    return -len(setting.records), setting.runs is None or setting.runs.frame["config"].iloc[0].data.dataset != "mnist"


def _has_table(spec: TableSpec, place: Setting) -> bool:
    """Whether the setting has a row to show; one that a sweep made for another table is none on its own."""
    asking = [row for row in spec.rows if row.where is not None]
    choices = [choose(place, row) for row in asking]
    found = [choice for choice in choices if choice.configuration is not None]
    own = any(record.sweep in spec.own_sweeps[:1] for record in place.records)
    alone = not own and len(asking) > 1 and sum(choice.planned for choice in choices) == 1
    return any(not (choice.planned and alone) for choice in found)


def _records(spec: TableSpec, sweeps: Mapping[str, Sweep]) -> list[RowRuns]:
    first = spec.own_sweeps
    order = sorted(sweeps, key=lambda name: (first.index(name) if name in first else len(first), name))
    return [record for name in order for record in sweeps[name].rows]


def _belongs(record: RowRuns, part: Results, everywhere: Iterable[str], across: Sequence[str]) -> bool:
    """Whether a record is about this setting: its runs are here; or, before it has any, its setting is this one."""
    if set(record.runs) & set(part.frame["signature"]):
        return True
    if set(record.runs) & set(everywhere) or not len(part.in_folder(record.sweep)):
        return False
    config = part.frame["config"].iloc[0]
    try:
        return all(get_dotted(config, key) == v for key, v in record.setting.items() if key not in across)
    except (GenxaiError, AttributeError):
        return False


def choose(place: Setting, row: RowSpec) -> Choice:
    """The runs for a row: those that a sweep with rows lists for it; where no such sweep has the row, those whose
    options fit, among the runs that no sweep has made for a row of its own (all, of a row for `each` value).
    """
    if place.runs is None or row.where is None:
        return Choice(None, reason="No run of this setting.")
    records = [record for record in place.records if record.row == row.sweep_row and _at(record, row, place.runs)]
    if records:
        return _recorded(records, place.runs)
    return _fitting(place.runs if row.each else place.runs.unnamed, row)


def each_row(place: Setting, row: RowSpec) -> list[RowSpec]:
    """The row itself; or, of a row for `each` value of some options, one per combination that the runs have."""
    if not row.each:
        return [row]
    found = place.runs.configurations() if place.runs else []
    values = {tuple(c[key] for key in row.each) for c in found if c.meets(row.asked)}
    rows = []
    for number, combination in enumerate(sorted(values, key=lambda v: [(str(type(x)), x) for x in v])):
        point = dict(zip(row.each, combination, strict=True))
        words = ", ".join(f"{key.rpartition('.')[2]} = {plain(value)}" for key, value in point.items())
        update = {"id": f"{row.id}-{number + 1}", "label": f"{row.label}, {words}", "at": {**row.at, **point}}
        rows.append(row.model_copy(update={**update, "rule": row.rule and not number}))
    return rows


def _at(record: RowRuns, row: RowSpec, runs: Results) -> bool:
    """Whether a record is of the part of a table's setting that the row is about."""
    listed = runs.signed(record.runs)
    if len(listed):
        return len(listed.where(row.at)) > 0
    return all(key not in record.setting or matches(record.setting[key], value) for key, value in row.at.items())


def _recorded(records: Sequence[RowRuns], runs: Results) -> Choice:
    """The first record that has runs; one that has none yet says why."""
    started = [record for record in records if len(runs.signed(record.runs))]
    if not started:
        return Choice(None, reason=why_not(records[0]), planned=True)
    record, *others = started
    best = runs.signed(record.runs).one_configuration(max(len(record.seeds), len(record.runs)))
    notes = row_notes(record)
    notes += [f"Sweep '{other.sweep}' has other runs of this row." for other in others if other.runs != record.runs]
    return Choice(best, (*notes, *([_unfinished(best)] if best and _unfinished(best) else [])), planned=True)


def _fitting(runs: Results, row: RowSpec) -> Choice:
    """Of the configurations that fit, the ones meeting most of `prefer`; of these a sweep's selected point, else one
    with all its seeds, else any; ties and rivals by mean validation accuracy.
    """
    fitting = [configuration for configuration in runs.configurations() if configuration.meets(row.asked)]
    if not fitting:
        wanted = dict(sorted(row.asked.items(), key=lambda item: item[0] != "model.fusion"))
        return Choice(None, reason=f"No run of this setting has {in_words(wanted)}.")
    wishes = {c.key: sum(c.meets({key: wish}) for key, wish in row.prefer.items()) for c in fitting}
    rivals = [c for c in fitting if wishes[c.key] == max(wishes.values())]
    selected = {c.key: name for name, sweep in runs.sweeps.items() if (c := sweep.chosen(rivals)) and len(c.done)}
    best = max(rivals, key=lambda c: (c.key in selected, _complete(c), _validation(c), c.key))
    notes = [_unmet(best, row), _why(best, rivals, runs.sweeps.get(selected.get(best.key, ""))), _unfinished(best)]
    return Choice(best, tuple(note for note in notes if note))


def _complete(configuration: Configuration) -> int:
    """2 with every seed, 1 with some, 0 with none."""
    done = len(configuration.done)
    return 2 if done >= configuration.asked else min(done, 1)


def _validation(configuration: Configuration) -> float:
    mean = configuration.sample(CHOOSING_METRIC).mean
    return -1.0 if mean is None else mean


def _unmet(best: Configuration, row: RowSpec) -> str:
    missed = {key: wish for key, wish in row.prefer.items() if not best.meets({key: wish})}
    if not missed:
        return ""
    return f"Run with {in_words({key: best[key] for key in missed})}; the row prefers {in_words(missed)}."


def _why(best: Configuration, rivals: Sequence[Configuration], sweep: Sweep | None) -> str:
    """How one of several fitting configurations was chosen."""
    if len(rivals) == 1:
        return ""
    keys = best.differing_keys(rivals)
    point = in_words({key: best[key] for key in keys})
    if sweep is None:
        how = f"the best mean {CHOOSING_METRIC} (complete ones first); no sweep has selected one of them"
    else:
        how = f"selected by sweep '{sweep.name}' on {', '.join(objective.metric for objective in sweep.objectives)}"
        if any(not objective.metric.startswith("val") for objective in sweep.objectives):
            how += ON_TEST_DATA
        if sweep.provisional:
            how += "; provisional, the sweep has not ended"
    return f"One of {len(rivals)} configurations that fit: {point}; {how}."


def _unfinished(best: Configuration) -> str:
    return f"{best.progress()}." if 0 < len(best.done) < best.asked else ""
