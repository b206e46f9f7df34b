"""What the rows of a table have chosen: a pure function of the finished selection runs, remembered nowhere else.

`selected.yaml` of such a sweep says it to people and tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genxai.errors import GenxaiError
from launch.attempts import Report, Status
from launch.outcomes import Outcome, outcome, without_anchors
from launch.plan import Planner, Trial
from launch.points import Point
from launch.rows import Case, Question, Rows
from launch.sweepfile import Objective, Sweep

if TYPE_CHECKING:
    from launch.survey import Survey

RULE = (
    "each row chooses, at each setting of choosing, the candidate with the largest mean of its metric over the "
    "selection seeds {seeds}, on validation data alone; the first of its candidates wins a tie, failed ones are left "
    "out; what is chosen is frozen and run on the row's own seeds, none of which chose"
)


@dataclass(frozen=True)
class Answer:
    """What is known of a choice: the outcome of each candidate, in the question's order."""

    question: Question
    outcomes: tuple[Outcome, ...]

    @property
    def state(self) -> Literal["open", "complete", "failed"]:
        """Open until all candidates have ended; failed if all of them have failed."""
        if not all(o.ended for o in self.outcomes):
            return "open"
        return "complete" if any(o.state == "complete" for o in self.outcomes) else "failed"

    @functools.cached_property
    def chosen(self) -> int | None:
        """Index of the chosen candidate; None unless the state is complete."""
        if self.state != "complete":
            return None
        scores = [o.means[0] if o.state == "complete" else -math.inf for o in self.outcomes]
        return scores.index(max(scores))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no candidate is left."""
        return tuple(reason for o in self.outcomes for reason in o.reasons)


@dataclass(frozen=True)
class RowTrials:
    """The rows as far as they are known: their trials, and those that will never have one."""

    answers: tuple[Answer, ...]
    known: Mapping[int, Trial]
    failed: Mapping[int, Outcome]
    waiting: tuple[Case, ...]  # for a choice


def selection_outcomes(rows: Rows, trials: Mapping[int, Trial], reports: Mapping[str, Report]) -> dict[int, Outcome]:
    """The outcome of each candidate: the mean of its question's metric over the selection seeds."""
    return {
        candidate.trial: outcome(trials[candidate.trial], reports, (Objective(metric=question.by),))
        for question, candidate in rows.candidates
    }


def row_trials(planner: Planner, rows: Rows, outcomes: Mapping[int, Outcome]) -> RowTrials:
    """The rows that follow from the outcomes of the candidates."""
    answers = tuple(Answer(q, tuple(outcomes[candidate.trial] for candidate in q.candidates)) for q in rows.questions)
    known: list[tuple[Case, Point]] = []
    failed: dict[int, Outcome] = {}
    waiting: list[Case] = []
    for case in rows.cases:
        answer = None if case.question is None else answers[case.question]
        if answer is None:
            known.append((case, case.options[0]))
        elif answer.chosen is not None:
            known.append((case, case.options[answer.chosen]))
        elif answer.state == "failed":
            trial = Trial(case.trial, "row", dict(case.setting), (), case.row)
            failed[case.trial] = Outcome(trial, "failed", reasons=("no candidate is left to choose", *answer.reasons))
        else:
            waiting.append(case)
    return RowTrials(answers, {trial.number: trial for trial in planner.cases(known)}, failed, tuple(waiting))


def check_metrics(answers: Sequence[Answer], reports: Mapping[str, Report]) -> None:
    """Raise GenxaiError if runs of a choice are done and none of them knows its metric: a wrong name."""
    for answer in answers:
        runs = [reports[planned.signature] for o in answer.outcomes for planned in o.trial.runs]
        done = [report for report in runs if report.status is Status.DONE]
        if done and not any(answer.question.by in report.metrics for report in done):
            known = ", ".join(sorted(done[0].metrics)) or "none"
            raise GenxaiError(
                f"rows.{answer.question.row}.choose.by: no finished run has {answer.question.by!r}; metrics of the "
                f"first one: {known}. Change it in the sweep file; finished runs are kept"
            )


# --- selected.yaml -------------------------------------------------------------------------------


def chosen_content(sweep: Sweep, survey: Survey) -> dict[str, Any]:
    """Content of selected.yaml: every choice with its candidates, every row in its settings with its runs."""
    assert sweep.rows is not None and survey.rows is not None
    seeds = ", ".join(map(str, sweep.definition.selection_seeds))
    return {
        "sweep": sweep.name,
        "rule": RULE.format(seeds=seeds or "(none)"),
        "choices": [_choice(answer) for answer in survey.rows.answers],
        "rows": [_row(sweep.rows, case, survey) for case in sweep.rows.cases],
    }


def _choice(answer: Answer) -> dict[str, Any]:
    question = answer.question
    content = {
        "row": question.row,
        "setting": question.setting,
        "by": question.by,
        "split": question.by.partition("/")[0],
        "state": answer.state,
        "candidates": [
            _candidate(candidate.values, told)
            for candidate, told in zip(question.candidates, answer.outcomes, strict=True)
        ],
    }
    return content | ({} if answer.chosen is None else {"chosen": question.candidates[answer.chosen].values})


def _candidate(values: Point, told: Outcome) -> dict[str, Any]:
    complete = told.state == "complete"
    content: dict[str, Any] = {
        "point": values,
        "mean": told.means[0] if complete else None,
        "sd": told.sds[0] if complete and not math.isnan(told.sds[0]) else None,
        "n": told.n,
        "runs": [planned.signature for planned in told.trial.runs],
    }
    return content | ({"failed": "; ".join(told.reasons)} if told.state == "failed" else {})


def _row(rows: Rows, case: Case, survey: Survey) -> dict[str, Any]:
    assert survey.rows is not None
    content: dict[str, Any] = {"row": case.row, "setting": case.setting}
    trial = survey.rows.known.get(case.trial)
    if trial is not None:
        content["point"] = trial.point
    if case.like is not None:
        content["like"] = case.like
    if case.question is not None:
        content["chosen_at"] = rows.questions[case.question].setting
    content["seeds"] = list(case.seeds)
    if trial is not None:
        content["runs"] = [planned.signature for planned in trial.runs]
    elif case.trial in survey.rows.failed:
        content["failed"] = "; ".join(survey.rows.failed[case.trial].reasons)
    return without_anchors(content)
