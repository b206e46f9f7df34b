"""Shared by the tests of genxai.data: configurations on the embedded sample, and the full data where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from genxai.config import Config
from genxai.data.sources import Arrays, load_arrays

DATASETS = ("mnist", "fashion-mnist")


@pytest.fixture
def embedded() -> Callable[..., Config]:
    """embedded(seed=0, **data options) -> Config on the sample inside the package."""

    def make(seed: int = 0, **data: Any) -> Config:
        return Config.model_validate({"data": {"source": "embedded", "seed": seed, **data}})

    return make


@pytest.fixture(scope="session", params=DATASETS)
def full(request: pytest.FixtureRequest) -> tuple[str, Arrays]:
    """A data set's name and its 70,000 images."""
    if not os.environ.get("GENXAI_DATA"):
        pytest.skip("GENXAI_DATA is not set: no full data to compare with")
    return request.param, load_arrays(request.param, "full")
