"""Counter-based randomness: uniform, independent, stateless, and never to change."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from genxai.data.counter_rng import derive_seed, hash_bits, integers, permutation, uniform

N = 200_000


def test_numbers_never_change():
    # a change here changes every run ever made: do not adapt the numbers, mend the code
    assert derive_seed(0, "a", 1) == 5529970044923743196
    assert hash_bits(0, "x", torch.arange(4)).tolist() == [
        8803958885607471649,
        2535060921266401378,
        3296995385193945805,
        2569098673975195913,
    ]
    assert hash_bits(1, "y", 2, 3).item() == 1466901390104008143
    assert permutation(0, "p", 10).tolist() == [9, 4, 7, 6, 3, 5, 1, 0, 2, 8]
    assert integers(3, "i", 10, torch.arange(8)).tolist() == [5, 9, 7, 2, 3, 8, 6, 1]


def test_one_counter_is_splitmix64_in_unbounded_integers():
    word = (1 << 64) - 1

    def splitmix(counter: int) -> int:
        z = (derive_seed(7, "s") + (counter + 1) * 0x9E3779B97F4A7C15) & word
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return (z ^ (z >> 31)) & (word >> 1)

    counters = [0, 1, 2, 1000, 2**40, 2**63 - 2]
    assert hash_bits(7, "s", torch.tensor(counters)).tolist() == [splitmix(c) for c in counters]
    assert [hash_bits(7, "s", c).item() for c in counters] == [splitmix(c) for c in counters]


def test_bits_are_non_negative_and_do_not_repeat():
    bits = hash_bits(0, "x", torch.arange(N))
    assert bits.min() >= 0 and bits.max() > 2**62
    assert bits.unique().numel() == N


def test_uniform_numbers_are_uniform_in_zero_to_one():
    u = uniform(0, "u", torch.arange(N))
    assert u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    counts = torch.histc(u, bins=1000, min=0, max=1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 3, 10, 97])
def test_integers_are_uniform_below_n(n):
    draws = integers(0, "i", n, torch.arange(N))
    counts = torch.bincount(draws, minlength=n)
    assert len(counts) == n
    assert n == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_integers_need_a_positive_n():
    with pytest.raises(ValueError, match="at least 1"):
        integers(0, "i", 0, 1)


def contingency_p(a: torch.Tensor, b: torch.Tensor) -> float:
    table = torch.bincount((a * 16).long() * 16 + (b * 16).long(), minlength=256).reshape(16, 16)
    return stats.chi2_contingency(table.numpy()).pvalue


def test_streams_seeds_and_counters_are_independent():
    i = torch.arange(N)
    base = uniform(0, "a", i)
    others = {
        "another stream": uniform(0, "b", i),
        "another seed": uniform(1, "a", i),
        "the next counter": uniform(0, "a", i + 1),
        "a further counter": uniform(0, "a", i, 0),
        "another second counter": uniform(0, "a", i, 1),
        "swapped counters": uniform(0, "a", 0, i),
    }
    for name, other in others.items():
        assert not torch.equal(base, other), name
        assert contingency_p(base, other) > 1e-4, name
    assert contingency_p(uniform(0, "a", i, 0), uniform(0, "a", i, 1)) > 1e-4
    assert contingency_p(uniform(0, "a", 3, i), uniform(0, "a", 4, i)) > 1e-4


def test_every_bit_of_a_counter_changes_half_of_the_bits():
    i = torch.arange(4096)
    base = hash_bits(0, "x", i)
    for bit in range(0, 62, 7):
        flipped = base ^ hash_bits(0, "x", i ^ (1 << bit))
        share = sum(((flipped >> k) & 1).double().mean() for k in range(63)) / 63
        assert 0.49 < share < 0.51


def test_an_element_does_not_depend_on_its_neighbours_or_the_layout():
    i = torch.arange(100)
    whole = uniform(0, "u", i, 5)
    assert all(torch.equal(uniform(0, "u", int(k), 5), whole[k]) for k in (0, 17, 99))
    grid = uniform(0, "u", i[:, None], torch.arange(7))
    assert grid.shape == (100, 7) and torch.equal(grid[:, 5], whole)
    assert torch.equal(uniform(0, "u", i.to(torch.int32), 5), whole)


def test_randomness_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    permutation(0, "p", 100)
    uniform(0, "u", torch.arange(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_counters_must_be_integers():
    with pytest.raises(TypeError, match="integers"):
        hash_bits(0, "x", torch.rand(3))


def test_a_permutation_holds_everything_once_and_depends_on_its_counters():
    order = permutation(0, "p", 1000, 3)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, permutation(0, "p", 1000, 3))
    assert not torch.equal(order, permutation(0, "p", 1000, 4))


def test_all_permutations_are_equally_likely():
    counts: dict[tuple[int, ...], int] = {}
    for k in range(6000):
        order = tuple(permutation(0, "p", 3, k).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_derived_seeds_tell_names_apart():
    seeds = {derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "a", "b"), derive_seed(0, "ab")}
    seeds |= {derive_seed(0, "1"), derive_seed(0, 1), derive_seed(0, "b", "a")}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_numbers():
    i = torch.arange(10_000)
    assert torch.equal(hash_bits(0, "x", i), hash_bits(0, "x", i.cuda()).cpu())
    assert torch.equal(permutation(0, "p", 999), permutation(0, "p", 999, device="cuda").cpu())
