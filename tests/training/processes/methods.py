"""One of several processes: makes steps under every method and writes what they computed.

python methods.py OUTPUT float32|float64 [key=value ...]
"""

import functools
import sys
from pathlib import Path

import torch
from steps import compute_in_float64

from genxai.configfile import load_config
from genxai.fairness import Ledger
from genxai.training.batches import over_split
from genxai.training.experiment import build
from genxai.training.loop import joint_step

#: with numbers large enough that each makes a difference
METHODS = {"group_resample": None, "group_dro": 1.0, "rrr": 10.0, "texture_swap": 0.5, "jtt": 5.0, "dfr": 0.1}


def main(output: str, precision: str, *overrides: str) -> None:
    if precision == "float64":
        compute_in_float64()
    found, names = {}, [word.partition("=")[2] for word in overrides if word.startswith("only=")] or list(METHODS)
    for name in names:
        chosen = [f"method.name={name}", *(word for word in overrides if not word.startswith("only="))]
        if METHODS[name] is not None:
            chosen.append(f"method.strength={METHODS[name]}")
        experiment = build(load_config("tiny", chosen))
        measure = functools.partial(over_split, processes=experiment.processes)
        for step in range(4):
            if step == 2 and experiment.method.restart_epoch:
                experiment.method.before_restart(experiment.whole_classifier(), measure)
                experiment.restart_classifier()
                experiment.weigh_samples()
            joint_step(experiment, step, Ledger(0.3))
        states = experiment.network_states()["classifier"]
        if name == "dfr":
            classifier = experiment.whole_classifier()
            experiment.method.finish(classifier, measure)
            states = classifier.state_dict()
        found[name] = {"state": states, "method": experiment.method.state_dict(), "world": experiment.processes.count}
    if experiment.processes.first:
        torch.save(found, Path(output))
    experiment.processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
