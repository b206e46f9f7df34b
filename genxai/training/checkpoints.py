"""Published checkpoints: a folder that appears whole, then a one-line pointer; the previous one is kept.

Tensors are safetensors and the rest is JSON, so that loading a checkpoint can never run foreign code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from genxai.errors import CheckpointError, GenxaiError
from genxai.runs import canonical_json, make_folder, read_json, sync_folder, write_atomic

State = dict[str, Any]
log = logging.getLogger(__name__)

TENSORS, VALUES, MANIFEST, POINTER = "tensors.safetensors", "values.json", "manifest.json", "LATEST"
#: a checkpoint and the one before it, in case the newest is damaged
KEEP = 2


def publish(folder: Path, step: int, state: State) -> Path:
    """Write the state as `folder/step-<step>` and point LATEST at it; drop all but the newest two.

    state: nested dictionaries and lists of tensors and JSON values. Raises OSError (disk full, ...) with everything
    published before left as it was.
    """
    make_folder(folder)
    target = folder / f"step-{step:09d}"
    if _published(folder)[:1] != [target] or not _is_intact(target):
        _discard(target)  # renamed but never pointed at: its file lengths belong to an earlier start
        _write(folder / f".{target.name}.{os.getpid()}", target, state)
    write_atomic(folder / POINTER, target.name + "\n")
    kept = sorted((path for path in _published(folder) if path.name <= target.name), reverse=True)[:KEEP]
    for path in _published(folder):
        if path not in kept:  # older, or ahead of us: damaged, since we went on from before it
            _discard(path)
    for leftover in folder.glob(".step-*"):
        _discard(leftover)
    return target


def _write(temporary: Path, target: Path, state: State) -> None:
    tensors: dict[str, Tensor] = {}
    values = _split(state, "", tensors)
    files = {TENSORS: serialise_tensors(tensors), VALUES: json.dumps(values, allow_nan=False).encode()}
    _discard(temporary)
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_atomic(temporary / name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_atomic(temporary / MANIFEST, canonical_json(digests))
        temporary.rename(target)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(target.parent)


def latest(folder: Path) -> tuple[State, Path] | None:
    """The newest intact checkpoint and where it lies; damaged ones are named in the log and passed over.

    None when nothing has been published. Raises CheckpointError when checkpoints exist and none is intact, and OSError
    when they cannot be read: a disk that does not answer is no reason to start over.
    """
    candidates = _published(folder)
    for candidate in candidates:
        try:
            return _read(candidate), candidate
        except (GenxaiError, ValueError, FileNotFoundError, NotADirectoryError) as problem:
            log.warning("checkpoint skipped: %s", problem)
    if candidates:
        raise CheckpointError(f"{folder}: none of the {len(candidates)} checkpoints is intact")
    return None


def _published(folder: Path) -> list[Path]:
    """Published checkpoints, the one LATEST names first, then newest first."""
    found = sorted((folder / name for name in _names(folder) if name.startswith("step-")), reverse=True)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = folder / (folder / POINTER).read_text().strip()
        if named in found:
            found.remove(named)
            found.insert(0, named)
    return found


def _names(folder: Path) -> list[str]:
    # not glob, which hides that a folder may not be read
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _read(path: Path) -> State:
    contents = _verified(path)
    return _join(json.loads(contents[VALUES]), load_tensors(contents[TENSORS]))


def _verified(path: Path) -> dict[str, bytes]:
    manifest = read_json(path / MANIFEST)
    if set(manifest) != {TENSORS, VALUES}:
        raise CheckpointError(f"{path}: incomplete (no valid {MANIFEST})")
    contents = {}
    for name, digest in manifest.items():
        contents[name] = (path / name).read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise CheckpointError(f"{path / name}: truncated or altered (its checksum differs)")
    return contents


def _is_intact(path: Path) -> bool:
    try:
        _verified(path)
    except (GenxaiError, OSError):
        return False
    return True


def _discard(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


# --- nested state <-> flat tensors + JSON ---------------------------------------------------------

_TENSOR = "__tensor__"


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        # JSON has only text keys; optimiser state is keyed by integers
        return {"__items__": [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value["__items__"]}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value


def digest(states: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over named parameters and buffers, to compare two runs bit for bit."""
    sha = hashlib.sha256()
    for name, tensor in _tensors_in(states):
        value = tensor.detach().cpu().contiguous()
        sha.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return sha.hexdigest()


def _tensors_in(states: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for owner in sorted(states):
        for name, value in sorted(states[owner].items()):
            if isinstance(value, Tensor):
                yield f"{owner}.{name}", value
