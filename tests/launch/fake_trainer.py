"""A trainer that keeps the run directory's contract and takes milliseconds; what real jobs of the tests call.

Faults are asked for by files beside the sweeps (RUNS/<fault>), which is where a test can reach a job.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

from genxai.files import append_jsonl, read_json, read_jsonl, write_json
from genxai.runs import Run, State


def metrics(config) -> dict[str, float]:
    """Smooth objectives with an optimum inside the space, a little different for every seed."""
    gp, bias = config.objective.lambda_gp, config.objective.lambda_bias
    return {
        "val/accuracy": 1 / (1 + abs(math.log10(gp / 10))) + 0.01 * config.seed,
        "val_balanced/accuracy": 1 / (1 + gp),
        "test/accuracy": 1 / (1 + abs(math.log10(gp / 50))),
        "val/ssim_align": 1 / (1 + abs(math.log10(max(bias, 1e-3) / 0.1))) - 0.01 * config.seed,
    }


def work(run_dir: str) -> str:
    run, runs = Run(Path(run_dir)), Path(run_dir).parent.parent
    (runs / "alive").mkdir(exist_ok=True)
    mark = runs / "alive" / str(os.getpid())
    mark.touch()
    append_jsonl(runs / "alive.jsonl", {"alive": len(list((runs / "alive").iterdir()))})
    try:
        return _train(run, runs)
    finally:
        mark.unlink()


def _train(run: Run, runs: Path) -> str:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    with run.lock() as acquired:
        if not acquired:
            return "busy"
        if run.state is State.DONE:
            return "done"
        if run.state is State.FAILED:
            append_jsonl(run.failures_file, read_json(run.failed_file))
            run.failed_file.unlink()
        config = run.config()
        steps = int(json.loads((runs / "steps").read_text())) if (runs / "steps").exists() else 3
        checkpoint = run.path / "step"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        append_jsonl(run.provenance_file, {"resumed_from_step": step})
        if (runs / "fail").exists() and f"{config.objective.lambda_gp:g}" in (runs / "fail").read_text().split():
            write_json(run.failed_file, {"exception": "ValueError", "message": "asked to fail", "step": step})
            return "failed"
        if (runs / "die").exists() and f"{config.objective.lambda_gp:g}" in (runs / "die").read_text().split():
            os.kill(os.getpid(), signal.SIGKILL)
        while step < steps:
            if stop:
                return "stopped"
            time.sleep(0.05)
            step += 1
            checkpoint.write_text(str(step))
            write_json(run.progress_file, {"step": step, "steps": steps, "images_per_second": 1.0, "eta_seconds": 1.0})
        append_jsonl(runs / "finished.jsonl", {"signature": run.signature})
        starts = len(read_jsonl(run.provenance_file))
        write_json(
            run.result_file,
            {
                "signature": run.signature,
                "seed": config.seed,
                "metrics": metrics(config),
                "seconds": 36.0,
                "restarts": starts - 1,
                "steps": steps,
                "steps_redone": 0,
            },
        )
    return "done"
