"""Captions: their words, their templates, every variant once, and the accuracy that text alone can reach.

Free of torch; `genxai.data.caption_bank` draws captions for samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genxai.config import CaptionConfig, DataConfig
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES, aligned_texture

#: the class words of each data set, by label
CLASS_NAMES = {
    "mnist": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "fashion-mnist": (
        *("t-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
}
#: what a caption says for each class, by label
EXACT = {
    "mnist": tuple(f"the digit {word}" for word in CLASS_NAMES["mnist"]),
    "fashion-mnist": tuple(
        word if word == "trousers" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
        for word in CLASS_NAMES["fashion-mnist"]
    ),
}
#: what a caption says for a super-class, and which classes it covers; together they cover each class once
SUPERCLASSES: dict[str, dict[str, tuple[int, ...]]] = {
    "mnist": {"a round digit": (0, 6, 8, 9), "a straight digit": (1, 4, 7), "a curved digit": (2, 3, 5)},
    "fashion-mnist": {
        "a garment for the upper body": (0, 2, 4, 6),
        "a garment for the legs or the whole body": (1, 3),
        "a piece of footwear": (5, 7, 9),
        "an accessory": (8,),
    },
}
GENERIC = {"mnist": "a digit", "fashion-mnist": "a fashion item"}

#: the words for texture a: orientation a % 5, width a // 5, as in genxai.data.textures
TEXTURE_NAMES = tuple(
    f"{width} {orientation} stripes"
    for width in ("broad", "fine")
    for orientation in ("upright", "slanted", "sloping", "tilted", "leaning")
)

#: the paraphrases of training and validation, and those of every test split; none is in both, and the test
#: paraphrases use no word that training does not, so that they test the reading of sentences and not of new words
TEMPLATES = {
    "train": (
        "a picture of {what}",
        "this is {what}",
        "a small image of {what}",
        "here you see {what}",
        "{what}, in grey",
        "we can see {what}",
        "a grey picture that shows {what}",
        "this image shows {what}",
        "you are looking at {what}",
        "the picture has {what} in it",
    ),
    "test": (
        "this small image shows {what}",
        "the picture shows {what}",
        "a small picture that shows {what}",
        "this grey image has {what} in it",
        "here is {what}",
        "you can see {what} in the picture",
        "{what}, in a small grey image",
        "looking at this, you see {what}",
        "this is a grey picture of {what}",
        "the image you are looking at has {what}",
    ),
}


def contents(dataset: str) -> tuple[str, ...]:
    """What a caption can say about the class: 10 exact phrases, the super-classes, the generic phrase."""
    return (*EXACT[dataset], *SUPERCLASSES[dataset], GENERIC[dataset])


def superclass_of(dataset: str) -> tuple[int, ...]:
    """The super-class of each label, as its place in SUPERCLASSES."""
    groups = list(SUPERCLASSES[dataset].values())
    return tuple(next(i for i, members in enumerate(groups) if y in members) for y in range(NUM_CLASSES))


def variants(dataset: str, templates: str) -> list[str]:
    """Every caption of the "train" or "test" templates once.

    Caption (template, content, texture) is number (template * len(contents) + content) * 11 + texture, where texture
    is 0 for no texture word and a + 1 for texture a. The last one is the empty caption of a missing modality.
    """
    textures = ("", *(f" with {name}" for name in TEXTURE_NAMES))
    sentences = [
        template.format(what=content + texture)
        for template in TEMPLATES[templates]
        for content in contents(dataset)
        for texture in textures
    ]
    return [*sentences, ""]


def captions_in_use(data: DataConfig) -> CaptionConfig:
    """The caption options as the samples of a configuration follow them.

    They are those of the configuration, except that mode "none" has no texture a caption could name (q_a = 0).
    """
    return data.captions.model_copy(update={"texture": 0.0}) if data.mode == "none" else data.captions


def text_bayes_accuracy(
    captions: CaptionConfig,
    dataset: str,
    rho: float,
    *,
    test_rho: float | None = None,
    prior: Sequence[float] | None = None,
) -> float:
    """Accuracy in [0, 1] of the best classifier that sees the caption alone, in closed form.

    The classifier knows the process of training (texture aligned with probability rho) and is tested on captions in
    which it is aligned with probability test_rho (default: rho; 0.1 for the unbiased split, 0 for conflict):

        sum_o sum_y P_test(y, o) [y in argmax_y' P_train(y', o)] / |argmax|

    over the finite set of observations o = (content, texture word) or no caption; templates tell nothing. Classes
    that are equally likely, or that an observation impossible in training says nothing about, are guessed among.
    prior: P(y), 10 numbers (default: uniform). Without texture words, with a uniform prior and eta <= 0.9, this is
    (1 - m) (q_c (1 - eta) + q_s n_super / 10 + (1 - q_c - q_s) / 10) + m / 10.
    Raises ValueError for a prior that is not a distribution over ten classes, or a rho outside [0, 1].
    """
    test_rho = rho if test_rho is None else test_rho
    if not (0.0 <= rho <= 1.0 and 0.0 <= test_rho <= 1.0):
        raise ValueError(f"rho and test_rho are probabilities, got {rho} and {test_rho}")
    weights = np.full(NUM_CLASSES, 1 / NUM_CLASSES) if prior is None else np.asarray(prior, dtype=np.float64)
    if weights.shape != (NUM_CLASSES,) or (weights < 0).any() or not np.isclose(weights.sum(), 1.0):
        raise ValueError(f"prior must be {NUM_CLASSES} probabilities that sum to 1, got {prior}")
    believed = weights[:, None] * _observations(captions, dataset, rho)
    actual = weights[:, None] * _observations(captions, dataset, test_rho)
    best = believed >= believed.max(axis=0) * (1 - 1e-12)  # rounding must not break ties
    return float((actual * best / best.sum(axis=0)).sum())


def _observations(captions: CaptionConfig, dataset: str, rho: float) -> np.ndarray:
    """P(o | y), float64 [10, number of observations]."""
    same = np.eye(NUM_CLASSES)
    flipped = (1 - same) / (NUM_CLASSES - 1)
    groups = superclass_of(dataset)
    content = np.hstack(
        [
            captions.exact * ((1 - captions.flip) * same + captions.flip * flipped),
            captions.superclass * np.eye(max(groups) + 1)[list(groups)],
            np.full((NUM_CLASSES, 1), 1 - captions.exact - captions.superclass),
        ]
    ).clip(min=0.0)
    aligned = np.eye(NUM_TEXTURES)[aligned_texture(np.arange(NUM_CLASSES))]
    textures = rho * aligned + (1 - rho) * (1 - aligned) / (NUM_TEXTURES - 1)
    texture = np.hstack([np.full((NUM_CLASSES, 1), 1 - captions.texture), captions.texture * textures])
    present = (content[:, :, None] * texture[:, None, :]).reshape(NUM_CLASSES, -1)
    return np.hstack([(1 - captions.missing) * present, np.full((NUM_CLASSES, 1), captions.missing)])
