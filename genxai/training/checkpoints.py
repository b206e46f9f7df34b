"""Published checkpoints: a folder that appears whole, then a one-line pointer; the previous one is kept.

Tensors are safetensors and the rest is JSON, so that loading a checkpoint can never run foreign code. Bytes are hashed
on their way to and from the disk: no second copy of a state is built in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from genxai.errors import CheckpointError, GenxaiError
from genxai.files import read_json, sync_folder, write_atomic
from genxai.runs import canonical_json

State = dict[str, Any]
log = logging.getLogger(__name__)

TENSORS, VALUES, MANIFEST, POINTER = "tensors.safetensors", "values.json", "manifest.json", "LATEST"
#: a checkpoint and the one before it, in case the newest is damaged
KEEP = 2
#: bytes written and hashed at a time: small enough that they are still in the processor's cache when they are hashed
CHUNK = 1 << 20
#: safetensors' names, in the order in which its own writer lays tensors out; wide types first keeps all of them aligned
DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Flat:
    """A state taken apart into what the two files of its checkpoint hold."""

    tensors: dict[str, Tensor]  # by path, in the order of the file: widest type first, then by path
    values: bytes  # everything else, as JSON


def publish(folder: Path, step: int, state: State) -> Path:
    """Write the state as `folder/step-<step>` and point LATEST at it; drop all but the newest two.

    state: nested dictionaries and lists of tensors and JSON values. Raises OSError (disk full, ...) with everything
    published before left as it was. `genxai.training.publisher.Publisher` does the same in the background.
    """
    return publish_flat(folder, step, flatten(state))


def publish_flat(folder: Path, step: int, flat: Flat) -> Path:
    """`publish` for a state that has been taken apart."""
    folder.mkdir(exist_ok=True)  # not its parents: a run that was removed shall not come back as a part of itself
    _sweep(folder)  # first: what a killed writer left behind may be what fills the disk
    target = folder / f"step-{step:09d}"
    before = _published(folder)
    if before[:1] != [target] or not _is_intact(target):
        _discard(target)  # renamed but never pointed at: its file lengths belong to an earlier start
        _write(folder / f".{target.name}.{os.getpid()}", target, flat)
    write_atomic(folder / POINTER, target.name + "\n")
    # not those newer than the pointer was, which a killed start renamed but never pointed at, nor those ahead of us,
    # which are damaged, since we went on from before them
    known = {target, *(path for path in before if path.name <= before[0].name and path.name <= target.name)}
    kept = sorted(known, reverse=True)[:KEEP]
    for path in _published(folder):
        if path not in kept:
            _discard(path)
    return target


def _write(temporary: Path, target: Path, flat: Flat) -> None:
    try:
        temporary.mkdir()
        digests = {
            TENSORS: _write_file(temporary / TENSORS, _serialised(flat.tensors)),
            VALUES: _write_file(temporary / VALUES, [flat.values]),
        }
        _write_file(temporary / MANIFEST, [canonical_json(digests).encode()])
        sync_folder(temporary)
        temporary.rename(target)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(target.parent)


def _write_file(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write and fsync a file of a folder that is not published yet; its SHA-256."""
    sha = hashlib.sha256()
    try:
        with open(path, "xb") as file:
            for part in parts:
                for begin in range(0, len(part), CHUNK):
                    chunk = part[begin : begin + CHUNK]
                    file.write(chunk)
                    sha.update(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file it is about
        raise
    return sha.hexdigest()


def _serialised(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The parts of a safetensors file: length of the header, header, then the tensors one after the other.

    Written here because the library's writer holds the interpreter lock throughout, which would stop the training
    thread, and cannot hash what it writes. https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {}
    begin = 0
    for path, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[path] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield _bytes(tensor)


def _bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor in row-major order; its own memory where it lies on the CPU in that order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def latest(folder: Path, objection: Callable[[State], str] = lambda state: "") -> tuple[State, Path] | None:
    """The newest intact checkpoint and where it lies; damaged ones are named in the log and passed over.

    objection: why a state that is intact cannot be used all the same; empty if it can.

    None when nothing has been published. Raises CheckpointError when checkpoints exist and none is intact, and OSError
    when they cannot be read: a disk that does not answer is no reason to start over.
    """
    candidates = _published(folder)
    for candidate in candidates:
        try:
            state = _read(candidate)
            if not (reason := objection(state)):
                return state, candidate
            log.warning("checkpoint skipped: %s: %s", candidate, reason)
        except (GenxaiError, ValueError, FileNotFoundError, NotADirectoryError) as problem:
            log.warning("checkpoint skipped: %s", problem)
    if candidates:
        raise CheckpointError(f"{folder}: none of the {len(candidates)} checkpoints is usable")
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
    _verify(path)
    values = json.loads((path / VALUES).read_bytes())
    with safe_open(path / TENSORS, framework="pt") as file:
        # cloned: what it gives are views of the mapped file, which the next start of the run will remove
        return _join(values, {name: file.get_tensor(name).clone() for name in file.keys()})  # noqa: SIM118


def _verify(path: Path) -> None:
    manifest = read_json(path / MANIFEST)
    if set(manifest) != {TENSORS, VALUES}:
        raise CheckpointError(f"{path}: incomplete (no valid {MANIFEST})")
    for name, expected in manifest.items():
        with open(path / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise CheckpointError(f"{path / name}: truncated or altered (its checksum differs)")


def _is_intact(path: Path) -> bool:
    try:
        _verify(path)
    except (GenxaiError, OSError):
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what killed writers left half done; nobody else writes here while the run is locked."""
    for name in _names(folder):
        if name.startswith((".step-", f".{POINTER}.")):
            _discard(folder / name)


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


# --- nested state <-> flat tensors + JSON ---------------------------------------------------------

_TENSOR = "__tensor__"


def flatten(state: State) -> Flat:
    """Take a state apart. The tensors are not copied: they still share memory with what they were taken from.

    Raises TypeError or ValueError for what cannot be in a checkpoint (NaN among the values, an unknown type).
    """
    found: dict[str, Tensor] = {}
    values = json.dumps(_split(state, "", found), allow_nan=False).encode()
    rank = {dtype: place for place, dtype in enumerate(DTYPES)}
    return Flat({path: found[path] for path in sorted(found, key=lambda path: (rank[found[path].dtype], path))}, values)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in tensors:
            raise ValueError(f"two tensors of the state have the path {path}")
        if value.dtype not in DTYPES:
            raise TypeError(f"{path}: tensors of {value.dtype} cannot be saved")
        tensors[path] = value.detach()
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
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            sha.update(_bytes(tensor))
    return sha.hexdigest()


def _tensors_in(states: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for owner in sorted(states):
        for name, value in sorted(states[owner].items()):
            if isinstance(value, Tensor):
                yield f"{owner}.{name}", value
