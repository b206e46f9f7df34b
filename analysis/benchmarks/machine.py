"""The machine a figure was measured on, by name; without it a time means nothing and a ratio little."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def describe(device: str, threads: int) -> dict[str, Any]:
    """Processor, its usable cores, GPU (None on a CPU), torch's threads and version, the load before measuring."""
    import torch

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """The processor's name as /proc/cpuinfo has it, or what the platform module knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    return (
        f"{gpu}{machine['processor']}, {machine['cores']} cores, {threads}, torch {machine['torch']}, "
        f"load {machine['load']:g} before"
    )
