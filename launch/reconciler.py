"""The loop of a sweep: look at the run directories, propose, submit what is missing, wait, again.

Killing it at any instant loses nothing: each pass starts from the files, and what is submitted is written down first.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genxai.errors import GenxaiError
from genxai.files import exclusive, make_folder, read_json, read_jsonl, write_atomic, write_json
from launch.attempts import IN_FLIGHT, Live, disk_problem, tried
from launch.choices import check_metrics, chosen_content
from launch.executors import Executor
from launch.journal import journal_digest, read_digest, write_journal
from launch.outcomes import check_objectives, selection, write_selection
from launch.plan import PlannedRun, Planner, Trial
from launch.sbatch import SubmitLimit
from launch.search import may_propose, propose
from launch.submissions import History, Submission, histories, read_submissions
from launch.survey import Survey, Surveyor, affordable
from launch.sweepdir import SweepDir
from launch.sweepfile import dump_sweep


@dataclass
class Reconciler:
    """One sweep being brought about. `note` gets lines for the person."""

    planner: Planner
    executor: Executor
    note: Callable[[str], None] = print
    surveyor: Surveyor = field(init=False)
    trials: dict[int, Trial] = field(init=False)
    submissions: list[Submission] = field(init=False)
    _live: Mapping[str, Live] = field(init=False, default_factory=dict)  # as of the latest look
    _submitted: set[str] = field(init=False, default_factory=set)  # by this process
    _limit: str = ""  # the submit limit the person has been told of
    _journal_of: str = field(init=False)
    _journal_next: float = 0.0

    def __post_init__(self) -> None:
        self.surveyor = Surveyor(self.planner)
        self.read()

    def read(self) -> None:
        """Take up what the files say now. Once the sweep is held: another reconciler may have ended since."""
        self.submissions = read_submissions(self.planner.folder)
        self.trials = all_trials(self.planner)
        self._journal_of = read_digest(self.planner.folder)

    def retry_failed(self) -> None:
        """Forget the failures so far: failed runs get as many new attempts as the sweep's `retries` allow."""
        past = histories(self.planner.folder, self.submissions)
        self.surveyor.forgiven = {}  # or rows whose choice was forgiven before would not be known
        runs = self.surveyor.look(self.trials, {}, self.submissions).runs
        self.surveyor.forgiven = {name: tried(p.run, past.get(name, History())) for name, p in runs.items()}

    def look(self) -> Survey:
        """The survey now. Who is alive is asked first: a run that ends meanwhile is then seen as ended."""
        self._live = self.executor.live(self.submissions)
        if self.planner.sweep.definition.reuse:
            self.trials = all_trials(self.planner)  # another sweep may have finished, or lost, a run since
        return self.surveyor.look(self.trials, self._live, self.submissions)

    def run_pass(self) -> tuple[Survey, int]:
        """Look, propose, publish, submit; the survey and how many runs were submitted.

        The cluster is asked once for who is alive. Raises SlurmSilent if it does not answer: try again later.
        """
        self.submissions = self.executor.settle(self.submissions)
        survey = self.propose_all(self.look())
        if survey.rows is None:
            check_objectives(survey.reports, self.planner.sweep.definition.objectives)
        else:
            check_metrics(survey.rows.answers, survey.reports)
        self.publish(survey)
        return survey, self.submit(survey)

    def propose_all(self, survey: Survey) -> Survey:
        """Propose every Bayesian trial that may be proposed, its run directories planned before anything else."""
        sweep = self.planner.sweep
        added = False
        missing = [number for number in range(len(sweep.grid), sweep.trial_count) if number not in self.trials]
        for number in missing:
            known = [survey.outcomes[n] for n in range(number) if n in survey.outcomes]
            # a trial proposed in this very pass is open; the window decides whether the next may follow
            if not may_propose(number, known, sweep.definition.bayes.window):
                break
            trial = self.planner.trial(number, "bayes", propose(sweep, known, number))
            for planned in trial.runs:
                planned.run.plan(planned.config)
            self.trials[number] = trial
            added = True
            survey = self.surveyor.look(self.trials, self._live, self.submissions, before=survey)
        if added:
            self.note(f"trial {max(self.trials)} proposed by the Bayesian search")
        return survey

    def publish(self, survey: Survey) -> None:
        """Rewrite selected.yaml and the Optuna journal if trials have changed; rows have no journal."""
        folder, sweep = self.planner.folder, self.planner.sweep
        make_folder(folder.path)
        if survey.rows is not None:
            write_selection(folder, chosen_content(sweep, survey))
            return
        write_selection(folder, selection(sweep, [survey.outcomes[n] for n in sorted(survey.outcomes)]))
        outcomes = survey.in_order()
        digest = journal_digest(outcomes)
        if digest == self._journal_of or (time.monotonic() < self._journal_next and not survey.complete):
            return
        began = time.monotonic()
        write_journal(folder, sweep, outcomes, digest)
        # a journal of thousands of trials takes seconds: spend at most a twentieth of the time on it
        self._journal_next = time.monotonic() + 20 * (time.monotonic() - began)
        self._journal_of = digest

    def submit(self, survey: Survey) -> int:
        """Submit what is missing, as far as slots and budget allow."""
        waiting = survey.to_submit()
        slots = self.executor.slots(self.submissions, self._live)
        room = len(waiting) if slots is None else min(slots, len(waiting))
        room = affordable(survey, self.planner.sweep.definition.budget.device_hours, room)
        chosen = waiting[:room]
        if not chosen:
            return 0
        self._check_disk(chosen)
        for planned in chosen:
            planned.run.plan(planned.config)
        with_starts = [(planned, len(read_jsonl(planned.run.provenance_file))) for planned in chosen]
        try:
            self.submissions += self.executor.submit(with_starts)
        except GenxaiError as error:
            before = {submission.nonce for submission in self.submissions}
            self.submissions = read_submissions(self.planner.folder)  # what was submitted before the error, or may be
            if not isinstance(error, SubmitLimit):
                raise
            if str(error) != self._limit:
                self._limit = str(error)
                self.note(f"{error}; the other runs wait until jobs have ended")
            return sum(len(s.signatures) for s in self.submissions if s.nonce not in before)
        return len(chosen)

    def _check_disk(self, chosen: Sequence[PlannedRun]) -> None:
        """Raise GenxaiError if a job of ours met a full disk: another one would as well, until a person makes room."""
        for planned in chosen:
            if planned.signature in self._submitted and (problem := disk_problem(planned.run)):
                raise GenxaiError(f"{planned.run.path}: {problem}; make room, then start the same command again")
        self._submitted.update(planned.signature for planned in chosen)

    def over_budget(self, survey: Survey) -> bool:
        """Whether runs are missing, none is in flight, and the budget allows no further one."""
        waiting = survey.to_submit()
        budget = self.planner.sweep.definition.budget.device_hours
        if budget is None or survey.complete or affordable(survey, budget, max(1, len(waiting))):
            return False
        return survey.count(*IN_FLIGHT) == 0


def all_trials(planner: Planner) -> dict[int, Trial]:
    """The grid, and the Bayesian trials that run directories remember; of rows the candidates they choose from."""
    if planner.sweep.rows is not None:
        return {trial.number: trial for trial in planner.selection()}
    grid = planner.grid()
    in_grid = {planned.signature for trial in grid for planned in trial.runs}
    return {trial.number: trial for trial in grid} | planner.recover(skip=in_grid)


def budget_message(survey: Survey, budget_hours: float) -> str:
    """Why a sweep pauses at its budget, and what to do."""
    to_come = survey.hours_to_come
    need = "unknown" if to_come is None else f"about {to_come:.3g}"
    return (
        f"paused at the budget of {budget_hours:g} device-hours: {survey.hours_used:.3g} used, {need} more needed "
        f"for the runs that are missing; raise budget.device_hours=... and start again"
    )


@contextlib.contextmanager
def only_reconciler(planner: Planner) -> Iterator[None]:
    """Held by the one reconciler of a sweep. Raises GenxaiError that says who holds it."""
    folder = planner.folder
    make_folder(folder.path)
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(exclusive(folder.lock))
        except OSError as error:
            error.filename = error.filename or str(folder.lock)  # flock does not say on which file it failed
            raise
        if not free:
            raise GenxaiError(f"this sweep is already being run by {_holder(read_json(folder.holder))}: {folder.path}")
        remove_leftovers(folder)
        write_json(folder.holder, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
        write_atomic(folder.definition, dump_sweep(planner.sweep.definition))
        yield


def remove_leftovers(folder: SweepDir) -> None:
    """Remove what killed reconcilers had not published yet; only for whoever holds the sweep's lock."""
    own = (folder.definition, folder.selected, folder.journal, folder.journal_digest, folder.holder)
    names = "|".join(re.escape(file.name) for file in own)
    temporary = re.compile(rf"\.(?:{names})\.[a-z0-9_]{{8}}")  # as genxai.files.write_atomic calls them
    for name in os.listdir(folder.path):
        if temporary.fullmatch(name):
            (folder.path / name).unlink(missing_ok=True)


def _holder(who: dict[str, Any]) -> str:
    if not who:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who.get("since", 0)))
    return f"process {who.get('pid')} on {who.get('host')} since {since}"
