"""What tests of several rooms share: a configuration of the full method that trains in seconds."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # whole_runs

# one thread each, so that tests neither oversubscribe two cores nor depend on their number
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell starts what it puts into the background deaf to Ctrl-C, and the commands that tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = (
    "data.train_limit=160",
    "data.test_limit=80",
    "data.balanced_val_size=20",
    "objective.n_critic=2",
    "train.epochs=2",
    "train.threads=1",
    "train.explain_samples=16",
    "run.trackers=[]",
    "run.log_every=1",
)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Overrides of preset tiny: the whole method, a few steps."""
    return SMALL


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with random weights that knows 30 tokens, saved as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    import torch

    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    folder = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.BertModel(config).save_pretrained(folder)
    return str(folder)
