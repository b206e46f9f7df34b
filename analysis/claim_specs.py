"""Claims as data: the paper's sentences in analysis/paper/claims.yaml, and when a measured interval meets a condition.

Rows, columns and the rule of a comparison with a printed figure are those of a table's definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from analysis.specs import ColumnSpec, RowSpec, TableSpec, load_tables, paper_file, yaml_mapping
from analysis.verdicts import Estimate, Rule, Verdict, compare_estimate, fixed
from genxai.config import Section
from genxai.configfile import validate
from genxai.errors import UsageError

Readings = str | tuple[str, ...]

#: binary fractions: 92.4 - 88.4 is not above 4
_SLACK = 1e-9


class ClaimVerdict(StrEnum):
    """What the finished runs say about a sentence."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be told"
    MISSING = "not measured"
    UNCHECKABLE = "not checkable"


class Condition(Section):
    """`row`, or its difference to each row of `over`, against a number in each column; see claims.yaml."""

    row: str
    over: tuple[Readings, ...] = ()
    columns: tuple[Readings, ...] = Field(..., min_length=1)
    above: float | None = None
    below: float | None = None
    equals: float | Literal["paper"] | None = None
    margin: float | None = Field(
        None, gt=0.0, description="widest half-width that supports 'equals'; null: the table's"
    )

    @model_validator(mode="after")
    def _one_relation(self) -> Condition:
        if sum(limit is not None for limit in (self.above, self.below, self.equals)) != 1:
            raise ValueError("needs exactly one of above, below and equals")
        if self.equals == "paper" and self.over:
            raise ValueError("equals: paper is about one row; give the difference as a number")
        if self.margin is not None and self.equals is None:
            raise ValueError("margin belongs to equals")
        return self

    def requirement(self, digits: int, figure: float | None) -> str:
        """`> 4`, `= 93.2`."""
        limits = {">": self.above, "<": self.below, "=": figure if self.equals == "paper" else self.equals}
        known = [
            f"{sign} {fixed(float(limit), digits) if limit else '0'}"
            for sign, limit in limits.items()
            if limit is not None
        ]
        return known[0] if known else "= the paper's figure"

    def judge(self, estimate: Estimate, figure: float | None, rule: Rule) -> ClaimVerdict:
        """By the estimate's interval; `figure` is the paper's for this row and column."""
        target = figure if self.equals == "paper" else self.equals
        if target is not None:
            rule = rule if self.margin is None else rule.model_copy(update={"margin": self.margin})
            return _BY_TABLE_VERDICT[compare_estimate(estimate, float(target), rule).verdict]
        if estimate.half is None:
            return ClaimVerdict.OPEN
        # 'below x' is 'above -x' of the negative
        sign, limit = (1.0, self.above) if self.above is not None else (-1.0, -(self.below or 0.0))
        distance = sign * estimate.value - (limit or 0.0)
        if distance - estimate.half > _SLACK:
            return ClaimVerdict.HOLDS
        return ClaimVerdict.FAILS if distance + estimate.half <= _SLACK else ClaimVerdict.OPEN

    def met_by(self, figure: float, rounding: float) -> bool:
        """Whether a printed figure, taken as exact, meets the condition."""
        if self.above is not None:
            return figure > self.above + _SLACK
        if self.below is not None:
            return figure < self.below - _SLACK
        return self.equals == "paper" or abs(figure - float(self.equals or 0.0)) <= rounding + _SLACK


_BY_TABLE_VERDICT = {
    Verdict.CONSISTENT: ClaimVerdict.HOLDS,
    Verdict.DIFFERS: ClaimVerdict.FAILS,
    Verdict.INCONCLUSIVE: ClaimVerdict.OPEN,
}


class ClaimSpec(Section):
    """A sentence, and all that must be so for it to hold; or why run directories cannot tell."""

    id: str
    section: str
    sentence: str
    paper: str | None = Field(None, description="CSV with the paper's figures; null: the table's")
    conditions: tuple[Condition, ...] = ()
    why: str = ""

    @model_validator(mode="after")
    def _conditions_or_why(self) -> ClaimSpec:
        if bool(self.conditions) == bool(self.why):
            raise ValueError(f"claim {self.id!r} needs either conditions or, if it cannot be checked, 'why'")
        return self


class _ClaimsFile(Section):
    table: str
    sweeps: tuple[str, ...] = Field((), description="sweeps whose rows come first; none: the table's")
    rows: tuple[RowSpec, ...] = ()
    columns: tuple[ColumnSpec, ...] = ()
    claims: tuple[ClaimSpec, ...]


@dataclass(frozen=True)
class Claims:
    """All claims, and the table specification that has every row and column they name."""

    table: TableSpec
    claims: tuple[ClaimSpec, ...]


def load_claims(text: str | None = None) -> Claims:
    """The claims of a YAML text (default: the shipped ones); raises UsageError naming what is wrong."""
    where = "claims.yaml"
    book = validate(_ClaimsFile, yaml_mapping(paper_file(where) if text is None else text, where), where)
    base = next((table for table in load_tables() if table.id == book.table), None)
    if base is None:
        raise UsageError(f"{where}: table: there is no table {book.table!r}")
    tree = base.model_dump() | {"id": "claims", "caption": "The paper's claims", "remarks": (), "groups": ()}
    tree |= {"sweeps": book.sweeps or base.own_sweeps, "against": None}
    tree["rows"] = [row.model_dump() for row in (*base.rows, *book.rows)]
    tree["columns"] = [column.model_dump() for column in (*base.columns, *book.columns)]
    table = validate(TableSpec, tree, where)
    known = {"row": {row.id for row in table.rows}, "column": {column.id for column in table.columns}}
    for claim in book.claims:
        for condition in claim.conditions:
            named = [("row", name) for group in (condition.row, *condition.over) for name in readings(group)]
            named += [("column", name) for group in condition.columns for name in readings(group)]
            for kind, name in named:
                if name not in known[kind]:
                    raise UsageError(f"{where}: claim {claim.id!r}: there is no {kind} {name!r}")
    return Claims(table, book.claims)


def readings(group: Readings) -> tuple[str, ...]:
    """One name, or the names between which the paper leaves it open."""
    return (group,) if isinstance(group, str) else group
