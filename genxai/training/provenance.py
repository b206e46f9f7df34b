"""Where a run was (re)started: one line per start, enough to say later what exactly was executed."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from genxai.training.experiment import Experiment

PACKAGES = ("genxai", "torch", "torchvision", "accelerate", "deepspeed", "transformers", "numpy", "safetensors")


def describe_start(experiment: Experiment, resumed_from_step: int, restart: int) -> dict[str, Any]:
    """One line of provenance.jsonl."""
    device = experiment.device
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "restart": restart,
        "resumed_from_step": resumed_from_step,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "processes": experiment.processes.count,
        "backend": experiment.backend,
        "data": experiment.train.provenance,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "cpu"


def git_state() -> dict[str, str | None]:
    """Commit of the source tree and a hash of what differs from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "diff", "HEAD", "--binary")
    dirty = hashlib.sha256(changes).hexdigest()[:12] if changes else None
    return {"commit": commit.decode().strip() if commit else None, "dirty": dirty}


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
