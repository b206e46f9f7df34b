"""Suite `loop`: the joint loop against a bare PyTorch loop, and what explanation and revision cost.

Compared, one whole step each (n_critic critic updates, one of the generator, one of the classifier), in turns:
* joint: `genxai.training.loop.joint_step` on `build(config)`, losses and ledger collected and drained as in a run;
* bare: `bare_loop.BareLoop`, the same mathematics by hand, on the same draws; and once more with torch's own random
  numbers instead of the reproducible ones, which shows what those cost;
* plain: `joint_step` without explanation and revision (revise.enabled=false, objective.lambda_attribution=0).
Speed of the joint loop = time of bare / time of joint. Overhead = time of joint / time of plain. The full form adds the
overhead at 1, 5, 10, 25 and 100 % of each batch explained, and the parts of a step.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.benchmarks.figures import Figure, milliseconds, ratio
from analysis.benchmarks.setting import WITHOUT_EXPLANATION, Setting, threads
from analysis.benchmarks.timing import alternate, calls, seconds

if TYPE_CHECKING:
    from genxai.config import Config

#: the curve of the overhead, shares of each batch
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)


def measure(setting: Setting) -> list[Figure]:
    """Speed against the bare loop, overhead of explanation and revision; in the full form its curve and the parts."""
    config = setting.config()
    with threads(config.train.threads):
        figures = _headline(setting, config)
        if not setting.short:
            figures += _curve(setting, config) + _parts(setting, config) + _checkpoint(setting, config)
    return figures


class JointLoop:
    """`joint_step` and what a run does around it at every step, one step further at every call."""

    def __init__(self, config: Config) -> None:
        from genxai.fairness import Ledger
        from genxai.training.experiment import build
        from genxai.training.progress import LossMeter

        self.experiment = build(config)
        self.meter = LossMeter(self.experiment.device, self.experiment.processes)
        self.ledger = Ledger(config.revise.tau)
        self._steps = itertools.cycle(range(self.experiment.steps))

    def __call__(self) -> None:
        from genxai.training.loop import joint_step

        step = next(self._steps)
        self.meter.update(step, joint_step(self.experiment, step, self.ledger))
        if (step + 1) % self.experiment.config.run.log_every == 0:
            self.meter.drain()
            self.ledger.drain()
        self.experiment.processes.any(False, False)


def _headline(setting: Setting, config: Config) -> list[Figure]:
    from analysis.benchmarks.bare_loop import BareLoop, NativeDraws

    joint, plain = JointLoop(config), JointLoop(setting.config(*WITHOUT_EXPLANATION))
    experiment = joint.experiment
    contenders: dict[str, Callable[[], Any]] = {"joint": joint, "plain": plain}
    if config.train.precision != "fp16":  # the bare loop has no loss scaling
        contenders["bare"] = _counting(BareLoop(experiment), experiment.steps)
        if not setting.short:
            native = NativeDraws(len(experiment.train), config.train.batch_size, experiment.device)
            contenders["native"] = _counting(BareLoop(experiment, native), experiment.steps)
    with setting.progress.task("loop: a step, joint, bare and plain", calls(len(contenders), setting.repeats)) as tick:
        times = alternate(contenders, setting.repeats, tick, experiment.device, limit=setting.limit)
    figures = [milliseconds("loop/step", "one step of the joint loop", times["joint"])]
    if "bare" in times:
        figures.append(ratio("loop/bare", "speed of the joint loop, of a bare loop", times["bare"], times["joint"]))
    if "native" in times:
        name = "the same, bare loop with torch's own random numbers"
        figures.append(ratio("loop/bare_native", name, times["native"], times["joint"]))
    share = _share(config)
    name = f"step with explanation, {share}, of one without"
    figures.append(ratio("loop/overhead", name, times["joint"], times["plain"]))
    return figures


def _counting(loop: Any, steps: int) -> Callable[[], Any]:
    numbers = itertools.cycle(range(steps))
    return lambda: loop.step(next(numbers))


def _share(config: Config) -> str:
    return f"{config.explained_samples} of {config.train.batch_size}"


def _curve(setting: Setting, config: Config) -> list[Figure]:
    loops = {fraction: JointLoop(setting.config(f"explain.fraction={fraction}")) for fraction in FRACTIONS}
    contenders: dict[str, Callable[[], Any]] = {str(fraction): loop for fraction, loop in loops.items()}
    contenders["plain"] = JointLoop(setting.config(*WITHOUT_EXPLANATION))
    with setting.progress.task("loop: overhead by fraction", calls(len(contenders), setting.repeats)) as tick:
        times = alternate(contenders, setting.repeats, tick, loops[FRACTIONS[0]].experiment.device)
    return [
        ratio(
            f"loop/overhead_{100 * fraction:g}",
            f"  explaining {100 * fraction:g} % ({_share(loops[fraction].experiment.config)})",
            times[str(fraction)],
            times["plain"],
        )
        for fraction in FRACTIONS
    ]


#: the step functions by name, and what the table calls them
PARTS = {
    "critic_step": "critic",
    "generate": "generator",
    "generator_step": "generator",
    "classifier_step": "classifier",
}


def _parts(setting: Setting, config: Config) -> list[Figure]:
    """Where the time of a joint step goes, the device synchronised around each part."""
    joint = JointLoop(config)
    clock = _Clock(joint.experiment)
    rounds = []
    with setting.progress.task("loop: parts of a step", setting.repeats) as tick, clock.watching():
        joint()
        for _ in range(setting.repeats):
            clock.spent = dict.fromkeys(("data", *PARTS.values()), 0.0)
            whole = seconds(joint, joint.experiment.device)
            rounds.append({**clock.spent, "rest": whole - sum(clock.spent.values())})
            tick()
    names = {
        "data": "data: all batches of a step",
        "critic": "critic, all turns, without data",
        "generator": "generator, its batch included",
        "classifier": "classifier and every map, without data",
        "rest": "seeds, learning rates, the clock itself",
    }
    return [
        milliseconds(f"loop/part_{part}", f"  {name}", [spent[part] for spent in rounds])
        for part, name in names.items()
    ]


def _checkpoint(setting: Setting, config: Config) -> list[Figure]:
    """How long training is kept from its next step by a checkpoint: states taken and copied, not written."""
    from genxai.training.publisher import Publisher

    joint = JointLoop(config)
    experiment, blocked = joint.experiment, []
    with (
        tempfile.TemporaryDirectory() as folder,
        Publisher(Path(folder)) as publisher,
        setting.progress.task("loop: a checkpoint", setting.repeats) as tick,
    ):
        for number in range(setting.repeats):
            joint()
            begun = time.perf_counter()
            optimizers = {name: trained.optimizer_state() for name, trained in experiment.trained.items()}
            publisher.publish(number, {"modules": experiment.network_states(), "optimizers": optimizers})
            blocked.append(time.perf_counter() - begun)
            publisher.finish()  # in a run, minutes pass
            tick()
    return [milliseconds("loop/checkpoint", "training kept waiting by a checkpoint", blocked[1:] or blocked)]


class _Clock:
    """Adds up the time spent in the step functions, with the time of TexMM.batch taken out and kept apart."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            for function, part in PARTS.items():
                # wherever the loop looks the function up: its own module or the one that defines it
                for home in ("genxai.training.loop", "genxai.training.steps"):
                    module = importlib.import_module(home)
                    if hasattr(module, function):
                        original = getattr(module, function)
                        undo.callback(setattr, module, function, original)
                        setattr(module, function, self._timed(original, part))
            train = self.experiment.train
            train.batch = self._timed(train.batch, "data")
            undo.callback(delattr, train, "batch")
            yield

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            results: list[Any] = []
            inner = self.spent.get("data", 0.0)
            elapsed = seconds(lambda: results.append(function(*arguments, **options)), self.experiment.device)
            inside = self.spent.get("data", 0.0) - inner  # batches composed within this part
            self.spent[part] = self.spent.get(part, 0.0) + elapsed - inside
            return results[0]

        return timed
