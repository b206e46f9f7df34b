"""Suite `data`: what supplying a step with data costs, and how a Dataset with a DataLoader compares.

* share: the n_critic + 1 calls of `TexMM.batch` that one joint step makes, of the time of that step;
* peer: `loader.TexturedImages`, which composes the same samples one by one, in a torch DataLoader with two persistent
  workers, against `TexMM.batch`: batches of 64 of the training split at random places, each left on the device. A timed
  call is a whole pass over many batches from idle workers, so that nothing is fetched while the other is being timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.benchmarks.figures import Figure, milliseconds, ratio
from analysis.benchmarks.setting import Setting, threads
from analysis.benchmarks.timing import alternate, calls

if TYPE_CHECKING:
    from genxai.config import Config

BATCH = 64
WORKERS = 2
#: batches in one timed pass
PASS, SHORT_PASS = 100, 30


def measure(setting: Setting) -> list[Figure]:
    """Share of a step, time of a batch, and images per second over those of a DataLoader."""
    config = setting.config()
    with threads(config.train.threads):
        return [*_share_of_step(setting, config), *_against_loader(setting, config)]


def _share_of_step(setting: Setting, config: Config) -> list[Figure]:
    from analysis.benchmarks.loop import JointLoop

    joint = JointLoop(config)
    train, draws, shown = joint.experiment.images, joint.experiment.draws, joint.experiment.monitored
    turns = config.objective.n_critic
    count = turns + 1
    steps = itertools.cycle(range(joint.experiment.steps))

    def supply() -> None:
        step = next(steps)
        train.batch(draws.critic_indices(step, turns).flatten())
        train.batch(draws.classifier_indices(step))
        chosen = draws.paired_indices(step)[:shown]
        train.caption_tokens(train.labels[chosen], train.textures[chosen], draws.positions[:shown], "generated")

    contenders: dict[str, Callable[[], Any]] = {"data": supply, "step": joint}
    with setting.progress.task("data: share of a step", calls(2, setting.repeats)) as tick:
        times = alternate(contenders, setting.repeats, tick, joint.experiment.device, limit=setting.limit)
    name = f"data supply, {count} batches of {config.train.batch_size} and captions, drawn and composed, of a step"
    return [ratio("data/share", name, times["data"], times["step"], percent=True)]


def _against_loader(setting: Setting, config: Config) -> list[Figure]:
    import torch

    from analysis.benchmarks.loader import TexturedImages, batches
    from genxai.data import TexMM
    from genxai.training.experiment import choose_device

    device = torch.device(choose_device(config))
    split = TexMM(config, "train", device)
    count = SHORT_PASS if setting.short else PASS

    def ours() -> Any:
        last = None
        for indices in torch.randint(len(split), (count, BATCH), device=device):
            last = split.batch(indices)
        return last

    contenders: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "loader": batches(TexturedImages(split), BATCH, count, WORKERS, device),
    }
    repeats = min(setting.repeats, 10)
    with setting.progress.task("data: a DataLoader with two workers", calls(2, repeats)) as tick:
        times = alternate(contenders, repeats, tick, device, limit=setting.limit)
    name = f"images per second, of a DataLoader's with {WORKERS} workers"
    return [
        milliseconds("data/batch", f"compose a batch of {BATCH}", [value / count for value in times["ours"]]),
        ratio("data/peer", name, times["loader"], times["ours"]),
    ]
