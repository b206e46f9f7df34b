"""The paper's sentences as conditions on table rows and columns, and the verdict that finished runs give each.

The claims are data (analysis/paper/claims.yaml); rows, columns and settings are those of Table 2's definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from analysis.choices import Choice, Setting, choose, settings
from analysis.claim_specs import Claims, ClaimSpec, ClaimVerdict, Condition, readings
from analysis.conditions import setting_of
from analysis.configuration import Configuration
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.measured import Results
from analysis.remedies import command
from analysis.specs import ColumnSpec, TableSpec, paper_rows, paper_value
from analysis.verdicts import MINUS, SHARED_DATA, Estimate, Rule, fixed, seed_difference


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, what was needed, what was found, and why if nothing was."""

    what: str
    needed: str
    column: ColumnSpec
    verdict: ClaimVerdict
    why: str = ""
    missing: tuple[str, ...] = ()  # by row
    estimate: Estimate | None = None
    paper: float | None = None  # the same quantity from the paper's figures
    supported: bool | None = None  # whether those meet the condition
    signed: bool = False  # a difference, so written with its sign
    notes: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float | None, float | None]:
        if self.estimate is None or self.estimate.half is None:
            return None, None
        return self.estimate.value - self.estimate.half, self.estimate.value + self.estimate.half

    @property
    def found(self) -> str:
        """`+1.2 [+0.4, +2.0]`; empty if nothing was measured."""
        if self.estimate is None:
            return ""
        ends = [self.write(end) for end in self.interval if end is not None]
        return self.write(self.estimate.value) + (f" [{', '.join(ends)}]" if ends else "")

    def write(self, value: float) -> str:
        return fixed(value, self.column.digits, signed=self.signed)

    def in_words(self) -> str:
        tail = f"{self.found}, needed {self.needed}" if self.found else ""
        return f"{self.what}: {'; '.join(part for part in (tail, self.why) if part)}"


class Evidence:
    """The runs of one setting, asked for one comparison at a time."""

    def __init__(self, table: TableSpec, setting: Setting) -> None:
        self.rule = table.verdict
        self.rows = {row.id: row for row in table.rows}
        self.columns = {column.id: column for column in table.columns}
        self.table = table
        self.choices: dict[str, Choice] = {row.id: choose(setting, row) for row in table.rows}
        config = setting.runs.frame["config"].iloc[0] if setting.runs else None
        self.options = setting_of(config, table.split_by, table.across) if config else None

    def groups(self, claim: ClaimSpec) -> Iterator[list[Check]]:
        """Each comparison of a claim, as the list of its readings."""
        for condition in claim.conditions:
            for over, columns in product(condition.over or ("",), condition.columns):
                pairs = product(readings(over), readings(columns))
                yield [self.check(claim, condition, other or None, self.columns[column]) for other, column in pairs]

    def check(self, claim: ClaimSpec, condition: Condition, other: str | None, column: ColumnSpec) -> Check:
        names = (condition.row,) if other is None else (condition.row, other)
        printed = paper_rows(claim.paper or self.table.paper)
        figures = [paper_value(printed, name, column.paper) for name in names]
        known = [figure for figure in figures if figure is not None]
        paper = (known[0] - sum(known[1:])) if len(known) == len(names) else None
        choices = [self.choices[name] for name in names]
        notes = [note for name in names for note in self.rows[name].notes]
        notes += [f"{self.rows[n].label}: {note}" for n, c in zip(names, choices, strict=True) for note in c.notes]
        check = Check(
            what=f"{f' {MINUS} '.join(self.rows[name].label for name in names)}, {column.title}",
            needed=condition.requirement(column.digits, paper),
            column=column,
            verdict=ClaimVerdict.MISSING,
            paper=paper,
            supported=None if paper is None else condition.met_by(paper, self.rule.rounding),
            signed=other is not None,
            notes=(*notes, *column.notes),
            signatures=tuple(one for choice in choices if (c := choice.configuration) for one in c.signatures()),
        )
        if condition.equals == "paper" and paper is None:
            return replace(check, verdict=ClaimVerdict.UNCHECKABLE, why="The paper prints no such figure.")
        impossible = [self.rows[name].absent[column.id] for name in names if column.id in self.rows[name].absent]
        if impossible:
            return replace(check, verdict=ClaimVerdict.UNCHECKABLE, why=impossible[0])
        gaps = [gap for name in names if (gap := self._gap(name, column))]
        if gaps:
            return replace(check, why=" ".join(gaps), missing=tuple(gaps))
        return self._measured(check, condition, [c for choice in choices if (c := choice.configuration)], paper)

    def _gap(self, name: str, column: ColumnSpec) -> str:
        """Why there is no number for a row and column, and what would run it; empty if there is one."""
        row, choice = self.rows[name], self.choices[name]
        configuration = choice.configuration
        if configuration is None:
            remedy = "" if choice.planned else f"; {command(row, self.options, self.table.across)}"
            return f"{row.label}: {choice.reason[:1].lower()}{choice.reason[1:].rstrip('.')}{remedy}."
        if configuration.by_seed(column.metric):
            return ""
        gap = configuration.gaps(column.metric)
        return f"{row.label}, {column.metric}: {gap}" if gap else f"{row.label}: {configuration.progress()}."

    def _measured(
        self, check: Check, condition: Condition, configurations: Sequence[Configuration], paper: float | None
    ) -> Check:
        one, *others = configurations
        metric, scale, confidence = check.column.metric, check.column.scale, self.rule.confidence
        if others and one.key == others[0].key:
            return replace(check, verdict=ClaimVerdict.OPEN, why="the same runs stand for both rows")
        if others:
            same_data = setting_of(one.config, ["data"]) == setting_of(others[0].config, ["data"])
            values = one.by_seed(metric, scale), others[0].by_seed(metric, scale)
            estimate = seed_difference(*values, confidence, same_data=same_data)
        else:
            estimate = one.sample(metric, scale).estimate(confidence)
        if estimate is None:
            return check
        verdict = condition.judge(estimate, paper, self.rule)
        why = estimate.how if estimate.half is not None else f"{estimate.how}: too few seeds for an interval"
        return replace(check, verdict=verdict, estimate=estimate, why=why)


def verdict_of(claim: ClaimSpec, groups: Sequence[Sequence[Check]]) -> ClaimVerdict:
    """All comparisons hold, one does not, or what keeps it from being told."""
    found = {_agreed(check.verdict for check in group) for group in groups} - {ClaimVerdict.UNCHECKABLE}
    order = (ClaimVerdict.FAILS, ClaimVerdict.MISSING, ClaimVerdict.OPEN, ClaimVerdict.HOLDS)
    return next((verdict for verdict in order if verdict in found), ClaimVerdict.UNCHECKABLE)


def _agreed(verdicts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    """The verdict of readings of one thing: theirs if they agree, else open (or missing, if one is)."""
    found = set(verdicts) - {ClaimVerdict.UNCHECKABLE}
    if len(found) > 1:
        return ClaimVerdict.MISSING if ClaimVerdict.MISSING in found else ClaimVerdict.OPEN
    return found.pop() if found else ClaimVerdict.UNCHECKABLE


# --- the document --------------------------------------------------------------------------------

_VERDICTS = (
    Column("claim", "Claim", left=True),
    Column("verdict", "Verdict", left=True),
    Column("sentence", "The paper says", left=True),
    Column("why", "Because", left=True),
    Column("own_figures", "The paper's own figures", left=True),
)
_EVIDENCE = (
    Column("comparison", "Comparison", left=True),
    Column("measured", "Measured [interval]"),
    Column("needed", "Needed"),
    Column("how", "From", left=True),
    Column("paper", "Paper's figures"),
    Column("verdict", "Verdict", left=True),
)


def check_claims(claims: Claims, results: Results) -> Document:
    """A table of verdicts and one of the comparisons behind them, for every setting found among the runs."""
    tables: list[Table] = []
    for setting in settings(claims.table, results):
        evidence = Evidence(claims.table, setting)
        found = [(claim, list(evidence.groups(claim))) for claim in claims.claims]
        remarks = (rule_in_words(claims.table.verdict),)
        verdicts = tuple(_verdict_row(claim, groups) for claim, groups in found)
        tables.append(Table(setting.id, setting.described(claims.table.caption), _VERDICTS, verdicts, remarks))
        comparisons = tuple(row for claim, groups in found for row in _evidence_rows(claim, groups))
        title = f"Comparisons behind the verdicts. {setting.described(claims.table.caption)}"
        tables.append(Table(f"{setting.id}-evidence", title, _EVIDENCE, comparisons))
    return Document(claims.table.id, tuple(tables))


def rule_in_words(rule: Rule) -> str:
    """How verdicts are given, as a remark."""
    level = f"{100 * rule.confidence:g} %"
    return (
        f"Differences between rows are of means over seeds, with their {level} interval. Two rows on the same data "
        "with at least two seeds in common are paired by seed: t-interval of the paired differences (n - 1 degrees of "
        "freedom), seeds that only one row has left out. All others: Welch's interval over all seeds (unequal "
        "variances, Welch-Satterthwaite degrees of freedom). '> x' holds if the whole interval lies above x, does not "
        "hold if none of it does, and cannot be told otherwise or with fewer than two seeds; '< x' likewise. '= x' "
        f"does not hold if x (±{rule.rounding:g}, rounding) lies outside the interval, holds if inside one whose "
        f"half-width is at most {rule.margin:g} (or the claim's own margin), and cannot be told if it is wider. "
        "A claim holds if every comparison holds, and does not if one does not. No correction for their number: each "
        "comparison is one more chance of refuting a claim by accident. The paper's own figures are taken as exact. "
        f"{SHARED_DATA}"
    )


def _verdict_row(claim: ClaimSpec, groups: Sequence[Sequence[Check]]) -> Row:
    cells = (
        Cell((claim.id,)),
        Cell((str(verdict_of(claim, groups)),)),
        Cell((f"'{claim.sentence}' ({claim.section})",)),
        Cell(tuple(_because(claim, groups))),
        _own_figures(groups),
    )
    return Row(claim.id, cells)


def _because(claim: ClaimSpec, groups: Sequence[Sequence[Check]]) -> list[str]:
    """The comparisons that decide the verdict, or what is missing."""
    if claim.why:
        return [claim.why]
    verdict = verdict_of(claim, groups)
    deciding = [group for group in groups if _agreed(check.verdict for check in group) is verdict]
    if verdict is ClaimVerdict.HOLDS:
        skipped = len(groups) - len(deciding)
        every = "the one comparison holds" if len(deciding) == 1 else f"all {len(deciding)} comparisons hold"
        return [every + (f", {skipped} not checkable" if skipped else "")]
    if verdict is ClaimVerdict.MISSING:
        return list(dict.fromkeys(gap for group in deciding for check in group for gap in check.missing))
    lines = []
    for group in deciding:
        split = len({check.verdict for check in group}) > 1
        lines += [f"{check.in_words()}" + (f" ({check.verdict}: a reading)" if split else "") for check in group]
    return lines


def _own_figures(groups: Sequence[Sequence[Check]]) -> Cell:
    """Whether the paper's printed figures meet the conditions; in doubt between readings, for the paper."""
    printed = [[check for check in group if check.supported is not None] for group in groups]
    known = [group for group in printed if group]
    if not known:
        return absent("The paper prints no figures for this.")
    against = [group[0] for group in known if not any(check.supported for check in group)]
    if not against:
        return Cell(("agree",))
    lines = [f"{c.what}: {c.write(c.paper or 0.0)}, needed {c.needed}" for c in against]
    return Cell(("contradict", *lines))


def _evidence_rows(claim: ClaimSpec, groups: Sequence[Sequence[Check]]) -> Iterator[Row]:
    for place, check in enumerate([check for group in groups for check in group]):
        low, high = check.interval
        numbers = Measured(
            metric=check.column.metric,
            unit=check.column.unit,
            mean=check.estimate.value if check.estimate else None,
            sd=check.estimate.sd if check.estimate else None,
            n=check.estimate.n if check.estimate else 0,
            paper=check.paper,
            ci_low=low,
            ci_high=high,
            verdict=str(check.verdict),
        )
        measured = Cell((check.found,), measured=numbers) if check.found else absent(check.why, measured=numbers)
        printed = absent("The paper prints no such figures.") if check.paper is None else None
        cells = (
            Cell((f"{claim.id}: {check.what}",), check.notes),
            measured,
            Cell((check.needed,)),
            Cell((check.why if check.estimate else "",)),
            printed or Cell((check.write(check.paper or 0.0),)),
            Cell((str(check.verdict),)),
        )
        yield Row(f"{claim.id}-{place + 1}", cells, signatures=check.signatures, rule_above=place == 0)
