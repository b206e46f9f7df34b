"""One of several processes: makes joint steps of a configuration and writes what they computed.

python steps.py OUTPUT STEPS float32|float64 [key=value ...]
"""

import dataclasses
import sys
from pathlib import Path

import torch

from genxai.configfile import load_config
from genxai.data import Sample, TexMM
from genxai.fairness import Ledger, in_order
from genxai.training.draws import Draws
from genxai.training.evaluation import evaluate_split
from genxai.training.experiment import build
from genxai.training.loop import joint_step


def compute_in_float64() -> None:
    """Turn everything that the loop holds in float32 into float64, so that rounding cannot hide an error."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    batch, latents, epsilon = TexMM.batch, Draws.latents, Draws.epsilon

    def batch_in_float64(self: TexMM, indices: torch.Tensor, **options: torch.Tensor) -> Sample:
        sample = batch(self, indices, **options)
        return dataclasses.replace(sample, images=sample.images.double())

    TexMM.batch = batch_in_float64
    Draws.latents = lambda self, *arguments: latents(self, *arguments).double()
    Draws.epsilon = lambda self, *arguments: epsilon(self, *arguments).double()


def main(output: str, steps: str, precision: str, *overrides: str) -> None:
    if precision == "float64":
        compute_in_float64()
    experiment = build(load_config("tiny", overrides))
    processes = experiment.processes
    ledger = Ledger(experiment.config.revise.tau)
    terms: list[dict[str, torch.Tensor]] = []
    gradients: list[dict[str, torch.Tensor]] = []
    for step in range(int(steps)):
        found = joint_step(experiment, step, ledger)
        terms.append({name: processes.total(term) / processes.count for name, term in found.items()})
        gradients.append(
            {
                name: torch.cat([p.grad.flatten().clone() for p in module.parameters()])
                for name, module in experiment.modules().items()
                if name != "average" and experiment.backend == "ddp"  # others keep gradients elsewhere, or in pieces
            }
        )
    records = in_order(processes.collect(ledger.drain()))
    metrics = precision == "float32" and evaluate_split(experiment.whole_classifier(), experiment, "val")
    states = experiment.network_states()
    if processes.first:
        found = {
            "world": processes.count,
            "terms": terms,
            "gradients": gradients,
            "ledger": records,
            "metrics": metrics,
            "states": states,
        }
        torch.save(found, Path(output))
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
