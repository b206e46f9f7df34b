"""Stateless randomness: every number is a pure function of a seed, a stream's name and counters.

The SplitMix64 finaliser in wrapping int64 arithmetic: identical on every device, nothing to save or restore.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_NON_NEGATIVE = (1 << 63) - 1


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


# Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (Stafford's variant 13)
_WEYL = 0x9E3779B97F4A7C15
_STEPS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) that depends on `seed` and every name (order and type count), by SHA-256."""
    text = json.dumps([seed, *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _NON_NEGATIVE


def hash_bits(seed: int, stream: str, *counters: Tensor | int) -> Tensor:
    """Random int64 in [0, 2**63), one per element of the broadcast counters.

    Counters are integers or integer tensors of any broadcastable shapes on one device; without a tensor the result
    is a scalar on the CPU. Element k depends on (seed, stream, counters[k]) alone, never on its neighbours.
    Raises TypeError for a counter that is not integral.
    """
    state: Tensor = torch.tensor(derive_seed(seed, stream))
    for counter in counters or (0,):
        if isinstance(counter, Tensor):
            if counter.is_floating_point() or counter.is_complex():
                raise TypeError(f"counters are integers, got {counter.dtype}")
            counter = counter.to(torch.int64)
            state = _mix(state + (counter + 1) * _signed(_WEYL))
        else:
            state = _mix(state + _signed((counter + 1) * _WEYL))
    return state & _NON_NEGATIVE


def _mix(state: Tensor) -> Tensor:
    for shift, factor in _STEPS:
        # >> is arithmetic on int64; the mask makes it the logical shift of an unsigned word
        state = (state ^ ((state >> shift) & (_WORD >> shift))) * factor
    return state


def uniform(seed: int, stream: str, *counters: Tensor | int) -> Tensor:
    """Uniform float32 in [0, 1): 24 random bits, one number per element of the broadcast counters."""
    return (hash_bits(seed, stream, *counters) >> 39).to(torch.float32) * 2.0**-24


def normal(seed: int, stream: str, *counters: Tensor | int) -> Tensor:
    """Standard normal float32, one number per element of the broadcast counters, by the Box-Muller transform."""
    radius = uniform(seed, f"{stream}-radius", *counters)
    angle = uniform(seed, f"{stream}-angle", *counters)
    return torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos(2.0 * math.pi * angle)


def integers(seed: int, stream: str, n: int, *counters: Tensor | int) -> Tensor:
    """Uniform int64 in [0, n), one per element of the broadcast counters (bias below n / 2**63)."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return hash_bits(seed, stream, *counters) % n


def permutation(seed: int, stream: str, n: int, *counters: int, device: torch.device | str | None = None) -> Tensor:
    """A random order of 0..n-1, int64 [n]: a pure function of its arguments, the same on every device."""
    keys = hash_bits(seed, stream, *counters, torch.arange(n, device=device))
    return torch.sort(keys, stable=True).indices
