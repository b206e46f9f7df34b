"""Where the pictures of a sweep are: those of the selected point's first seed, else of the run that finished last."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from genxai.runs import Run, find_runs
from launch.sweepdir import SweepDir


def newest_pictures(folder: SweepDir) -> list[Path]:
    """The newest picture of each kind; [] if no run that is done has any."""
    return next((pictures for run in _candidates(folder) if (pictures := run.newest_pictures())), [])


def picture_lines(folder: SweepDir) -> str:
    """The pictures, one a line, relative to the current folder where they lie under it; empty if there are none."""
    pictures = newest_pictures(folder)
    return "\n  ".join([f"pictures of {folder.name}:", *map(_short, pictures)]) if pictures else ""


def _candidates(folder: SweepDir) -> list[Run]:
    done = [run for run in find_runs(folder.path.parent, folder.name) if run.result_file.exists()]
    latest_first = sorted(done, key=lambda run: run.result_file.stat().st_mtime, reverse=True)
    try:
        selected = yaml.safe_load(folder.selected.read_text())["selected"]["runs"][0]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError, ValueError, RecursionError):
        return latest_first  # nothing is selected (yet)
    return [run for run in done if run.signature == str(selected)] + latest_first


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
