"""Train the run of one directory to its end, whatever has been done of it before."""

from __future__ import annotations

import contextlib
import enum
import logging
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from genxai.config import Config
from genxai.configfile import dotted_keys, get_dotted, shortened
from genxai.data import fingerprint, open_split, split_names
from genxai.errors import DISK_ERRORS, GenxaiError, NonFiniteError
from genxai.files import append_jsonl, read_json, read_jsonl, write_json
from genxai.metrics.intervals import Interval
from genxai.runs import PATIENCE, Run, State, run_signature
from genxai.training import checkpoints, resume
from genxai.training.backends.choose import choose_backend
from genxai.training.experiment import Experiment, build, make_accelerator
from genxai.training.final_evaluation import mean_mask, report_split
from genxai.training.generator_evaluation import GeneratorReport, evaluate_generator_fully
from genxai.training.loop import Loop
from genxai.training.parallel import Processes, is_lost_peer, world_size
from genxai.training.progress import Reporter, logging_to
from genxai.training.provenance import describe_start
from genxai.training.resume import LoopState
from genxai.training.stopping import StopFlag, listening

log = logging.getLogger(__name__)


class Outcome(enum.StrEnum):
    """How a call of `train` ended."""

    DONE = "done"
    STOPPED = "stopped"  # asked to stop; saved; start again to go on
    FAILED = "failed"  # FAILED.json says why
    BUSY = "busy"  # another process is training this run


def train(run: Run, *, show_progress: bool = False, stop: StopFlag | None = None) -> Outcome:
    """Train a planned run (config.yaml exists) until it is done, stopped or failed; idempotent.

    What the person has to mend (a wrong option, missing data, a full disk) is raised and leaves no FAILED.json; any
    other exception is recorded there. stop: a flag whose signals are already listened to, if the caller has one.
    """
    config = run.config()
    if run_signature(config, fingerprint(config.data)) != run.signature:
        raise GenxaiError(
            f"{run.config_file} is not what the folder's name stands for: it was edited, or the folder renamed. "
            "Restore it, or plan a new run with launch/train.py and the options you want"
        )
    backend = choose_backend(config)
    with listening(stop) as stop:
        try:
            processes = _join(config)
            with _held(run, processes) as acquired:
                outcome = _train(run, config, backend, stop, show_progress, processes) if acquired else Outcome.BUSY
            if outcome is not Outcome.BUSY:  # whoever waits for the run's lock asks again, with the same processes
                processes.leave()
            return outcome
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            raise GenxaiError(f"another process of the run went away: {shortened(str(error))}") from None


def _join(config: Config) -> Processes:
    """The processes of this run, once all of them have come."""
    if world_size() > 1 or (config.run.processes or 1) > 1:
        make_accelerator(config)
    return Processes.of_this_run()


class _FailedAlone(GenxaiError):
    """One process of several has failed and recorded why; it must end, so that the others do not wait for it."""


@contextlib.contextmanager
def _held(run: Run, processes: Processes) -> Iterator[bool]:
    """The run's lock, taken by the first process for all; yields whether it could be had."""
    with contextlib.ExitStack() as stack:
        acquired = processes.first and stack.enter_context(run.lock(PATIENCE))
        if acquired:
            run.remove_leftovers()
        yield processes.share(acquired)
        processes.wait()  # the lock outlives the last thing that any of them reads


def _train(
    run: Run, config: Config, backend: str, stop: StopFlag, show_progress: bool, processes: Processes
) -> Outcome:
    state_of_run = processes.share(run.state)
    if state_of_run is State.DONE:
        return Outcome.DONE
    if state_of_run is State.FAILED and processes.first:
        failure = read_json(run.failed_file)
        if read_jsonl(run.failures_file)[-1:] != [failure]:  # as it is after a kill between these lines
            append_jsonl(run.failures_file, failure)
        run.failed_file.unlink()
    torch.set_num_threads(config.train.threads)
    with logging_to(run.log_file) if processes.first else contextlib.nullcontext():
        step, device = 0, None
        try:
            experiment = build(config, backend, run.trackers)
            device = experiment.device.type
            state = resume.restore(run, experiment)
            if processes.first:
                _note_start(run, experiment, state)
            experiment.accelerator.init_trackers("genxai", config=_flat(config))
            images = config.train.batch_size * (config.objective.n_critic + 2 if config.train.generator else 1)
            with Reporter(run, state, experiment.steps, images, show_progress, silent=not processes.first) as reporter:
                loop = Loop(run, experiment, state, stop, reporter)
                try:
                    finished = loop.fit()
                finally:
                    step = state.step
                    for tracker in experiment.accelerator.trackers:
                        tracker.finish()
                if not finished:
                    log.info("stopped by %s at step %d, saved", stop.signal.name if stop.signal else "?", state.step)
                    return Outcome.STOPPED
                return Outcome.DONE if _finish(run, loop) else Outcome.STOPPED
        except NonFiniteError as error:  # on every process alike
            return _record_failure(run, error, step, device) if processes.first else Outcome.FAILED
        except (GenxaiError, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                log.error("ended at step %d: %s", step, error)
                raise
            if processes.count > 1 and is_lost_peer(error):
                raise
            outcome = _record_failure(run, error, step, device)
            if processes.count > 1:
                raise _FailedAlone(
                    f"process {processes.rank} failed: {shortened(str(error))}; see {run.failed_file}"
                ) from None
            return outcome


def _note_start(run: Run, experiment: Experiment, state: LoopState) -> None:
    """Append to provenance.jsonl; count what a kill has lost since the checkpoint, and the time that it took."""
    starts = read_jsonl(run.provenance_file)
    if starts:
        seen = run.progress()  # several kills may have come since the checkpoint: what it counts may be older
        lost = max(0, int(seen.get("step", 0)) - state.step)
        state.steps_redone = max(state.steps_redone, int(seen.get("steps_redone", 0))) + lost
        state.seconds = max(state.seconds, seen.get("seconds", 0.0))
    line = describe_start(experiment, state.step, len(starts))
    append_jsonl(run.provenance_file, line)
    log.info("start %d at step %d of %d on %s", len(starts), state.step, experiment.steps, line["device"])


def _flat(config: Config) -> dict[str, str]:
    """The configuration as dotted keys, for trackers."""
    return {key: str(get_dotted(config, key)) for key in dotted_keys(Config) if "." in key or key == "seed"}


def _finish(run: Run, loop: Loop) -> bool:
    """Evaluate the kept classifier on every split and publish result.json, the last file of a run.

    Every process computes its share, the first one writes.
    False when asked to stop on the way: training is saved, the evaluation is made at the next start.
    """
    experiment, state, processes = loop.experiment, loop.state, loop.processes
    classifier = loop.kept_classifier()
    config, device = experiment.config, experiment.device
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    training_mask = mean_mask(config, device)
    for split in split_names(config.data).evaluated:
        if any(processes.any(loop.stop.requested)):
            return False
        report = report_split(classifier, config, split, device, processes, training_mask)
        metrics |= report.metrics
        intervals |= report.intervals
    generator: GeneratorReport | None = None
    if experiment.generation is not None:
        if any(processes.any(loop.stop.requested)):
            return False
        generator = evaluate_generator_fully(experiment)
        metrics |= generator.metrics
    loop.tick()
    states = experiment.network_states()
    if not processes.first:
        return True
    result: dict[str, Any] = {
        "signature": run.signature,
        "seed": experiment.config.seed,
        "metrics": metrics,
        "intervals": intervals,
        "parameters_sha256": checkpoints.digest({**states, "best": classifier.state_dict()}),
        "steps": state.step,
        "best_epoch": state.best_epoch,
        "stopped_early": state.stopped_early,
        "seconds": round(state.seconds, 3),
        "restarts": len(read_jsonl(run.provenance_file)) - 1,
        "steps_redone": state.steps_redone,
        "device": str(experiment.device),
        "processes": processes.count,
        "selected_on": f"{experiment.config.train.select_on}/accuracy",
        "class_counts": _class_counts(experiment),
        "method": experiment.method.record(),
    }
    if generator is not None:
        result["reference_groups_missing"] = experiment.reference.missing_groups
        result["generator"] = generator.record
    run.require()
    write_json(run.result_file, result)
    loop.reporter.say("done: " + " ".join(f"{name} {metrics[name]:.3f}" for name in ("val/accuracy", "test/accuracy")))

    return True


def _class_counts(experiment: Experiment) -> dict[str, list[int]]:
    """Samples per class of every evaluated split: the size and the prior that closed forms and intervals need."""
    config, device = experiment.config, experiment.device
    splits = ((name, open_split(config, name, device)) for name in split_names(config.data).evaluated)
    return {name: torch.bincount(split.labels, minlength=split.num_classes).tolist() for name, split in splits}


def _record_failure(run: Run, error: Exception, step: int, device: str | None) -> Outcome:
    """Publish FAILED.json, unless the directory has been removed: then that is what went wrong."""
    run.require()
    text = "".join(traceback.format_exception(error))
    log.error("failed at step %d: %s", step, text)
    name, message = type(error).__name__, str(error)
    record = {"exception": name, "message": message, "step": step, "device": device, "time": time.time()}
    if isinstance(error, NonFiniteError):
        record |= {"term": error.term, "step": error.step}
    # a message meant for people needs no traceback to be understood
    record["traceback"] = None if isinstance(error, GenxaiError) else text
    if not run.failed_file.exists():  # of several processes the first to fail knows why
        write_json(run.failed_file, record)
    return Outcome.FAILED
