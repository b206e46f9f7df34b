"""Algorithm 1: the joint loop of critic, generator and classifier, with evaluation, early stopping and checkpoints."""

from __future__ import annotations

import copy
import functools
import time
from typing import Any

import torch
from torch import Tensor

from genxai.data import split_names
from genxai.errors import NonFiniteError
from genxai.fairness import Ledger, in_order
from genxai.fairness.methods import Measure
from genxai.files import append_jsonl
from genxai.models import FusionClassifier
from genxai.runs import Run
from genxai.training import resume
from genxai.training.batches import over_split
from genxai.training.evaluation import evaluate_split
from genxai.training.experiment import Experiment
from genxai.training.generator_evaluation import evaluate_generator
from genxai.training.optimizers import learning_rate
from genxai.training.pictures import write_pictures
from genxai.training.progress import LossMeter, Reporter
from genxai.training.publisher import Publisher
from genxai.training.resume import LoopState
from genxai.training.steps import Terms, classifier_step, critic_batches, critic_step, generate, generator_step
from genxai.training.stopping import StopFlag

#: wall time between checkpoints is at least this many times what the last one took
SAVING_SHARE = 20
#: a loss scale (fp16) that was halved down to this: gradients are not finite at any scale, and every step is skipped
SMALLEST_SCALE = 1e-3


class Loop:
    """One run's training from wherever it was left to its end or to the next request to stop."""

    def __init__(self, run: Run, experiment: Experiment, state: LoopState, stop: StopFlag, reporter: Reporter) -> None:
        self.run, self.experiment, self.state, self.stop, self.reporter = run, experiment, state, stop, reporter
        self.processes = experiment.processes
        self.ledger = Ledger(experiment.config.revise.tau)
        self.meter = LossMeter(experiment.device, experiment.processes)
        self._publisher: Publisher | None = None
        self._clock = time.monotonic()
        self._next_save = time.monotonic() + experiment.config.run.checkpoint_seconds

    def fit(self) -> bool:
        """Train. True when the run has reached its end, False when it was asked to stop; saved either way."""
        if not self.processes.first:
            finished = self._fit()
        else:
            with Publisher(self.run.checkpoints) as self._publisher:
                finished = self._fit()
        self.processes.wait()
        return finished

    def _fit(self) -> bool:
        state, train = self.state, self.experiment.config.train
        while not self._ended:
            terms = joint_step(self.experiment, state.step, self.ledger)
            self.meter.update(state.step, terms)
            state.step += 1
            self.tick()
            if state.step % self.experiment.config.run.log_every == 0:
                self._report()
            self.reporter.passed()
            epoch, within = divmod(state.step, self.experiment.draws.steps_per_epoch)
            if within == 0 and (epoch % train.eval_every == 0 or state.step == self.experiment.steps):
                self._evaluate(epoch)
            if within == 0 and epoch == self.experiment.restart_epoch:
                self._restart_classifier(epoch)
            if self._ended:
                self._finish_classifier()
            stop, due = self.processes.any(self.stop.requested, self.processes.first and self._save_is_due())
            if stop or due:
                self._save()
            if stop:
                return self._ended
        self._save()
        return True

    @property
    def _ended(self) -> bool:
        return self.state.step >= self.experiment.steps or self.state.stopped_early

    def tick(self) -> None:
        """Add the time since the last call to the seconds of training."""
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now

    def _report(self) -> None:
        losses = self.meter.drain()
        self.reporter.update(losses)
        self.experiment.accelerator.log(losses, step=self.state.step)
        self._write_ledger()

    def _write_ledger(self) -> None:
        self._require()
        records = self.processes.collect(self.ledger.drain())
        if self.processes.first and records:
            append_jsonl(self.run.ledger_file, *in_order(records))

    def _evaluate(self, epoch: int) -> None:
        """Write metrics.jsonl, keep the classifier if it is the best on validation, decide on stopping early."""
        experiment, state, train = self.experiment, self.state, self.experiment.config.train
        states = self._finite_states()
        classifier = experiment.whole_classifier()
        splits = split_names(experiment.config.data).validation
        records = {split: evaluate_split(classifier, experiment, split) for split in splits}
        if experiment.generation is not None:
            records["generator"] = evaluate_generator(experiment)
        self.tick()
        self._require()
        if self.processes.first:
            lines = (self._record(epoch, split, values) for split, values in records.items())
            append_jsonl(self.run.metrics_file, *lines)
        values = {name: value for part in records.values() for name, value in part.items()}
        experiment.accelerator.log(values, step=state.step)
        accuracy = values[f"{train.select_on}/accuracy"]
        if state.best_accuracy is None or accuracy > state.best_accuracy:
            state.best_accuracy, state.best_epoch, state.stale = accuracy, epoch, 0
            state.best = {name: value.clone() for name, value in states["classifier"].items()}
        else:
            state.stale += 1
            # a classifier that is yet to start again cannot be the last one
            state.stopped_early = state.stale >= train.patience and epoch > experiment.restart_epoch
        if self.processes.first and experiment.config.run.pictures:
            write_pictures(experiment, classifier, self.run.pictures, state.step)
        self.reporter.say(f"epoch {epoch}: " + " ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def _restart_classifier(self, epoch: int) -> None:
        """Forget what was kept of the classifier, which a method may look at and start again from its beginning."""
        experiment, state = self.experiment, self.state
        if epoch == experiment.method.restart_epoch:
            self._finite_states()
            experiment.method.before_restart(experiment.whole_classifier(), self._over_split)
            experiment.restart_classifier()
            experiment.weigh_samples()
        state.best, state.best_accuracy, state.best_epoch, state.stale = None, None, 0, 0

    def _finish_classifier(self) -> None:
        """Let the method change the classifier that is kept, before any checkpoint of the last step."""
        classifier = self.kept_classifier()
        self.experiment.method.finish(classifier, self._over_split)
        self.state.best = {name: value.detach() for name, value in classifier.state_dict().items()}

    @property
    def _over_split(self) -> Measure:
        return functools.partial(over_split, processes=self.processes)

    def _record(self, epoch: int, split: str, values: dict[str, float]) -> dict[str, Any]:
        plain = {name.partition("/")[2]: value for name, value in values.items()}
        return {
            "step": self.state.step,
            "epoch": epoch,
            "split": split,
            **plain,
            "seconds": round(self.state.seconds, 3),
        }

    def _require(self) -> None:
        if self.processes.first:
            self.run.require()

    def _save_is_due(self) -> bool:
        return time.monotonic() >= self._next_save

    def _save(self) -> None:
        started = time.monotonic()
        states = self._finite_states()
        self.tick()
        self._write_ledger()
        resume.save(self.run, self.experiment, self.state, states, self._publisher)
        now = time.monotonic()
        self._next_save = now + self._seconds_to_next_save(now - started)

    def _seconds_to_next_save(self, blocked: float) -> float:
        """A large model on a slow disk shall not spend its time saving: at most one part in SAVING_SHARE.

        Nor shall the disk, behind its back, be busy all the time. blocked: what the last save took of training [s].
        """
        seconds, publisher = self.experiment.config.run.checkpoint_seconds, self._publisher
        if publisher is None or not seconds:
            return seconds
        return max(seconds, SAVING_SHARE * blocked, publisher.written_seconds)

    def _finite_states(self) -> dict[str, dict[str, Tensor]]:
        """Every network's state; never publish or evaluate one that has stopped being numbers, its last loss or not."""
        self.meter.check()
        for name, trained in self.experiment.trained.items():
            scale = trained.loss_scale()
            if scale is not None and float(scale) < SMALLEST_SCALE:
                raise NonFiniteError(f"gradient of {name}", self.state.step)
        states = self.experiment.network_states()
        for name, state in states.items():
            tensors = [value for value in state.values() if value.is_floating_point()]
            if not bool(torch.stack([value.isfinite().all() for value in tensors]).all()):
                raise NonFiniteError(f"parameters of {name}", self.state.step)
        return states

    def kept_classifier(self) -> FusionClassifier:
        """A copy of the classifier with the weights that were best on validation."""
        classifier = copy.deepcopy(self.experiment.whole_classifier())
        if self.state.best is not None:
            classifier.load_state_dict(self.state.best)
        return classifier


def joint_step(experiment: Experiment, step: int, ledger: Ledger) -> Terms:
    """One pass of Algorithm 1: n_critic critic updates, one of the generator, one of the classifier; or its alone."""
    train = experiment.config.train
    experiment.draws.seed_everything(step)
    for name, trained in experiment.trained.items():
        base, began = (train.lr, experiment.classifier_began(step)) if name == "classifier" else (train.gan_lr, 0)
        for group in trained.parameter_groups:
            group["lr"] = learning_rate(train.scheduler, base, step - began, experiment.steps - began)
    if experiment.generation is None:
        return classifier_step(experiment, step, None, ledger)[0]
    terms: Terms = {}
    for batch in critic_batches(experiment, step):
        terms |= critic_step(experiment, batch)
    generated = generate(experiment, step)
    # the classifier first, though either order gives the same: its maps of the generated samples serve both
    found, revision = classifier_step(experiment, step, generated.monitored, ledger)
    return terms | found | generator_step(experiment, generated, revision)
