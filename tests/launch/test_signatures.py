"""Signatures made from shared text are those of the definition, genxai.runs.run_signature."""

from pathlib import Path

import pytest

from genxai.config import Config
from genxai.configfile import load_config, set_dotted, validate
from genxai.runs import canonical_json, run_signature
from launch.plan import Planner
from launch.points import config_at
from launch.signatures import Signatures
from launch.sweepdir import SweepDir
from launch.sweepfile import load_sweep

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def fingerprint(data) -> str:
    """Of the options alone: another data section is other data."""
    return canonical_json(data.model_dump(mode="json"))


def define(config: Config) -> str:
    return run_signature(config, fingerprint(config.data))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_run_of_every_shipped_sweep_has_the_signature_of_its_configuration(file, tmp_path):
    sweep = load_sweep(file)
    planner = Planner(sweep, SweepDir(tmp_path / sweep.name), fingerprint)
    axes = sweep.definition.space
    between = {key: axis.grid[0] if axis.low is None else (axis.low + axis.high) / 2 for key, axis in axes.items()}
    trials = planner.grid()
    if sweep.rows is not None:
        trials = [*planner.selection(), *planner.cases((case, case.options[-1]) for case in sweep.rows.cases)]
    elif not any(trial.point == between for trial in trials):
        trials.append(planner.trial(900, "bayes", between))
    for trial in trials:
        assert [p.signature for p in trial.runs] == [define(p.config) for p in trial.runs]
        # and that configuration is the base with the point's values, validated as a whole
        for planned in trial.runs:
            tree = sweep.base.model_dump() | {"seed": planned.config.seed, "origin": planned.config.origin}
            for key, value in trial.point.items():
                set_dotted(tree, key, value)
            assert planned.config == validate(Config, tree, "test")
    distinct = {p.signature for trial in trials for p in trial.runs}
    assert len(distinct) == sum(len(trial.runs) for trial in trials)


def test_one_round_of_signatures_tells_apart_what_the_definition_does():
    base = load_config("tiny")
    values = {
        "seed": [1, 2],
        "data.rho": [0.5, 0.9],
        "data.captions.exact": [0.1],
        "model.image.width": [8],
        "model.fusion": ["early"],
        "objective.lambda_bias": [0.0, -0.0, 1e-7],  # the two zeros are equal, and two texts
        "train.gan_betas": [(0.0, 0.99)],
        "train.clip_norm": [None, 1.0],
        "train.backend": ["ddp"],  # no effect
        "run.log_every": [7],
        "revise.enabled": [False],
    }
    signatures = Signatures(fingerprint)
    configs = [base, *(config_at(base, {key: value}, "test") for key in values for value in values[key])]
    told = [signatures.of(config) for config in configs]
    assert told == [define(config) for config in configs]
    assert told == [signatures.of(config) for config in configs]
    assert len(set(told)) == len(configs) - 3  # clip_norm=None is the base's, backend and log_every have no effect


def test_local_weights_count_by_their_content_and_are_read_anew_in_every_round(tmp_path):
    file = tmp_path / "weights.pth"
    options = ["model.image.name=resnet18", "model.image.input_size=64", f"model.image.weights={file}"]
    config = load_config("tiny", options)
    absent = Signatures(fingerprint).of(config)
    file.write_bytes(b"one")
    first = Signatures(fingerprint).of(config)
    file.write_bytes(b"another")
    second = Signatures(fingerprint).of(config)
    assert len({absent, first, second}) == 3 and second == define(config)


def test_a_point_makes_only_the_sections_it_touches_anew():
    base = load_config("tiny")
    config = config_at(base, {"objective.lambda_gp": 3, "train.lr": 0.5}, "test")
    assert (config.objective.lambda_gp, config.train.lr) == (3.0, 0.5)
    assert config.data is base.data and config.model is base.model
    assert config.objective.lambda_bias == base.objective.lambda_bias
