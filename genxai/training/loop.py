"""Algorithm 1: the joint loop of critic, generator and classifier, with evaluation, early stopping and checkpoints."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from genxai.errors import NonFiniteError
from genxai.fairness import Ledger
from genxai.runs import Run, append_jsonl
from genxai.training import resume
from genxai.training.evaluation import VALIDATION_SPLITS, evaluate_generator, evaluate_split
from genxai.training.experiment import Experiment
from genxai.training.objectives import learning_rate
from genxai.training.pictures import write_pictures
from genxai.training.progress import LossMeter, Reporter
from genxai.training.resume import LoopState
from genxai.training.steps import Terms, classifier_step, critic_step, generator_step
from genxai.training.stopping import StopFlag

#: wall time between checkpoints is at least this many times what the last one took
SAVING_SHARE = 20


class Loop:
    """One run's training from wherever it was left to its end or to the next request to stop."""

    def __init__(self, run: Run, experiment: Experiment, state: LoopState, stop: StopFlag, reporter: Reporter) -> None:
        self.run, self.experiment, self.state, self.stop, self.reporter = run, experiment, state, stop, reporter
        self.ledger = Ledger(experiment.config.revise.tau)
        self.meter = LossMeter(experiment.accelerator)
        self._clock = time.monotonic()
        self._next_save = time.monotonic() + experiment.config.run.checkpoint_seconds

    def fit(self) -> bool:
        """Train. True when the run has reached its end, False when it was asked to stop; saved either way."""
        state, train = self.state, self.experiment.config.train
        while state.step < self.experiment.steps and not state.stopped_early:
            terms = joint_step(self.experiment, state.step, self.ledger)
            self.meter.update(state.step, terms)
            state.step += 1
            if state.step % self.experiment.config.run.log_every == 0:
                self._report()
            self.reporter.passed(state.step)
            epoch, within = divmod(state.step, self.experiment.draws.steps_per_epoch)
            if within == 0 and (epoch % train.eval_every == 0 or state.step == self.experiment.steps):
                self._evaluate(epoch)
            if self._stop_agreed():
                self._save()
                return state.step >= self.experiment.steps or state.stopped_early
            if time.monotonic() >= self._next_save:
                self._save()
        self._save()
        return True

    def tick(self) -> None:
        """Add the time since the last call to the seconds of training."""
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now

    def _report(self) -> None:
        losses = self.meter.drain()
        self.reporter.update(self.state.step, losses)
        self.experiment.accelerator.log(losses, step=self.state.step)
        self._write_ledger()

    def _write_ledger(self) -> None:
        records = self.ledger.drain()
        if records:
            append_jsonl(self.run.ledger_file, *records)

    def _evaluate(self, epoch: int) -> None:
        """Write metrics.jsonl, keep the classifier if it is the best on validation, decide on stopping early."""
        experiment, state = self.experiment, self.state
        self._check_finite()
        found = [
            evaluate_split(experiment.classifier, experiment.config, split, experiment.device)
            for split in VALIDATION_SPLITS
        ]
        records = dict(zip((*VALIDATION_SPLITS, "generator"), [*found, evaluate_generator(experiment)], strict=True))
        self.tick()
        append_jsonl(self.run.metrics_file, *(self._record(epoch, split, values) for split, values in records.items()))
        values = {name: value for part in records.values() for name, value in part.items()}
        experiment.accelerator.log(values, step=state.step)
        accuracy = values["val/accuracy"]
        if state.best_accuracy is None or accuracy > state.best_accuracy:
            state.best_accuracy, state.best_epoch, state.stale = accuracy, epoch, 0
            state.best = {name: value.clone() for name, value in experiment.classifier.state_dict().items()}
        else:
            state.stale += 1
            state.stopped_early = state.stale >= experiment.config.train.patience
        if experiment.config.run.pictures:
            write_pictures(experiment, self.run.pictures, state.step)
        self.reporter.say(f"epoch {epoch}: " + " ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def _record(self, epoch: int, split: str, values: dict[str, float]) -> dict[str, Any]:
        plain = {name.partition("/")[2]: value for name, value in values.items()}
        return {
            "step": self.state.step,
            "epoch": epoch,
            "split": split,
            **plain,
            "seconds": round(self.state.seconds, 3),
        }

    def _stop_agreed(self) -> bool:
        """Whether any process has been asked to stop; the same answer on all of them."""
        accelerator = self.experiment.accelerator
        if accelerator.num_processes == 1:
            return self.stop.requested
        return bool(accelerator.reduce(torch.tensor(float(self.stop.requested), device=accelerator.device), "sum"))

    def _save(self) -> None:
        self._check_finite()
        self.tick()
        self._write_ledger()
        started = time.monotonic()
        resume.save(self.run, self.experiment, self.state)
        now = time.monotonic()
        # a large model on a slow disk shall not spend its time saving: at most one part in SAVING_SHARE
        seconds = self.experiment.config.run.checkpoint_seconds
        self._next_save = now + (max(seconds, SAVING_SHARE * (now - started)) if seconds else 0.0)

    def _check_finite(self) -> None:
        """Never publish or evaluate a network that has stopped being numbers, even if its last loss was one."""
        self.meter.check()
        for name, module in self.experiment.modules().items():
            tensors = [value for value in module.state_dict().values() if value.is_floating_point()]
            if not bool(torch.stack([value.isfinite().all() for value in tensors]).all()):
                raise NonFiniteError(f"parameters of {name}", self.state.step)

    def kept_classifier(self) -> Any:
        """A copy of the classifier with the weights that were best on validation."""
        classifier = copy.deepcopy(self.experiment.classifier)
        if self.state.best is not None:
            classifier.load_state_dict(self.state.best)
        return classifier


def joint_step(experiment: Experiment, step: int, ledger: Ledger) -> Terms:
    """One pass of Algorithm 1: n_critic critic updates, one of the generator, one of the classifier."""
    train = experiment.config.train
    experiment.draws.seed_everything(step)
    for name, optimizer in experiment.optimizers.items():
        base = train.lr if name == "classifier" else train.gan_lr
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train.scheduler, base, step, experiment.steps)
    terms: Terms = {}
    for turn in range(experiment.config.objective.n_critic):
        terms |= critic_step(experiment, step, turn)
    found, generated = generator_step(experiment, step)
    terms |= found
    return terms | classifier_step(experiment, step, generated, ledger)
