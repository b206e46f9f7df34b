"""Devices as data (launch/cards.yaml), and how long a joint step and a run would take on one.

A time is either measured, the seconds of finished runs of the same cost on that kind of device, or assumed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field

from genxai.config import Config, Positive, Section, Share
from genxai.configfile import validate
from genxai.errors import GenxaiError
from genxai.files import read_jsonl
from genxai.runs import Run, State, canonical_json

if TYPE_CHECKING:
    from analysis.costs.passes import Part
    from analysis.costs.step import StepCost

CARDS_FILE = Path(__file__).with_name("cards.yaml")
TERA, GIGA = 1e12, 1e9
Precisions = dict[str, float]


class Assumptions(Section):
    """What no data sheet says; see the comments in cards.yaml."""

    utilisation: Precisions
    bandwidth_utilisation: Share
    kernel_seconds: Positive
    kernels_per_batch: Annotated[int, Field(ge=0)]
    float32_passes: dict[str, Annotated[float, Field(ge=0)]] = Field(..., description="by method.name")
    context_gb: Annotated[float, Field(ge=0)]
    fragmentation: Annotated[float, Field(ge=1)]


class Card(Section):
    """One kind of device."""

    title: str
    names: tuple[str, ...] = Field(..., description="patterns of the device's name in provenance.jsonl")
    peak: Precisions = Field(..., description="dense TFLOP/s by precision")
    memory_gb: Positive | None
    bandwidth_gb_s: Positive
    price_per_hour: Annotated[float, Field(ge=0)] | None
    per_thread: bool = Field(False, description="figures are one CPU thread's")


class Cards(Section):
    """cards.yaml."""

    assumptions: Assumptions
    cards: dict[str, Card]
    shown: tuple[tuple[str, int], ...]

    def named(self, device: str) -> str | None:
        """The id of the card that a device's name belongs to; None if it is none of ours."""
        for name, card in self.cards.items():
            if any(re.search(pattern, device, re.IGNORECASE) for pattern in card.names):
                return name
        return None


@functools.cache
def load_cards() -> Cards:
    """The devices of cards.yaml."""
    return validate(Cards, yaml.safe_load(CARDS_FILE.read_text()), CARDS_FILE.name)


def this_device() -> str:
    """The name of the device that runs would use here, asked of the system and not of torch."""
    from launch.executors import visible_gpus

    if visible_gpus():
        for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            if found := re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE):
                return found[1].strip()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "cpu"


# --- what a run has to do ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Images per split."""

    train: int
    val: int
    balanced: int
    test: int


#: images of the training file and of the test file
_FULL, _EMBEDDED = (60_000, 10_000), (3_000, 1_000)
#: different comments, which have no test file of their own
_COMMENTS = {"toxicity-surge": (999, 0), "toxicity-davidson": (24_771, 0)}
#: of the pooled images (genxai.data.splits.TEST_SHARE, which importing would load torch)
_TEST_SHARE = 0.2
_CLASSES = 10
#: components of a joint step (analysis.costs.passes)
_CLASSIFIER = ("image_encoder", "text_encoder", "fusion", "head")
_EXPLAINED = ("explanation", "revision")


def split_sizes(config: Config) -> Sizes:
    """What `genxai.data.splits` makes of the configured data set, without reading it."""
    data = config.data
    first, second = _COMMENTS.get(data.dataset, _FULL if data.source == "full" else _EMBEDDED)
    test = second if data.split == "canonical" and not data.is_text else round((first + second) * _TEST_SHARE)
    rest = first + second - test
    val = max(1, round(rest * data.val_fraction))
    train = rest - val
    val_limit = data.val_limit
    if data.train_limit is not None and data.train_limit < train:
        train = data.train_limit
        val_limit = val_limit or max(1, round(train * data.val_fraction / (1 - data.val_fraction)))
    val = min(val, val_limit or val)
    test = min(test, data.test_limit or test)
    # equally many of each class, so at most this many; a few less where classes are uneven
    return Sizes(train, val, min(data.balanced_val_size, val) // _CLASSES * _CLASSES, test)


def steps(config: Config) -> int:
    """Joint steps of a run that does not stop early."""
    return config.train.epochs * math.ceil(split_sizes(config).train / config.train.batch_size)


def step_key(config: Config) -> str:
    """Equal for configurations whose joint steps cost the same."""
    options = config.model_dump(mode="json")
    model, objective, revise = options["model"], options["objective"], options["revise"]
    for section, free in ((model["image"], ("weights",)), (model["text"], ("pretrained",)), (model, ("dropout",))):
        for name in free:
            section.pop(name)
    model["gan"].pop("ema_decay")
    weights = {name: objective[name] > 0 for name in ("lambda_gp", "lambda_attribution")}
    objective = {name: objective[name] for name in ("n_critic", "bias_descriptor", "bias_conditional")} | weights
    generator = revise["generator_weight"] > 0
    revise = {name: revise[name] for name in ("enabled", "score", "audit_every")} | {"generator": generator}
    train = {name: options["train"][name] for name in ("batch_size", "precision", "optimizer", "generator")}
    train |= {"method": [options["method"][name] for name in ("name", "warmup_epochs")]}
    explain = {name: options["explain"][name] for name in ("fraction", "every")}
    data = [config.data.is_text, config.data.image_size]
    return canonical_json([model, objective, revise if revise["enabled"] else False, train, explain, data])


def run_key(config: Config) -> str:
    """Equal for configurations whose runs cost the same on one device."""
    train = config.train
    scored = train.generator and train.generator_metrics
    generated = [train.generated_samples, train.fid_extractor] if scored else False
    rest: list[Any] = [train.epochs, train.eval_every, train.explain_samples, train.threads, train.backend]
    rest += [train.second_opinion, generated, config.explain.from_epoch if config.explains else 0]
    return canonical_json([step_key(config), rest, str(split_sizes(config))])


# --- how long that takes -------------------------------------------------------------------------


@dataclass(frozen=True)
class RunTime:
    """Seconds of one run on one device, and of one of its steps, all else shared out over them."""

    seconds: float
    step_seconds: float
    #: "measured" on finished runs, or "assumed" from operations
    basis: str
    #: finished runs behind a measured time
    count: int = 0


Measured = Mapping[tuple[str, str], list[float]]


def measured_seconds(runs: Iterable[Run]) -> Measured:
    """Device-seconds of training of the finished runs, by (run key, card).

    A run that was started on several kinds of device, or on several numbers of them, measures nothing.
    """
    cards, found = load_cards(), dict[tuple[str, str], list[float]]()
    for run in runs:
        try:
            if run.state is not State.DONE:
                continue
            seconds, starts = run.result().get("seconds"), read_jsonl(run.provenance_file)
            places = {(str(start.get("device")), start.get("processes", 1)) for start in starts}
            device, processes = places.pop() if len(places) == 1 else ("", 1)
            card = cards.named(device)
            if card is not None and isinstance(seconds, int | float) and seconds > 0:
                found.setdefault((run_key(run.config()), card), []).append(float(seconds) * int(processes))
        except (GenxaiError, AttributeError, TypeError, ValueError):
            continue  # a damaged run is no reason not to estimate
    return found


def step_seconds(cost: StepCost, config: Config, card: Card) -> float:
    """Assumed seconds of a joint step, mean over the run.

    Each pass takes its operations or its kernels, whichever is longer.
    """
    assumed = load_cards().assumptions
    threads = config.train.threads if card.per_thread else 1
    explaining = max(0.0, 1 - config.explain.from_epoch / config.train.epochs)
    again = assumed.float32_passes.get(config.method.name, 0.0)

    def seconds(part: Part, precision: str) -> float:
        speed = card.peak[precision] * TERA * threads * assumed.utilisation[precision]
        return max(part.flops / speed, part.kernels * assumed.kernel_seconds)

    passes = sum(
        seconds(part, part.precision) * (explaining if part.component in _EXPLAINED else 1.0) for part in cost.parts
    )
    passes += again * sum(seconds(part, "fp32") for part in cost.parts if part.component in _CLASSIFIER)
    updates = cost.update_bytes / (card.bandwidth_gb_s * GIGA * threads * assumed.bandwidth_utilisation)
    batches = config.objective.n_critic + 1
    return passes + updates + batches * assumed.kernels_per_batch * assumed.kernel_seconds


def assumed_run(cost: StepCost, config: Config, card: Card) -> RunTime:
    """Assumed seconds of a run to its last epoch: its steps, and float32 forward passes for the evaluations."""
    assumed, sizes, train = load_cards().assumptions, split_sizes(config), config.train
    forward = cost.flops(*_CLASSIFIER, phases=("forward",)) / train.batch_size
    explained = 2 * min(train.explain_samples, sizes.val)  # a map costs about as much as another forward pass
    evaluations = math.ceil(train.epochs / train.eval_every) * (sizes.val + sizes.balanced + explained)
    # test, unbiased, conflict, and pairs; maps of two more splits
    final = sizes.val + sizes.balanced + 5 * sizes.test + 3 * explained
    threads = train.threads if card.per_thread else 1
    speed = card.peak["fp32"] * TERA * threads * assumed.utilisation["fp32"]
    seconds = steps(config) * step_seconds(cost, config, card) + (evaluations + final) * forward / speed
    return RunTime(seconds, seconds / steps(config), "assumed")


def memory_gb(cost: StepCost) -> float:
    """Assumed gigabytes that a run takes on a GPU."""
    assumed: Any = load_cards().assumptions
    return cost.memory_bytes / GIGA * assumed.fragmentation + assumed.context_gb
