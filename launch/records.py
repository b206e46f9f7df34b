"""What a run's JSON files say, checked: a damaged file is an error that names it and says what to do about it.

Fields that nobody reads are not looked at, so that files of older and newer versions can be read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from genxai.configfile import shortened
from genxai.errors import GenxaiError
from genxai.runs import Run

#: beyond it a number is damage, and sums of squares overflow
_LARGEST = 1e100
#: a number, null, or the reason of a null under <metric>_reason; a boolean is none of them
_Metric = Annotated[float, Field(strict=True, ge=-_LARGEST, le=_LARGEST)] | str | None


class Result(BaseModel):
    """result.json."""

    metrics: dict[str, _Metric]
    signature: str | None = None
    seconds: Annotated[float, Field(ge=0, le=_LARGEST)] | None = None
    steps: int | None = None
    restarts: int | None = None
    steps_redone: int | None = None
    processes: int | None = None
    #: 95 % over test samples, by bootstrap
    intervals: dict[str, tuple[float | None, float | None]] = {}
    #: samples per class, by split
    class_counts: dict[str, list[Annotated[int, Field(ge=0)]]] = {}


class Failure(BaseModel):
    """FAILED.json, and a line of failures.jsonl."""

    exception: str | None = None
    message: str | None = None
    step: int | None = None
    device: str | None = None


class Start(BaseModel):
    """A line of provenance.jsonl."""

    slurm_job: Any = None
    resumed_from_step: int | None = None
    processes: int | None = None


class Evaluation(BaseModel):
    """A line of metrics.jsonl."""

    step: int | None = None
    seconds: FiniteFloat | None = None


class Excuse(BaseModel):
    """A line of the sweep's excuses."""

    outcome: str
    starts: int
    message: str = ""


RecordT = TypeVar("RecordT", bound=BaseModel)


def read_result(run: Run) -> Result:
    """The result of a run that is done. Raises GenxaiError if it is damaged."""
    return _parse(Result, _bytes(run.result_file), str(run.result_file), "remove it to have the evaluation repeated")


def read_own_result(run: Run) -> Result:
    """As `read_result`, for numbers that are published: also refuses what cannot be a result of this run."""
    result = read_result(run)
    check_own(result, run.signature, f"{run.result_file} is damaged", "; remove it to have it computed again")
    return result


def check_own(result: Result, signature: str, where: str, remedy: str = "") -> None:
    """Raise GenxaiError, with `where` and `remedy`, for what cannot be a result of the run of that signature."""
    if result.signature not in (None, signature):
        raise GenxaiError(f"{where}: it is that of the run {result.signature}{remedy}")
    for name, value in result.metrics.items():
        if name.endswith("/accuracy") and isinstance(value, float) and not 0 <= value <= 1:
            raise GenxaiError(f"{where}: {name} is {value:g}, no share between 0 and 1{remedy}")


def read_failures(run: Run) -> list[Failure]:
    """Every recorded failure of the run, oldest first. Raises GenxaiError if one is damaged."""
    earlier, current = read_lines(run.failures_file, Failure), run.failed_file
    if not current.exists():
        return earlier
    return [*earlier, _parse(Failure, _bytes(current), str(current), "remove it to have the run tried again")]


def read_starts(run: Run) -> list[Start]:
    """One per (re)start of the run. Raises GenxaiError if one is damaged."""
    return read_lines(run.provenance_file, Start)


def read_lines(file: Path, kind: type[RecordT]) -> list[RecordT]:
    """The whole lines of a JSONL file; [] if there is none. Raises GenxaiError if one is damaged."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise GenxaiError(f"{file}: cannot be read: {error.strerror}") from None
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [_parse(kind, line, f"{file}: line {number}", "remove it") for number, line in enumerate(lines, 1)]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise GenxaiError(f"{file}: cannot be read: {error.strerror}") from None


def _parse(kind: type[RecordT], data: bytes, where: str, remedy: str) -> RecordT:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"][:2])  # further parts are pydantic's own
        said = f"{key}: {problem['msg']}" if key else problem["msg"]
        raise GenxaiError(f"{where} is damaged: {shortened(said, 200)}; {remedy}") from None


def closed_folders(root: Path) -> list[str]:
    """The folders under RUNS, two levels deep, that this person may not read.

    Raises GenxaiError if RUNS itself cannot be read; nothing is closed in a folder that does not exist.
    """
    try:
        sweeps = [entry.path for entry in os.scandir(root) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise GenxaiError(
            f"cannot read the runs in {root}: {error.strerror}; choose another folder with --runs"
        ) from None
    closed = [path for path in sweeps if not _is_open(path)]
    runs = (entry for path in sweeps if path not in closed for entry in os.scandir(path) if entry.is_dir())
    return sorted(closed + [entry.path for entry in runs if not _is_open(entry.path)])


def _is_open(folder: str) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)
