"""What the tests of methods share: a split made of tensors, one process, and tiny configurations."""

from types import SimpleNamespace

import pytest
import torch

from genxai.configfile import load_config
from genxai.training.parallel import Processes

#: the classifier alone and unexplained: what a method does to it is all there is
PLAIN = ("train.generator=false", "revise.enabled=false", "objective.lambda_attribution=0.0", "model.dropout=0.0")


@pytest.fixture
def configured(small):
    torch.set_num_threads(1)
    return lambda *overrides: load_config("tiny", [*small, *PLAIN, "run.pictures=false", *overrides])


@pytest.fixture
def alone():
    return Processes()


@pytest.fixture
def split():
    def make(labels: list[int], aligned: list[bool], classes: int) -> SimpleNamespace:
        return SimpleNamespace(
            labels=torch.tensor(labels), aligned=torch.tensor(aligned), num_classes=classes, batch=lambda indices: None
        )

    return make
