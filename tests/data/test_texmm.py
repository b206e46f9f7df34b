"""TexMM as its docstring promises: factors, splits, purity, captions, sizes, speed."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time

import pytest
import torch
from scipy import stats

from genxai.config import Config
from genxai.data import Sample, TexMM
from genxai.data.captions import TEXTURE_NAMES, variants
from genxai.data.supply import TEXMM
from genxai.data.textures import compose
from genxai.errors import UsageError

PI = torch.tensor([(7 * y + 3) % 10 for y in range(10)])
MODES = ("background", "overlay", "patch", "none")


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Sample))


@pytest.mark.parametrize("split", TEXMM.every)
@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_a_batch_has_the_stated_shapes_types_and_ranges(embedded, dataset, split):
    data = TexMM(embedded(dataset=dataset), split)
    s = data.batch(torch.arange(5))
    assert s.images.shape == (5, 1, 28, 28) and s.images.dtype == torch.float32
    assert s.images.min() >= 0 and s.images.max() <= 1
    assert s.masks.shape == (5, 1, 28, 28) and s.masks.dtype == torch.bool
    assert s.tokens.shape == s.token_mask.shape == (5, 24)
    assert s.tokens.dtype == torch.int64 and s.token_mask.dtype == torch.bool
    assert s.labels.dtype == s.textures.dtype == s.indices.dtype == torch.int64 and s.aligned.dtype == torch.bool
    assert torch.equal(s.labels, data.labels[:5]) and torch.equal(s.textures, data.textures[:5])
    assert torch.equal(s.aligned, data.aligned[:5]) and torch.equal(s.aligned, s.textures == PI[s.labels])
    assert data.num_classes == 10 and len(data.class_names) == 10 and s.tokens.max() < data.vocab_size
    assert len(data) == len(data.labels) == len(data.textures) == len(data.aligned)


def test_sizes_of_the_splits(embedded):
    sizes = {split: len(TexMM(embedded(), split)) for split in TEXMM.every}
    assert sizes["test"] == sizes["test_unbiased"] == sizes["test_conflict"] == 800
    assert sizes["test_counterfactual"] == 1600
    assert sizes["train"] == 2880 and sizes["val"] == 320 and 100 <= sizes["val_balanced"] <= 320
    assert len(TexMM(embedded(split="canonical"), "test")) == 1000


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [28, 40])
def test_a_sample_is_the_same_alone_in_any_batch_and_in_another_object(embedded, mode, size):
    config = embedded(mode=mode, image_size=size)
    data = TexMM(config, "train")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    whole = data.batch(order[:257])
    for k in (0, 1, 100, 256):
        alone = data.batch([int(order[k])])
        for field in dataclasses.fields(Sample):
            assert torch.equal(getattr(alone, field.name)[0], getattr(whole, field.name)[k]), field.name
    assert same(TexMM(config, "train").batch(order[:257]), whole)


def test_a_sample_depends_on_the_seed_and_the_split(embedded):
    a, b = TexMM(embedded(0), "train").batch(range(50)), TexMM(embedded(1), "train").batch(range(50))
    assert not torch.equal(a.images, b.images) and not torch.equal(a.textures, b.textures)
    # the same image in two splits has another phase
    val = TexMM(embedded(rho=1.0), "val")
    assert not torch.equal(val._phase[:10], TexMM(embedded(rho=1.0), "train")._phase[:10])


def test_samples_never_change(embedded):
    # a change here changes every run: raise sources.BENCHMARK_VERSION with it
    digest = hashlib.sha256()
    for split in TEXMM.every:
        s = TexMM(embedded(), split).batch(range(0, 100, 7))
        digest.update((s.images * 255).round().to(torch.uint8).numpy().tobytes())
        for values in (s.labels, s.textures, s.masks, s.tokens):
            digest.update(values.numpy().tobytes())
    assert digest.hexdigest()[:16] == "399ded46772ef4bc"


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.98, 1.0])
def test_the_texture_is_aligned_with_probability_rho_and_the_others_share_the_rest(embedded, rho):
    data = [TexMM(embedded(seed, rho=rho), split) for seed in range(4) for split in ("train", "val", "test")]
    aligned = torch.cat([d.aligned for d in data])
    count = len(aligned)
    assert count == 16_000
    assert aligned.double().mean().item() == pytest.approx(rho, abs=4.5 * (rho * (1 - rho) / count) ** 0.5)
    if rho < 1:
        shift = torch.cat([(d.textures - PI[d.labels]) % 10 for d in data])
        others = torch.bincount(shift[shift > 0], minlength=10)[1:]
        assert stats.chisquare(others.numpy()).pvalue > 1e-3


def test_rho_of_a_tenth_is_independence(embedded):
    data = [TexMM(embedded(seed, rho=0.1), "train") for seed in range(5)]
    table = sum(torch.bincount(d.labels * 10 + d.textures, minlength=100) for d in data).reshape(10, 10)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3


def test_the_unbiased_test_has_independent_uniform_textures_on_the_test_images(embedded):
    data = [TexMM(embedded(seed, split="canonical"), "test_unbiased") for seed in range(8)]
    table = sum(torch.bincount(d.labels * 10 + d.textures, minlength=100) for d in data).reshape(10, 10)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3
    assert stats.chisquare(table.sum(dim=0).numpy()).pvalue > 1e-3


def test_the_conflict_test_never_aligns_and_uses_the_other_nine_equally(embedded):
    data = [TexMM(embedded(seed), "test_conflict") for seed in range(8)]
    assert not any(d.aligned.any() for d in data)
    shift = torch.cat([(d.textures - PI[d.labels]) % 10 for d in data])
    assert stats.chisquare(torch.bincount(shift, minlength=10)[1:].numpy()).pvalue > 1e-3


def test_every_test_split_shows_the_same_images(embedded):
    base = TexMM(embedded(mode="none"), "test").batch(range(200)).images
    for split in ("test_unbiased", "test_conflict"):
        assert torch.equal(TexMM(embedded(mode="none"), split).batch(range(200)).images, base)
    pairs = TexMM(embedded(mode="none"), "test_counterfactual").batch(range(400)).images
    assert torch.equal(pairs[0::2], base) and torch.equal(pairs[1::2], base)


@pytest.mark.parametrize("mode", ["background", "overlay", "patch"])
def test_counterfactual_pairs_differ_in_the_texture_alone(embedded, mode):
    data = TexMM(embedded(mode=mode), "test_counterfactual")
    s = data.batch(torch.arange(len(data)))
    assert s.aligned[0::2].all() and not s.aligned[1::2].any()
    for name in ("labels", "masks", "tokens", "token_mask"):
        assert torch.equal(getattr(s, name)[0::2], getattr(s, name)[1::2])
    assert torch.equal(s.textures[1::2], TexMM(embedded(mode=mode), "test_conflict").textures)
    # swapping the texture by hand turns the first of a pair into the second: same digit, phase, jitter, corner
    images = TexMM(embedded(mode="none"), "test").batch(torch.arange(len(data) // 2))
    swapped, _ = compose(
        images.images,
        images.masks,
        s.textures[1::2],
        data._phase[0::2],
        data._jitter[0::2],
        data._corner[0::2],
        mode=mode,
        amplitude=0.5,
    )
    assert torch.equal(swapped, s.images[1::2])
    assert (s.images[0::2] != s.images[1::2]).flatten(1).any(dim=1).all()
    captions = data.captions(range(len(data)))
    assert not any(name in text for text in captions for name in TEXTURE_NAMES)


def test_background_shows_the_untouched_object_inside_the_mask(embedded):
    textured, clean = TexMM(embedded(), "train").batch(range(300)), TexMM(embedded(mode="none"), "train")
    clean = clean.batch(range(300))
    assert torch.equal(textured.masks, clean.masks)
    assert torch.equal(textured.images[textured.masks], clean.images[clean.masks])
    assert (textured.images[~textured.masks] - clean.images[~clean.masks]).mean() > 0.1


def test_clean_images_are_the_files_pixels(embedded):
    from genxai.data.sources import load_arrays

    data = TexMM(embedded(mode="none", split="canonical"), "test")
    arrays = load_arrays("mnist", "embedded")
    s = data.batch(range(1000))
    assert torch.equal((s.images[:, 0] * 255).round().to(torch.uint8), torch.tensor(arrays.test_images))
    assert torch.equal(s.labels, torch.tensor(arrays.test_labels).long())
    assert torch.equal(s.masks[:, 0], torch.tensor(arrays.test_images / 255 > 0.25))


def test_mode_none_shows_and_names_no_texture_but_keeps_the_same_splits(embedded):
    none, background = TexMM(embedded(mode="none"), "train"), TexMM(embedded(), "train")
    assert torch.equal(none.labels, background.labels) and torch.equal(none.textures, background.textures)
    assert not any(name in text for text in none.captions(range(500)) for name in TEXTURE_NAMES)
    assert any(name in text for text in background.captions(range(500)) for name in TEXTURE_NAMES)


def test_larger_pictures_look_alike(embedded):
    small, large = TexMM(embedded(), "test").batch(range(20)), TexMM(embedded(image_size=84), "test").batch(range(20))
    assert large.images.shape == large.masks.shape == (20, 1, 84, 84)
    centres = large.images[:, :, 1::3, 1::3]  # the pixels at the centres of the small picture's
    assert torch.allclose(centres, small.images, atol=1e-4)
    assert torch.equal(large.masks[:, :, 1::3, 1::3], small.masks)


# --- captions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", TEXMM.every)
def test_test_splits_use_test_paraphrases_and_the_others_training_ones(embedded, split):
    kind = "test" if split.startswith("test") else "train"
    data = TexMM(embedded(), split)
    assert set(data.captions(range(min(200, len(data))))) <= set(variants("mnist", kind))


def test_tokens_are_those_of_the_caption_and_a_missing_one_is_empty(embedded):
    from genxai.data.tokens import load_tokenizer

    config = embedded(captions={"missing": 0.5})
    data = TexMM(config, "train")
    s, texts = data.batch(range(100)), data.captions(range(100))
    tokens, mask = load_tokenizer(config.model.text).encode(texts)
    assert torch.equal(s.tokens, tokens) and torch.equal(s.token_mask, mask)
    assert 30 < texts.count("") < 70 and s.token_mask.sum(dim=1).min() == 2


def test_generated_samples_get_captions_by_their_own_labels(embedded):
    data = TexMM(embedded(captions={"exact": 1, "superclass": 0, "flip": 0, "texture": 1}), "test")
    labels, textures = torch.arange(50) % 10, torch.arange(50) // 5
    tokens, _ = data.caption_tokens(labels, textures, torch.arange(50), "gan")
    again, _ = data.caption_tokens(labels.flip(0), textures.flip(0), torch.arange(50).flip(0), "gan")
    assert torch.equal(tokens, again.flip(0))
    assert not torch.equal(tokens, data.caption_tokens(labels, textures, torch.arange(50), "other")[0])
    known = {
        tuple(row.tolist()): text for row, text in zip(data._train_bank.tokens, data._train_bank.texts, strict=True)
    }
    for row, y, a in zip(tokens.tolist(), labels.tolist(), textures.tolist(), strict=True):
        text = known[tuple(row)]
        assert f"the digit {data.class_names[y]}" in text and TEXTURE_NAMES[a] in text


# --- everything else --------------------------------------------------------------------------------


def test_splits_share_the_images_on_the_device(embedded):
    a, b = TexMM(embedded(), "train"), TexMM(embedded(3, rho=0.5, image_size=56), "test_conflict")
    assert a._store is b._store and a._store.images.dtype == torch.uint8


def test_composing_leaves_the_global_generator_alone_and_needs_no_gradient(embedded):
    state = torch.get_rng_state()
    s = TexMM(embedded(), "train").batch([0])
    assert torch.equal(torch.get_rng_state(), state) and not s.images.requires_grad


def test_an_unknown_split_is_named(embedded):
    with pytest.raises(UsageError, match=r"'tset'.*test_counterfactual"):
        TexMM(embedded(), "tset")


def test_a_place_beyond_the_split_is_an_error(embedded):
    with pytest.raises(IndexError):
        TexMM(embedded(), "val").batch([10_000])


def test_captions_too_long_for_the_model_are_named_at_the_start(embedded):
    config = Config.model_validate({**embedded().model_dump(), "model": {"text": {"max_tokens": 8}}})
    with pytest.raises(UsageError, match=r"max_tokens: the caption '.*stripes.*'"):
        TexMM(config, "train")


def test_provenance_says_where_the_images_came_from(embedded):
    origin = TexMM(embedded(), "train").provenance
    assert origin["fingerprint"].startswith("mnist-embedded") and len(origin["sha256"]) == 4


def test_the_full_data_makes_the_papers_splits(full):
    dataset, _ = full
    config = Config.model_validate({"data": {"dataset": dataset}})
    assert [len(TexMM(config, split)) for split in ("train", "val", "val_balanced", "test")] == [
        50400,
        5600,
        1000,
        14000,
    ]


def test_a_batch_of_64_takes_less_than_two_milliseconds(embedded):
    data = TexMM(embedded(), "train")
    batches = torch.randint(len(data), (200, 64), generator=torch.Generator().manual_seed(0))
    seconds = []
    for indices in batches:
        start = time.perf_counter()
        data.batch(indices)
        seconds.append(time.perf_counter() - start)
    # the quickest quarter: what the work costs when nothing else runs on the machine
    assert statistics.quantiles(seconds, n=4)[0] < 2e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_composes_the_same_bits_without_waiting(embedded, mode):
    config = embedded(mode=mode, image_size=40)
    gpu, cpu = TexMM(config, "train", "cuda"), TexMM(config, "train")
    indices = torch.arange(64, device="cuda")
    gpu.batch(indices)
    torch.cuda.set_sync_debug_mode("error")
    try:
        s = gpu.batch(indices)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    moved = Sample(**{f.name: getattr(s, f.name).cpu() for f in dataclasses.fields(Sample)})
    assert same(moved, cpu.batch(indices.cpu()))
