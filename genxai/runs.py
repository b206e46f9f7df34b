"""The run directory: what the files are called, what state they mean, and which run they belong to.

The only module that knows file names; `genxai.files` knows how they are written.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genxai.config import WITHOUT_EFFECT, Config
from genxai.configfile import dump_config, shortened, validate
from genxai.errors import GenxaiError, RunRemoved
from genxai.files import exclusive, is_locked, make_folder, read_json, read_jsonl, still_held, write_atomic

#: values of model.image.weights and model.text.name that are no file
OUR_WEIGHTS = ("none", "imagenet", "small")
#: bytes; ours have two thousand, and libyaml overruns the stack on ones that are nested endlessly
LARGEST_CONFIG = 16_384
#: safe_load through libyaml where it is installed: a sweep has thousands of configurations to read
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: how long to wait for a lock that a command may be probing, or another one plans with [s]
PATIENCE = 3.0
PLAN_PATIENCE = 1.0
#: what `write_atomic` (by mkstemp) and the writer of progress.json call files of a run they have not published yet
_TEMPORARY = re.compile(r"\.(?:[\w-]+\.(?:yaml|json|png)|LATEST)\.[a-z0-9_]{8}|\.progress\.\d+")


class State(enum.StrEnum):
    """What the files of a run say has happened to it."""

    PENDING = "pending"  # no directory, or only the plan (config.yaml)
    STARTED = "started"  # has been started; running, stopped or killed
    DONE = "done"  # result.json
    FAILED = "failed"  # FAILED.json


def run_signature(config: Config, data_fingerprint: str) -> str:
    """First 12 hex digits of the SHA-256 of everything that can change the result.

    That is the resolved configuration without `WITHOUT_EFFECT`, the content of the data, and of local weights instead
    of where they lie.
    """
    text = canonical_json({"config": effective_options(config), "data": data_fingerprint})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def effective_options(config: Config, sections: set[str] | None = None) -> dict[str, Any]:
    """The options (of these sections only) that can change the result, local weights named by their content."""
    options = config.model_dump(mode="json", include=sections, exclude=WITHOUT_EFFECT)
    for section, key in (("image", "weights"), ("text", "name")) if "model" in options else ():
        path = local_weights(options["model"][section][key])
        if path is not None:
            options["model"][section][key] = content_hash(path)
    return options


def local_weights(name: str) -> Path | None:
    """The file or folder that model.image.weights or model.text.name means; None for a name that means neither.

    A folder that happens to be called as one of ours is never taken for it.
    """
    path = Path(name).expanduser()
    return path if name not in OUR_WEIGHTS and path.exists() else None


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder with their names; read again only when it has changed."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{'' if file == path else file.relative_to(path)}\0".encode())
        digest.update(_file_hash(file, status.st_size, status.st_mtime_ns).encode())
    return f"sha256:{digest.hexdigest()}"


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; the same for equal values. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Run:
    """One run directory, RUNS/<sweep>/<signature>; reads and writes its files by name."""

    path: Path

    @property
    def signature(self) -> str:
        return self.path.name

    @property
    def sweep(self) -> str:
        return self.path.parent.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def failed_file(self) -> Path:
        return self.path / "FAILED.json"

    @property
    def failures_file(self) -> Path:
        """Earlier FAILED.json contents, one per line: what a retry moved out of the way."""
        return self.path / "failures.jsonl"

    @property
    def progress_file(self) -> Path:
        """Step and speed of a running run, for eyes only; may be missing or old."""
        return self.path / "progress.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def state(self) -> State:
        if self.result_file.exists():
            return State.DONE
        if self.failed_file.exists():
            return State.FAILED
        return State.STARTED if self.provenance_file.exists() else State.PENDING

    def config(self) -> Config:
        """The resolved configuration of the run."""
        try:
            if self.config_file.stat().st_size > LARGEST_CONFIG:
                raise ValueError(f"larger than {LARGEST_CONFIG} bytes")
            tree = yaml.load(self.config_file.read_text(), Loader=SAFE_LOADER)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise GenxaiError(f"{self.config_file}: cannot be read: {shortened(str(error))}") from None
        return validate(Config, tree, str(self.config_file))

    def plan(self, config: Config) -> None:
        """Make the directory and freeze the configuration; planning again only renews how it is executed.

        While another process holds the run's lock, the configuration it trains with is left as it is.
        Raises GenxaiError when what is frozen there would give another result than `config`.
        """
        make_folder(self.path)
        if self.config_file.exists():
            frozen = self.config()
            if effective_options(frozen) != effective_options(config):
                raise GenxaiError(f"{self.config_file} has been changed by hand; restore it or remove {self.path}")
            config = config.model_copy(update={"name": frozen.name, "origin": frozen.origin})
            if config == frozen:
                return
        with self.lock(PLAN_PATIENCE) as acquired:
            if acquired:
                write_atomic(self.config_file, dump_config(config))

    def progress(self) -> dict[str, float]:
        """The numbers >= 0 in progress.json; whatever is missing or damaged is left out, since it is for eyes only."""
        try:
            value = json.loads(self.progress_file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        items = value.items() if isinstance(value, dict) else ()
        return {name: number for name, number in items if type(number) in (int, float) and 0 <= number < 1e18}

    def remove_leftovers(self) -> None:
        """Remove the temporary files of writers that were killed; only for whoever holds the run's lock."""
        for folder in (self.path, self.checkpoints, self.pictures):
            for name in os.listdir(folder) if folder.is_dir() else ():
                if _TEMPORARY.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(folder / name)

    def result(self) -> dict[str, Any]:
        """Content of result.json; empty if the run is not done."""
        return read_json(self.result_file)

    def failures(self) -> list[dict[str, Any]]:
        """Every recorded failure of the run, oldest first."""
        current = read_json(self.failed_file)
        return read_jsonl(self.failures_file) + ([current] if current else [])

    def newest_pictures(self) -> list[Path]:
        """The latest picture of each kind (samples, attribution), whose names end in the step."""
        latest = {path.stem.rpartition("-")[0]: path for path in sorted(self.pictures.glob("*.png"))}
        return sorted(latest.values())

    @contextlib.contextmanager
    def lock(self, patience: float = 0.0) -> Iterator[bool]:
        """Held by the one process that trains the run; yields False if another holds it for `patience` seconds.

        The lock says who may write, never what has been done; it vanishes with its process.
        """
        deadline = time.monotonic() + patience
        with contextlib.ExitStack() as stack:
            while not (acquired := stack.enter_context(exclusive(self.path / ".lock"))):
                if time.monotonic() >= deadline:
                    break
                time.sleep(min(0.2, patience))
            yield acquired

    def require(self) -> None:
        """Raise RunRemoved if the lock that this process holds is no longer the run's: the directory was removed.

        To be asked before anything is written: another process may have begun the run anew at the same place. Nothing
        is required of a process that holds no lock.
        """
        if still_held(self.path / ".lock") is False:
            raise RunRemoved(
                f"{self.path} was removed while it was being trained; start it again to have it computed anew"
            )

    def is_running(self) -> bool:
        """Whether a process that shares this file system's locks is training the run now."""
        return is_locked(self.path / ".lock")


def find_runs(root: Path, sweep: str | None = None) -> list[Run]:
    """All runs under RUNS (of one sweep), in a stable order."""
    found = root.glob("*/*/config.yaml") if sweep is None else (root / sweep).glob("*/config.yaml")
    return [Run(file.parent) for file in sorted(found)]
