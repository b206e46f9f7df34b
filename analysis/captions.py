"""Captions that say what was run: data set, size, encoders, epochs, and everything that is below the paper's scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.conditions import flatten, matches, setting_of
from analysis.specs import paper_scale
from analysis.verdicts import plain
from genxai.config import Config

RHO = "\N{GREEK SMALL LETTER RHO}"
DATASET_NAMES = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "toxicity-surge": "Surge AI's 1,000 comments (toxic or not)",
    "toxicity-davidson": "Davidson's tweets (toxic or not)",
}

#: said in every caption, so not listed again among the settings that are not the default
_SAID = {
    "data.dataset",
    "data.source",
    "data.split",
    "data.mode",
    "data.rho",
    "model.image.name",
    "model.image.input_size",
    "model.text.name",
    "train.epochs",
}


#: what comments have nothing of
_OF_IMAGES = {"data.source", "model.image.name"}


def describe_setting(config: Config, split_by: Sequence[str], across: Sequence[str] = ()) -> str:
    """`MNIST (complete), ..., background textures, ρ = 0.98, image encoder small_cnn at 28 px, ..., at most 10 epochs`.

    What differs within the table (`across`) is not said.
    """
    data, model = config.data, config.model
    encoder = f"text encoder {_short(model.text.name)}"
    if data.is_text:
        parts = [DATASET_NAMES[data.dataset], encoder]
    else:
        size = "complete" if data.source == "full" else "embedded sample of 3,000 + 1,000 images"
        rho = [] if "data.rho" in across else [f"{RHO} = {plain(data.rho)}"]
        textures = "no textures" if data.mode == "none" else ", ".join([f"{data.mode} textures", *rho])
        encoders = f"image encoder {model.image.name} at {model.image.input_size} px, {encoder}"
        parts = [f"{DATASET_NAMES[data.dataset]} ({size})", f"{data.split} split", textures, encoders]
    parts.append(f"at most {config.train.epochs} epochs")
    default = flatten(Config().model_dump(mode="json", exclude={"origin"}))
    changed = [
        f"{key} = {plain(value)}"
        for key, value in setting_of(config, split_by, across).items()
        if key not in _SAID and value != default[key]
    ]
    return ", ".join(parts + changed)


def _short(name: str) -> str:
    """Recorded results name local weights by their content; twelve digits are enough to tell them apart."""
    return f"of content {name.removeprefix('sha256:')[:12]}" if name.startswith("sha256:") else name


def devices(starts: Iterable[Any]) -> list[str]:
    """What runs were made on, without repetition, by their lines of provenance."""
    return sorted({str(start["device"]) for start in starts if isinstance(start, Mapping) and start.get("device")})


def made_on(starts: Iterable[Any]) -> str:
    """`Made on Intel(R) Xeon(R)`; empty where the runs did not note it."""
    names = devices(starts)
    return f"Made on {', '.join(names)}" if names else ""


def scale_warning(configs: Sequence[Config]) -> str:
    """`NOT THE PAPER'S SCALE: ...`, what any of the configurations lacks; empty if nothing."""
    said: dict[str, None] = {}
    for config in configs:
        flat = flatten(config.model_dump(mode="json", exclude={"origin"}))
        shown = "comments" if config.data.is_text else "images"
        for item in paper_scale():
            if config.data.is_text and item.key in _OF_IMAGES:
                continue
            if not matches(flat[item.key], item.paper):
                said[item.say.format(value=plain(flat[item.key]), shown=shown)] = None
    return f"NOT THE PAPER'S SCALE: {'; '.join(said)}." if said else ""


def caption(*sentences: str) -> str:
    """Sentences that end in one full stop each."""
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)
