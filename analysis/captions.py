"""Captions that say what was run: data set, size, encoders, epochs, and everything that is below the paper's scale."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.results import flatten, matches, setting
from analysis.specs import paper_scale
from analysis.verdicts import plain
from genxai.config import Config

RHO = "\N{GREEK SMALL LETTER RHO}"
DATASET_NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}

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


def describe_setting(config: Config, split_by: Sequence[str]) -> str:
    """`MNIST (complete), pooled split, ρ = 0.98, background textures; small_cnn at 28 px + small text, 10 epochs`."""
    data, model = config.data, config.model
    size = "complete" if data.source == "full" else "embedded sample of 3,000 + 1,000 images"
    textures = "no textures" if data.mode == "none" else f"{data.mode} textures, {RHO} = {plain(data.rho)}"
    encoders = f"image encoder {model.image.name} at {model.image.input_size} px, text encoder {model.text.name}"
    parts = [
        f"{DATASET_NAMES.get(data.dataset, data.dataset)} ({size})",
        f"{data.split} split",
        textures,
        encoders,
        f"at most {config.train.epochs} epochs",
    ]
    default = flatten(Config().model_dump(mode="json", exclude={"origin"}))
    changed = [
        f"{key} = {plain(value)}"
        for key, value in setting(config, split_by).items()
        if key not in _SAID and value != default[key]
    ]
    return ", ".join(parts + changed)


def scale_warning(configs: Sequence[Config]) -> str:
    """`NOT THE PAPER'S SCALE: ...`, what any of the configurations lacks; empty if nothing."""
    said: dict[str, None] = {}
    for config in configs:
        flat = flatten(config.model_dump(mode="json", exclude={"origin"}))
        for item in paper_scale():
            if not matches(flat[item.key], item.paper):
                said[item.say.format(value=plain(flat[item.key]))] = None
    return f"NOT THE PAPER'S SCALE: {'; '.join(said)}." if said else ""


def caption(*sentences: str) -> str:
    """Sentences that end in one full stop each."""
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)
