"""Suite `scaling` times real processes: the right number of them, and none left behind."""

from __future__ import annotations

import pytest

from analysis.benchmarks import scaling
from genxai.errors import GenxaiError

WORDS = ("tiny", "data.train_limit=160", "data.test_limit=80", "data.balanced_val_size=20", "train.threads=1")
CPU = "run.device=cpu"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_as_many_processes_as_asked_make_steps_together_and_end(count: int) -> None:
    # run.processes makes each of them refuse to start unless it has joined that many
    with scaling.workers([*WORDS, CPU, f"run.processes={count}"], count, 1) as group:
        scaling.ask(group, 1)
        assert [worker.poll() for worker in group] == [None] * count
    assert [worker.returncode for worker in group] == [0] * count


def test_a_process_that_cannot_start_is_reported_with_its_last_words() -> None:
    with pytest.raises(GenxaiError, match=r"train\.speed"), scaling.workers([*WORDS, "train.speed=1"], 1, 1):
        pass
