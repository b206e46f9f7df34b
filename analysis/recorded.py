"""The compact form of finished runs, as `analysis/record.py` writes it: one folder per sweep, one line per run.

Nothing of a machine is in it: no host, no path; local weights are named by their content. `analysis.restoring` makes
run directories of the lines again, and recorded from there they are the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from genxai.config import Config
from genxai.configfile import shortened, validate
from genxai.errors import GenxaiError
from genxai.files import read_json, read_jsonl
from genxai.runs import Run, canonical_json, content_hash, local_weights, run_signature
from launch.records import Result, check_own, read_own_result

RUNS_FILE = "runs.jsonl"
#: of a line of provenance: what another person can use
USEFUL = (
    *("time", "restart", "resumed_from_step", "git", "packages", "python", "device"),
    *("threads", "processes", "backend"),
)
#: digits kept of the numbers of an evaluation during training; those of the result are kept whole
DIGITS = 6
#: an absolute path, or one in a home, anywhere in a text
_PATH = re.compile(r"(?:^|[\s'\"=(:,])(?:file:/+|~?/)[\w.-]+")


@dataclass(frozen=True)
class RecordedRun:
    """A finished run without its directory."""

    folder: str
    signature: str
    config: Config
    result: Result
    provenance: tuple[dict[str, Any], ...]
    line: Mapping[str, Any]  # all of it, as recorded


# --- reading -------------------------------------------------------------------------------------


def read_recorded(root: Path, problems: list[str]) -> Iterator[RecordedRun]:
    """Every recorded run under RUNS in a stable order; what cannot be read is added to `problems`."""
    for file in sorted(root.glob(f"*/{RUNS_FILE}")):
        yield from read_recorded_sweep(file, problems)


def read_recorded_sweep(file: Path, problems: list[str]) -> Iterator[RecordedRun]:
    """The recorded runs of one sweep; what cannot be read is added to `problems`."""
    try:
        lines = read_jsonl(file)
        if (data := file.read_bytes()) and not data.endswith(b"\n"):
            problems.append(f"{file}: its last line is cut off; record the sweep again")
    except (GenxaiError, OSError, RecursionError) as error:
        problems.append(f"{file}: cannot be read: {' '.join(str(error).split())}")
        return
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        where = f"{file}: line {number}"
        try:
            run = _parsed(file.parent.name, line, where)
        except GenxaiError as error:
            problems.append(" ".join(str(error).split()))
            continue
        if run.signature in seen:
            problems.append(f"{where}: the run {run.signature} stands there twice; record the sweep again")
            continue
        seen.add(run.signature)
        yield run


def _parsed(folder: str, line: Any, where: str) -> RecordedRun:
    try:
        signature, tree, starts = str(line["signature"]), line["config"], line["provenance"]
        if not all(isinstance(record, dict) for name in ("provenance", "metrics") for record in line[name]):
            raise TypeError("provenance and metrics are lists of objects")
        result = Result.model_validate(line["result"])
        check_own(result, signature, where)
        return RecordedRun(folder, signature, validate(Config, tree, where), result, tuple(starts), line)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise GenxaiError(f"{where} is damaged: {shortened(str(error), 200)}; record the sweep again") from None


# --- writing -------------------------------------------------------------------------------------


def recorded_line(run: Run) -> str:
    """A finished run as one line of JSON. Raises GenxaiError if something in it would name a path of this machine."""
    config, starts = run.config(), read_jsonl(run.provenance_file)
    _check_signature(run, config, starts)
    try:
        content = {
            "signature": run.signature,
            "config": without_paths(config.model_dump(mode="json", exclude={"run"}), hashes(config)),
            "result": read_json(run.result_file),
            "metrics": [_shorter(line) for line in read_jsonl(run.metrics_file)],
            "provenance": [_useful(line) for line in starts],
        }
        line = canonical_json(content)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise GenxaiError(f"{run.path}: its files are damaged: {shortened(str(error), 200)}") from None
    refuse_paths(content, str(run.path))
    return line


def _check_signature(run: Run, config: Config, starts: Sequence[Mapping[str, Any]]) -> None:
    """Raise GenxaiError if result or configuration are not those of the run that the folder is named for."""
    read_own_result(run)
    data = next((start.get("data") for start in starts if isinstance(start, Mapping)), None)
    if not isinstance(data, Mapping) or "fingerprint" not in data:
        raise GenxaiError(f"{run.provenance_file} does not say which data the run was made with: it cannot be checked")
    found = run_signature(config, str(data["fingerprint"]))
    if found != run.signature:
        raise GenxaiError(f"{run.config_file} has been changed: it is the configuration of a run {found}")


def hashes(config: Config) -> dict[str, str]:
    """{path: hash of the content} of the weights that lie on this machine."""
    names = (config.model.image.weights, config.model.text.name)
    return {name: content_hash(path) for name in names if (path := local_weights(name)) is not None}


def without_paths(tree: Any, renamed: Mapping[str, str]) -> Any:
    """A copy in which every string that is a key of `renamed` has its value."""
    if isinstance(tree, Mapping):
        return {key: without_paths(value, renamed) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_paths(item, renamed) for item in tree]
    return renamed.get(tree, tree) if isinstance(tree, str) else tree


def without_messages(tree: Any) -> Any:
    """A copy in which what failed is told by its exceptions alone: their messages name files and hosts."""
    if isinstance(tree, Mapping):
        return {key: _of_failed(value) if key == "failed" else without_messages(value) for key, value in tree.items()}
    return [without_messages(item) for item in tree] if isinstance(tree, list | tuple) else tree


def _of_failed(found: Any) -> Any:
    """How many have failed is kept; of a message, the exceptions."""
    if not isinstance(found, str):
        return without_messages(found)
    kinds = dict.fromkeys(re.findall(r"\b[A-Z]\w*(?:Error|Exception|Interrupt)\b", found))
    return ", ".join(kinds) or "failed"


def refuse_paths(tree: Any, where: str, key: str = "") -> None:
    """Raise GenxaiError for a string that is, or holds, a path of some machine."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            refuse_paths(str(name), where, key)
            refuse_paths(value, where, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for item in tree:
            refuse_paths(item, where, key)
    elif isinstance(tree, str) and _PATH.search(tree):
        raise GenxaiError(
            f"{where}: {key} is {tree!r}, a path of a machine: record where that file lies, and it is named by content"
        )


def _useful(start: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: start[name] for name in USEFUL if name in start}
    data = start.get("data")
    return kept | {"data": data["fingerprint"]} if isinstance(data, Mapping) and "fingerprint" in data else kept


def _shorter(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _shorter(item) for name, item in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
