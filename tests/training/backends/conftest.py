"""Launches joint_steps.py as real processes and reads what they wrote."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("joint_steps.py")
TIMEOUT = 300  # seconds; more than ten times what a launch takes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one case ended with, as each process saw it."""

    ranks: list[dict]

    def network(self, name: str, rank: int = 0) -> torch.Tensor:
        """All weights of a network in one row, in float64."""
        return torch.cat([value.double().flatten() for value in self.ranks[rank]["networks"][name].values()])

    def optimizer(self, name: str, key: str) -> torch.Tensor:
        state = self.ranks[0]["optimizers"][name]["state"]
        return torch.cat([state[number][key].double().flatten() for number in sorted(state)])

    def moved(self, name: str) -> float:
        """The largest change of a weight over the largest weight."""
        before = torch.cat([value.double().flatten() for value in self.ranks[0]["before"][name].values()])
        return float((self.network(name) - before).abs().max() / before.abs().max())

    def distance(self, other: "Outcome", name: str) -> float:
        """The largest difference of a weight over the largest weight."""
        return float((self.network(name) - other.network(name)).abs().max() / other.network(name).abs().max())


class Launcher:
    """Runs cases in a folder; later launches can start from what earlier ones saved there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.launches = folder, 0

    def run(self, processes: int, cases: list[dict]) -> dict[str, Outcome]:
        """Start the processes, wait for them, and give each case's outcome by name."""
        self.launches += 1
        job = self.folder / f"job-{self.launches}.json"
        rendezvous = self.folder / f"rendezvous-{self.launches}"
        job.write_text(json.dumps({"folder": str(self.folder), "rendezvous": str(rendezvous), "cases": cases}))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "ACCELERATE_"))}
        logs = [self.folder / f"log-{self.launches}-{rank}.txt" for rank in range(processes)]
        started = []
        for rank, log in enumerate(logs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
            with log.open("w") as out:
                command = [sys.executable, str(SCRIPT), str(job)]
                started.append(subprocess.Popen(command, env=inherited | place, stdout=out, stderr=out))
        try:
            codes = [process.wait(TIMEOUT) for process in started]
        finally:
            for process in started:
                process.kill()
        if any(codes):
            pytest.fail("\n".join(f"process {log.stem}:\n{log.read_text()[-3000:]}" for log in logs))
        return {case["name"]: self._outcome(case["name"], processes) for case in cases}

    def _outcome(self, name: str, processes: int) -> Outcome:
        files = [self.folder / f"{name}.{rank}.pt" for rank in range(processes)]
        return Outcome([torch.load(file, weights_only=True) for file in files])


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    return Launcher(tmp_path_factory.mktemp("backends"))
