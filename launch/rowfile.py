"""The rows of a table in a sweep file: named configurations, and how their hyper-parameters are chosen.

The schema alone; what the rows come to is in `launch.rows`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from genxai.config import Section
from genxai.configfile import Tree, validate

SeedList = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]

#: validation splits that a method of this name learns from, as its `Method.trained_on` says (a test compares them):
#: asking the class would load torch
LEARNT_FROM = {"dfr": ("val_balanced",)}

#: metrics of validation splits that are better when smaller (a test compares them with the registry)
LOWER_IS_BETTER = frozenset(
    {
        *("delta_fair_accuracy", "delta_fair_selection", "ece", "flip_rate"),
        *("false_negative_difference", "false_negative_gap", "false_positive_difference", "false_positive_gap"),
        *("identity_share", "ig_completeness_gap", "ig_identity_share"),
    }
)


class Choose(Section):
    """How a row comes by its hyper-parameters: candidates are trained on the selection seeds, the best one is kept."""

    space: Annotated[dict[str, Values], Field(min_length=1)] = Field(
        ..., description="dotted key: values; the candidates are all combinations, and the first one wins a tie"
    )
    by: str = Field(..., description="<validation split>/<metric> of result.json; the largest mean is chosen")
    at: dict[str, Any] = Field(
        default_factory=dict, description="the part of the setting that is fixed for choosing; empty: each its own"
    )


class Row(Section):
    """One row: what it sets on top of base, overrides and setting, where it is run, and what it chooses."""

    set: dict[str, Any] = Field(default_factory=dict, description="dotted key: value")
    only: dict[str, Values] = Field(
        default_factory=dict, description="dotted key: the values of the settings it is run in; empty: all settings"
    )
    seeds: SeedList | None = Field(None, description="seeds of its runs; null: the sweep's")
    choose: Choose | None = Field(None, description="its hyper-parameters are chosen; null: it has none")
    like: str | None = Field(None, description="the row whose chosen values it takes, but for those it sets itself")

    @model_validator(mode="after")
    def _distinct(self) -> Row:
        if self.seeds is not None and len({*self.seeds}) != len(self.seeds):
            raise ValueError("a seed is listed twice")
        if self.choose is not None and self.like is not None:
            raise ValueError("a row either chooses or is like another one, not both")
        return self


def check_row_trees(tree: Tree, where: str) -> None:
    """Validate what stands under `rows`, so that a problem is named with its row. Raises UsageError."""
    rows = tree.get("rows")
    for name, row in rows.items() if isinstance(rows, dict) else ():
        place = f"{where}: rows.{name}"
        if isinstance(row, dict) and isinstance(row.get("choose"), dict):
            validate(Choose, row["choose"], f"{place}.choose")
        if isinstance(row, dict):
            validate(Row, row, place)
