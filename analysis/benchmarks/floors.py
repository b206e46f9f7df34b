"""Targets and floors of the figures, from analysis/benchmarks/floors.yaml, and what has fallen."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Literal

import yaml
from pydantic import Field

from analysis.benchmarks.figures import Figure
from genxai.config import Section
from genxai.configfile import validate

FILE = "benchmarks/floors.yaml"


class Mark(Section):
    """What a figure's median is held to."""

    better: Literal["higher", "lower"]
    target: float | None = Field(None, gt=0, description="what is aimed at; null: nothing is")
    cuda_target: float | None = Field(None, gt=0, description="the same on a GPU; null: as on a CPU")
    floor: float | None = Field(None, gt=0, description="on the wrong side of this --check fails; null: never")

    def aim(self, device: str) -> float | None:
        """The target on "cpu" or "cuda"."""
        return self.cuda_target if device == "cuda" and self.cuda_target is not None else self.target

    def reaches(self, value: float, limit: float) -> bool:
        return value >= limit if self.better == "higher" else value <= limit


class Marks(Section):
    """The file: one mark per figure's key."""

    figures: dict[str, Mark]


def has_fallen(figure: Figure, mark: Mark) -> bool:
    """Whether both the median and the ratio of the best times miss the floor."""
    if mark.floor is None or mark.reaches(figure.median, mark.floor):
        return False
    return figure.of_best is None or not mark.reaches(figure.of_best, mark.floor)


def load_marks() -> dict[str, Mark]:
    """The marks by figure key. Raises UsageError naming the file and the key that is wrong."""
    text = resources.files("analysis").joinpath(FILE).read_text()
    return validate(Marks, {"figures": yaml.safe_load(text)}, f"analysis/{FILE}").figures


def fallen(figures: Iterable[Figure], marks: dict[str, Mark]) -> list[str]:
    """A sentence for each figure that is on the wrong side of its floor.

    The median is; so is the ratio of the best times, where there is one: other load on the machine can spoil the one,
    a slower program spoils both.
    """
    sentences = []
    for figure in figures:
        mark = marks.get(figure.key)
        if mark is None or not has_fallen(figure, mark):
            continue
        side = "below its floor" if mark.better == "higher" else "above its limit"
        sentences.append(f"{figure.key}: {figure.name}: {figure.median:.3g} is {side} of {mark.floor:g}")
    return sentences
