"""Text alone reaches what its captions allow: the closed form of the Bayes accuracy, within its binomial interval."""

import pytest
import torch
from scipy.stats import binomtest

from genxai.configfile import load_config
from genxai.data import fingerprint, open_split, text_bayes_accuracy
from genxai.runs import Run, run_signature
from genxai.training import Outcome, train
from launch.sweepfile import find_sweep, load_sweep

#: the rows of the sweep that is recorded: vague captions, the default ones, and those of the preset paper-like
ROWS = load_sweep(find_sweep("captions")).definition.rows
ALONE = ["model.fusion=text", "train.generator=false", "revise.enabled=false", "objective.lambda_attribution=0.0"]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_text_only_accuracy_is_its_bayes_accuracy_on_unseen_paraphrases(tmp_path, row):
    """Within the 99 % Clopper-Pearson interval; that of the table is 95 %, which one run in twenty would miss."""
    given = [f"{key}={value}" for key, value in ROWS[row].set.items()]
    small = ["data.train_limit=2400", "train.epochs=8", "train.threads=1", "run.trackers=[]", "run.pictures=false"]
    config = load_config("tiny", [*ALONE, *given, "data.captions.texture=0.0", *small])
    run = Run(tmp_path / "sweep" / run_signature(config, fingerprint(config.data)))
    run.plan(config)
    assert train(run) is Outcome.DONE
    labels = open_split(config, "test").labels
    prior = (torch.bincount(labels, minlength=10) / len(labels)).tolist()
    bayes = text_bayes_accuracy(config.data.captions, "mnist", config.data.rho, prior=prior)
    accuracy = run.result()["metrics"]["test/accuracy"]
    interval = binomtest(round(bayes * len(labels)), len(labels)).proportion_ci(0.99)
    assert interval.low <= accuracy <= interval.high, f"{accuracy:.3f}, Bayes {bayes:.3f}"
