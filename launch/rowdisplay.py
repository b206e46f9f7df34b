"""What a person sees of the rows of a table: their plan, how far they are, what they have chosen.

A row in a setting has a name, `full, mnist, rho 0.98`; nobody needs the numbers of its trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from launch.attempts import Status
from launch.choices import Answer, RowTrials, chosen_content
from launch.plan import PlannedRun, Trial
from launch.rows import Rows
from launch.selected import Selected
from launch.survey import Survey
from launch.sweepfile import Sweep
from launch.words import number_words, point_words


def setting_words(setting: Mapping[str, Any]) -> str:
    """mnist, rho 0.98: names by themselves, numbers with the last part of their key."""
    return ", ".join(
        v if isinstance(v, str) else f"{k.rpartition('.')[2]} {number_words(v)}" for k, v in setting.items()
    )


def row_name(row: str, setting: Mapping[str, Any]) -> str:
    """full, mnist, rho 0.98."""
    return f"{row}, {setting_words(setting)}" if setting else row


def trial_name(sweep: Sweep, trial: Trial) -> str:
    """A row in its setting, with the candidate if it is one."""
    row, words = origin_words(sweep, trial.row or "", trial.stage, trial.point)
    return f"{row}, {words}" if words else row


def origin_words(sweep: Sweep, row: str, stage: str, point: Mapping[str, Any]) -> tuple[str, str]:
    """The row, and the setting (and candidate) of one of its trials."""
    setting = {key: point[key] for key in sweep.definition.space if key in point}
    choose = sweep.definition.rows[row].choose if row in sweep.definition.rows else None
    if stage != "selection" or choose is None:
        return row, setting_words(setting)
    values = {key: point[key] for key in choose.space if key in point}
    return row, ", ".join(words for words in (setting_words(setting), f"trying {point_words(values)}") if words)


# --- the plan ------------------------------------------------------------------------------------


def headline(sweep: Sweep, rows: Rows, survey: Survey) -> str:
    """The first line of the plan: how many rows, choices and runs."""
    definition = sweep.definition
    settings = {str(case.setting) for case in rows.cases}
    chosen = len(_selection_runs(survey))
    return (
        f"sweep {sweep.name}: {len(definition.rows)} rows in {len(settings)} settings, {len(rows.questions)} choices: "
        f"{chosen} selection runs + {survey.total - chosen} row runs = {survey.total} runs"
    )


def row_lines(sweep: Sweep, rows: Rows, survey: Survey) -> list[str]:
    """One line per row: its runs, and how its hyper-parameters are chosen."""
    assert survey.rows is not None
    lines = []
    width = max(map(len, sweep.definition.rows))
    for name, row in sweep.definition.rows.items():
        cases = [case for case in rows.cases if case.row == name]
        seeds = row.seeds or sweep.definition.seeds
        trials = [survey.rows.known[case.trial] for case in cases if case.trial in survey.rows.known]
        counted = f"{len(cases)} settings x {len(seeds)} seeds = {len(cases) * len(seeds):3d} runs"
        words = f"{counted}, {_done(survey, trials)} done"
        if row.choose is not None:
            answers = [answer for answer in survey.rows.answers if answer.question.row == name]
            candidates = [told.trial for answer in answers for told in answer.outcomes]
            tried = sum(len(trial.runs) for trial in candidates)
            keys = ", ".join(key.rpartition(".")[2] for key in row.choose.space)
            times = f"{len(answers)} times " if len(answers) > 1 else ""
            words += f"; chooses {keys} {times}by {row.choose.by}: {tried} runs, {_done(survey, candidates)} done"
        lines.append(f"  {name:{width}s}  {words}" + (f"; like {row.like}" if row.like else ""))
    if survey.reused:
        names = ", ".join(sweep.definition.reuse)
        lines.append(f"  {len(survey.reused)} of these runs were finished by {names} and are not run again")
    return lines


def _done(survey: Survey, trials: Iterable[Trial]) -> int:
    runs = [planned for trial in trials for planned in trial.runs]
    return sum(survey.reports[planned.signature].status is Status.DONE for planned in runs)


def _selection_runs(survey: Survey) -> dict[str, PlannedRun]:
    return {p.signature: p for trial in survey.trials.values() if trial.stage == "selection" for p in trial.runs}


# --- how far it is -------------------------------------------------------------------------------


def progress_line(rows: Rows, survey: Survey) -> str:
    """5 of 16 choices made, 12 of 74 rows complete; empty while neither is."""
    found = _tables(survey)
    made = sum(answer.state == "complete" for answer in found.answers)
    done = sum(survey.outcomes[case.trial].state == "complete" for case in rows.cases if case.trial in survey.outcomes)
    if not made and not done:
        return ""
    choices = f"{made} of {len(found.answers)} choices made, " if found.answers else ""
    return f"{choices}{done} of {len(rows.cases)} rows complete (a row counts once per setting)"


def choice_lines(survey: Survey) -> list[str]:
    """What each row has chosen so far, and by what."""
    return [_choice_words(answer) for answer in _tables(survey).answers if answer.state != "open"]


def _choice_words(answer: Answer) -> str:
    question, index = answer.question, answer.chosen
    name = row_name(question.row, question.setting)
    if index is None:
        return f"{name}: nothing could be chosen, all {len(question.candidates)} candidates have failed"
    left_out = sum(told.state == "failed" for told in answer.outcomes)
    return (
        f"{name}: chose {point_words(question.candidates[index].values)}, "
        f"{question.by} {answer.outcomes[index].means[0]:.4f}, of {len(question.candidates)} candidates"
        + (f" ({left_out} failed)" if left_out else "")
    )


def rows_json(sweep: Sweep, rows: Rows, survey: Survey) -> dict[str, Any]:
    """Choices and rows for programs: as in selected.yaml, with what has become of each row."""
    content = chosen_content(sweep, survey)
    selection = _selection_runs(survey)
    finished = sum(survey.reports[name].status is Status.DONE for name in selection)
    done = survey.count(Status.DONE)
    told = [{**row, **_case_json(survey, case.trial)} for row, case in zip(content["rows"], rows.cases, strict=True)]
    return {
        "selection_runs": {"total": len(selection), "done": finished},
        "row_runs": {"total": survey.total - len(selection), "done": done - finished},
        "reused": sorted(survey.reused),
        "choices": content["choices"],
        "rows": told,
    }


def _case_json(survey: Survey, number: int) -> dict[str, Any]:
    told = survey.outcomes.get(number)
    if told is None:
        return {"state": "waiting", "done": 0}
    return {"state": told.state, "done": _done(survey, [told.trial]), "reasons": list(told.reasons)}


def _tables(survey: Survey) -> RowTrials:
    assert survey.rows is not None
    return survey.rows


# --- selected.yaml, read by whoever does not know the sweep file ---------------------------------


@dataclass(frozen=True)
class Told:
    """What selected.yaml says: whose runs are whose, and what waits."""

    labels: dict[str, str]  # signature -> row and setting
    rows: tuple[frozenset[str] | None, ...]  # the runs of each row in a setting; None while it waits for a choice
    waiting: int  # runs of those that wait
    choices: int
    chosen: int

    @property
    def total(self) -> int:
        """Runs wanted."""
        return len(self.labels) + self.waiting

    def progress(self, done: Set[str]) -> dict[str, int]:
        """How many choices are made and rows complete, given the finished runs."""
        complete = sum(runs is not None and bool(runs) and runs <= done for runs in self.rows)
        return {"choices": self.choices, "chosen": self.chosen, "rows": len(self.rows), "complete": complete}


def read_told(selected: Selected) -> Told:
    """The runs that selected.yaml names, in words, and how many more there will be."""
    labels: dict[str, str] = {}
    for choosing in selected.choices:
        name = row_name(choosing.row, choosing.setting)
        for candidate in choosing.candidates:
            labels |= dict.fromkeys(candidate.runs, f"{name}, trying {point_words(candidate.point)}")
    for row in selected.rows:
        labels |= dict.fromkeys(row.runs, row_name(row.row, row.setting))
    waits = [not row.runs and not row.failed for row in selected.rows]
    return Told(
        labels=labels,
        rows=tuple(None if wait else frozenset(row.runs) for wait, row in zip(waits, selected.rows, strict=True)),
        waiting=sum(len(row.seeds) for wait, row in zip(waits, selected.rows, strict=True) if wait),
        choices=len(selected.choices),
        chosen=sum(bool(choosing.chosen) for choosing in selected.choices),
    )
