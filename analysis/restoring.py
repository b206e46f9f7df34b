"""Run directories made of recorded lines, so that they are finished runs again.

A directory appears whole, by one rename: whatever interrupts it, there is either the finished run or none.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.commands import COUNTED
from analysis.recorded import RecordedRun, read_recorded_sweep
from genxai.configfile import dump_config
from genxai.errors import GenxaiError
from genxai.files import append_jsonl, exclusive, make_folder, sync_folder, write_atomic, write_json
from genxai.runs import LARGEST_CONFIG, Run, State, run_signature
from launch.sweepdir import SweepDir

#: where directories are made before they are published; too deep to be taken for runs
_WORKSHOP = ".restoring"


def restorable(file: Path) -> list[RecordedRun]:
    """The runs of a recorded sweep. Raises GenxaiError if one is damaged, or not the run that it says it is."""
    problems: list[str] = []
    runs = list(read_recorded_sweep(file, problems))
    for run in runs:
        data = run.provenance[0].get("data") if run.provenance else None
        found = run_signature(run.config, str(data))
        if data is None:
            problems.append(f"{file}: the run {run.signature} does not say which data it was made with")
        elif found != run.signature:
            problems.append(
                f"{file}: the run {run.signature} has been changed, or recorded by another version of the code: its "
                f"configuration is that of {found}; take the file from version control, or restore with that code"
            )
        elif len(dump_config(run.config).encode()) > LARGEST_CONFIG:
            problems.append(f"{file}: the run {run.signature}: its configuration is larger than {LARGEST_CONFIG} bytes")
    if problems:
        raise GenxaiError("; ".join(problems))
    return runs


def restore_sweep(folder: Path, recorded: Path, runs: Sequence[RecordedRun]) -> Counter[State | None]:
    """Make finished runs in `folder`, and the sweep's own files where it has none; what was there of the runs before.

    None and `pending` were not begun, and are done now; the others are left as they are.
    """
    with _workshop(folder) as workshop:
        counts = Counter(_restore(folder, workshop, run) for run in runs)
        target, source = SweepDir(folder), SweepDir(recorded)
        for file, original in ((target.definition, source.definition), (target.selected, source.selected)):
            if original.exists() and not file.exists():
                write_atomic(file, original.read_bytes())
    return counts


def restore_counted(root: Path, results: Path) -> None:
    """What Table 7 is made of, which no run has; a count that is there already stays."""
    for file in sorted((results / COUNTED).glob("*.json")):
        if not (root / COUNTED / file.name).exists():
            make_folder(root / COUNTED)
            write_atomic(root / COUNTED / file.name, file.read_bytes())


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder beside the runs, for this process alone: no other one restores, and no sweep plans runs here."""
    make_folder(folder)
    workshop = folder / _WORKSHOP
    with exclusive(SweepDir(folder).lock) as acquired:
        if not acquired:
            raise GenxaiError(f"{folder} is in use by a sweep or another restore.py; wait for it to end, or stop it")
        shutil.rmtree(workshop, ignore_errors=True)  # of one that was killed
        make_folder(workshop)
        try:
            yield workshop
            sync_folder(folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def _restore(folder: Path, workshop: Path, recorded: RecordedRun) -> State | None:
    """The state in which the run was found; None if there was no directory."""
    run = Run(folder / recorded.signature)
    if not run.path.exists():
        try:
            os.rename(_made(workshop, recorded).path, run.path)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # planned in the meantime
                raise
    with run.lock() as acquired:
        if not acquired:
            return State.STARTED
        if run.state is State.PENDING:
            # the plan is put out of the way: a rename does not replace a folder with something in it
            made, planned = _made(workshop, recorded), Path(tempfile.mkdtemp(dir=workshop)) / "planned"
            os.rename(run.path, planned)
            os.rename(made.path, run.path)
            return State.PENDING
        return run.state


def _made(workshop: Path, recorded: RecordedRun) -> Run:
    """The finished run directory, in the workshop."""
    run, line = Run(Path(tempfile.mkdtemp(dir=workshop)) / recorded.signature), recorded.line
    make_folder(run.path)
    write_atomic(run.config_file, dump_config(recorded.config))
    append_jsonl(run.provenance_file, *map(_as_started, recorded.provenance))
    append_jsonl(run.metrics_file, *line["metrics"])
    write_json(run.result_file, line["result"])
    return run


def _as_started(start: Mapping[str, Any]) -> dict[str, Any]:
    """A line of provenance as a run has it, of what the record has kept."""
    return {**start, "data": {"fingerprint": start["data"]}} if "data" in start else dict(start)
