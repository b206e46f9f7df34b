"""Run directories -> rows -> configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.results import in_words, load_runs, matches
from genxai.errors import GenxaiError
from genxai.runs import State

