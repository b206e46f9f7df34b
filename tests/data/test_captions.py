"""Captions: what they say and how often, no leak between training and test, and what text alone can reach."""

from __future__ import annotations

import collections
import re
import string

import numpy as np
import pytest
import torch
from scipy import stats

from genxai.config import CaptionConfig, DataConfig, TextEncoderConfig
from genxai.configfile import load_config
from genxai.data.caption_bank import CaptionBank, caption_bank
from genxai.data.captions import (
    CLASS_NAMES,
    EXACT,
    GENERIC,
    SUPERCLASSES,
    TEMPLATES,
    TEXTURE_NAMES,
    captions_in_use,
    contents,
    text_bayes_accuracy,
    variants,
)

DATASETS = ("mnist", "fashion-mnist")
PI = [(7 * y + 3) % 10 for y in range(10)]


def captions(**options: float) -> CaptionConfig:
    quiet = {"exact": 0.0, "superclass": 0.0, "texture": 0.0, "flip": 0.0, "missing": 0.0}
    return CaptionConfig.model_validate({**quiet, **options})


def words(text: str) -> list[str]:
    return "".join(char if char not in string.punctuation else " " for char in text.lower()).split()


# --- words and templates ----------------------------------------------------------------------------


def test_there_are_at_least_eight_paraphrases_each_and_no_test_paraphrase_leaks_into_training():
    def normal(template: str) -> tuple[str, ...]:
        return tuple(word for word in words(template) if word not in {"a", "an", "the"})

    for kind in ("train", "test"):
        assert len({normal(template) for template in TEMPLATES[kind]}) == len(TEMPLATES[kind]) >= 8
    assert not {normal(t) for t in TEMPLATES["train"]} & {normal(t) for t in TEMPLATES["test"]}


@pytest.mark.parametrize("dataset", DATASETS)
def test_test_captions_share_no_sentence_and_no_new_word_with_training(dataset):
    train, test = variants(dataset, "train")[:-1], variants(dataset, "test")[:-1]
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert not {" ".join(words(text)) for text in train} & {" ".join(words(text)) for text in test}
    assert {word for text in test for word in words(text)} <= {word for text in train for word in words(text)}


@pytest.mark.parametrize("dataset", DATASETS)
def test_superclasses_cover_each_class_once(dataset):
    assert sorted(y for members in SUPERCLASSES[dataset].values() for y in members) == list(range(10))


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_sentence_says_one_thing_about_the_class_and_templates_say_nothing(dataset):
    told = set(contents(dataset))
    assert len(told) == 10 + len(SUPERCLASSES[dataset]) + 1 and len(set(TEXTURE_NAMES)) == 10
    telling = {word for phrase in (*EXACT[dataset], *SUPERCLASSES[dataset]) for word in words(phrase)}
    telling -= set(words(GENERIC[dataset])) | {"the", "a", "an", "of", "or", "for"}
    used = {word for kind in TEMPLATES.values() for template in kind for word in words(template)}
    assert not used & telling


# --- the sampler ------------------------------------------------------------------------------------


def bank(dataset: str, kind: str = "train") -> CaptionBank:
    return caption_bank(TextEncoderConfig(), dataset, kind, torch.device("cpu"))


def drawn(config: CaptionConfig, dataset: str, rho: float, count: int, stream: str = "s"):
    """Labels, textures and (content, texture word) of many captions, content -1 for a missing one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=generator)
    other = torch.randint(1, 10, (count,), generator=generator)
    shift = torch.where(torch.rand(count, generator=generator) < rho, 0, other)
    textures = (torch.tensor(PI)[labels] + shift) % 10
    number = bank(dataset).draw(config, labels, textures, seed=0, stream=stream, counters=torch.arange(count))
    return labels, textures, number


def parse(text: str, dataset: str) -> tuple[int, int]:
    """(content, texture + 1) of a sentence, read from its words alone; (-1, 0) for an empty one."""
    if not text:
        return -1, 0
    texture = next((a + 1 for a, name in enumerate(TEXTURE_NAMES) if name in text), 0)
    phrases = contents(dataset)
    said = [k for k, phrase in enumerate(phrases) if re.search(rf"\b{re.escape(phrase)}\b", text)]
    return max(said, key=lambda k: len(phrases[k])), texture


@pytest.mark.parametrize("dataset", DATASETS)
def test_captions_say_what_the_options_ask_for(dataset):
    count = 40_000
    config = captions(exact=0.4, superclass=0.35, texture=0.3, flip=0.2, missing=0.1)
    labels, textures, number = drawn(config, dataset, 0.5, count)
    groups = list(SUPERCLASSES[dataset].values())
    texts = bank(dataset).texts
    seen: collections.Counter[str] = collections.Counter()
    wrong_by: collections.Counter[int] = collections.Counter()
    meaning = [parse(text, dataset) for text in texts]
    for y, a, k in zip(labels.tolist(), textures.tolist(), number.tolist(), strict=True):
        content, texture = meaning[k]
        assert texture in (0, a + 1)  # a texture word is never wrong
        seen["texture"] += texture > 0
        if content < 0:
            seen["missing"] += 1
        elif content < 10:
            seen["exact" if content == y else "flipped"] += 1
            wrong_by[(content - y) % 10] += content != y
        elif content < 10 + len(groups):
            seen["superclass"] += 1
            assert y in groups[content - 10]
        else:
            seen["generic"] += 1
    expected = {"missing": 0.1, "exact": 0.9 * 0.32, "flipped": 0.9 * 0.08, "superclass": 0.9 * 0.35}
    expected |= {"generic": 0.9 * 0.25, "texture": 0.9 * 0.3}
    for kind, share in expected.items():
        assert seen[kind] / count == pytest.approx(share, abs=4.5 * (share * (1 - share) / count) ** 0.5), kind
    assert stats.chisquare([wrong_by[d] for d in range(1, 10)]).pvalue > 1e-3  # uniform over the other nine


def test_paraphrases_are_used_equally_often():
    _, _, number = drawn(captions(exact=0.5, texture=0.5), "mnist", 0.5, 50_000)
    per_template = (len(variants("mnist", "train")) - 1) // len(TEMPLATES["train"])
    counts = torch.bincount(number // per_template, minlength=10)
    assert len(counts) == 10 and stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_certain_options_are_certain():
    labels, textures, number = drawn(captions(exact=1.0, texture=1.0), "mnist", 0.5, 5000)
    meaning = [parse(text, "mnist") for text in bank("mnist").texts]
    told = zip(labels.tolist(), textures.tolist(), number.tolist(), strict=True)
    assert all(meaning[k] == (y, a + 1) for y, a, k in told)
    _, _, number = drawn(captions(exact=1.0, missing=1.0), "mnist", 0.5, 1000)
    assert all(bank("mnist").texts[k] == "" for k in number)


def test_a_caption_depends_on_its_own_sample_alone():
    config = CaptionConfig()
    labels, textures, number = drawn(config, "mnist", 0.9, 100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    again = bank("mnist").draw(config, labels[order], textures[order], seed=0, stream="s", counters=order)
    assert torch.equal(again, number[order])
    assert not torch.equal(drawn(config, "mnist", 0.9, 100, "other")[2], number)


# --- text Bayes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("exact, superclass", [(0.5, 0.3), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.25, 0.75)])
@pytest.mark.parametrize("flip, missing", [(0.0, 0.0), (0.05, 0.0), (0.2, 0.3), (0.9, 0.1)])
def test_without_texture_words_it_is_the_simple_formula(dataset, exact, superclass, flip, missing):
    config = captions(exact=exact, superclass=superclass, flip=flip, missing=missing)
    told = exact * (1 - flip) + superclass * len(SUPERCLASSES[dataset]) / 10 + (1 - exact - superclass) / 10
    expected = (1 - missing) * told + missing / 10
    for rho in (0.0, 0.1, 0.98, 1.0):
        assert text_bayes_accuracy(config, dataset, rho) == pytest.approx(expected, abs=1e-12)


def test_the_papers_text_accuracy_is_reached_by_the_paper_like_captions():
    # science.md: q_c = .95, eta = .07 -> .888
    data = load_config("paper-like").data
    assert text_bayes_accuracy(data.captions, data.dataset, data.rho) == pytest.approx(0.95 * 0.93 + 0.05 / 10)


def test_cases_by_hand():
    texture_only = captions(texture=1.0)
    assert text_bayes_accuracy(texture_only, "mnist", 1.0) == pytest.approx(1.0)
    assert text_bayes_accuracy(texture_only, "mnist", 0.98) == pytest.approx(0.98)
    assert text_bayes_accuracy(texture_only, "mnist", 0.1) == pytest.approx(0.1)
    # never aligned: a texture excludes one class, the other nine stay equally likely
    assert text_bayes_accuracy(texture_only, "mnist", 0.0) == pytest.approx(1 / 9)
    # whoever learned to trust the texture is right one time in ten without, never in conflict
    assert text_bayes_accuracy(texture_only, "mnist", 0.98, test_rho=0.1) == pytest.approx(0.1)
    assert text_bayes_accuracy(texture_only, "mnist", 0.98, test_rho=0.0) == pytest.approx(0.0)
    # half the captions name the class for sure, the other half only a texture
    half = captions(exact=0.5, texture=1.0)
    assert text_bayes_accuracy(half, "mnist", 0.9) == pytest.approx(0.5 + 0.5 * 0.9)
    assert text_bayes_accuracy(half, "mnist", 0.9, test_rho=0.1) == pytest.approx(0.5 + 0.5 * 0.1)
    # an aligned texture (.98) is trusted over a word that may be wrong (.6)
    doubtful = captions(exact=1.0, flip=0.4, texture=1.0)
    assert text_bayes_accuracy(doubtful, "mnist", 0.98, test_rho=0.0) < 0.1
    # a flip nearly always: the word excludes its class
    assert text_bayes_accuracy(captions(exact=1.0, flip=1.0), "mnist", 0.5) == pytest.approx(1 / 9)


def test_a_prior_counts():
    prior = [0.55] + [0.05] * 9
    assert text_bayes_accuracy(captions(), "mnist", 0.5, prior=prior) == pytest.approx(0.55)
    # "round": 0, 6, 8, 9; "straight": 1, 4, 7; "curved": 2, 3, 5
    config = captions(superclass=1.0)
    assert text_bayes_accuracy(config, "mnist", 0.5, prior=prior) == pytest.approx(0.55 + 0.05 + 0.05)


@pytest.mark.parametrize("bad", [[0.5, 0.5], [0.2] * 10, [1.1, -0.1] + [0.0] * 8])
def test_a_prior_must_be_a_distribution(bad):
    with pytest.raises(ValueError, match="prior"):
        text_bayes_accuracy(captions(), "mnist", 0.5, prior=bad)
    with pytest.raises(ValueError, match="probabilities"):
        text_bayes_accuracy(captions(), "mnist", 1.5)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("rho, test_rho", [(0.6, 0.6), (0.98, 0.1), (0.9, 0.0)])
def test_it_is_the_accuracy_of_counting_on_captions_of_the_real_sampler(dataset, rho, test_rho):
    config = captions(exact=0.4, superclass=0.3, texture=0.5, flip=0.3, missing=0.1)
    meaning = [parse(text, dataset) for text in bank(dataset).texts]
    observations = {seen: k for k, seen in enumerate(sorted(set(meaning)))}
    code = torch.tensor([observations[seen] for seen in meaning])

    labels, _, number = drawn(config, dataset, rho, 400_000, "learn")
    counts = np.bincount(code[number] * 10 + labels, minlength=10 * len(observations)).reshape(-1, 10)
    guess = torch.tensor(counts.argmax(axis=1))
    labels, _, number = drawn(config, dataset, test_rho, 100_000, "judge")
    measured = (guess[code[number]] == labels).double().mean().item()
    assert measured == pytest.approx(text_bayes_accuracy(config, dataset, rho, test_rho=test_rho), abs=0.006)


def test_mode_none_has_no_texture_to_name():
    assert captions_in_use(DataConfig(mode="none")).texture == 0.0
    assert captions_in_use(DataConfig(mode="patch")) == DataConfig().captions


def test_class_names_are_ten_different_words():
    assert all(len(set(names)) == 10 for names in CLASS_NAMES.values())
