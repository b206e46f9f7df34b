"""Counts what a piece of code executes: floating-point operations, kernels, and the bytes of tensors alive at once.

On a GPU the code is run; elsewhere it runs on tensors that have a shape and a type but no content, which takes no time.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

#: kernels per call of these is not one: a `detach` or a question about the device launches nothing
_NO_KERNEL = ("prim::", "aten::detach", "aten::alias", "aten::lift_fresh", "aten::empty", "aten::_unsafe_view")


@dataclass(frozen=True)
class Work:
    """What was executed; `peak_bytes` is the most that was alive at once of what was allocated meanwhile."""

    flops: int
    kernels: int
    peak_bytes: int

    def __sub__(self, part: Work) -> Work:
        """What is left of this work when `part` is taken off; the peak stays that of the whole."""
        return Work(self.flops - part.flops, max(0, self.kernels - part.kernels), self.peak_bytes)


def fft_flops(shape: Sequence[int], dims: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """5 N log2 N per transform of N complex points, the convention of the field (Cooley & Tukey's radix 2).

    A real transform is charged as a complex one: it is what the descriptor's `fft2` of a real image computes.
    """
    points = math.prod(shape[dim] for dim in dims)
    return round(math.prod(shape) / points * 5 * points * math.log2(points))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


#: what torch's counter has no formula for, and would count as nothing
FORMULAS: dict[Any, Any] = {
    aten._fft_r2c: fft_flops,
    aten._fft_c2c: fft_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _NoModules:
    """In the place of the counter's module tracker, whose hooks refuse torch.autograd.grad with respect to a leaf."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _FlopCounter(FlopCounterMode):
    """torch's counter, for the sum over all modules."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        self.mod_tracker: Any = _NoModules()


class _Watch(TorchDispatchMode):
    """Kernels launched, and the bytes of the storages that are alive (tensors made before do not count)."""

    def __init__(self, known: set[Any]) -> None:
        super().__init__()
        self.kernels, self.alive, self.peak = 0, 0, 0
        self._known = known
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        if "attention" in name and func.overloadpacket not in self._known:
            raise NotImplementedError(f"there is no formula for the operations of {name}: add one to FORMULAS")
        self.kernels += not (func.is_view or name.startswith(_NO_KERNEL))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def gone(_: object) -> None:
            del self._storages[key]
            self.alive -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class Meter:
    """`with Meter(device) as meter:` around some code; `lap()` gives the work since the last lap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flops = _FlopCounter()
        self._watch = _Watch(set(self._flops.flop_registry))
        self._before = (0, 0)
        self._allocated = 0

    def __enter__(self) -> Meter:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._allocated = torch.cuda.memory_allocated(self._device)
        self._flops.__enter__()
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)
        self._flops.__exit__(*error)

    def lap(self) -> Work:
        """The work since the start or the last lap; `peak_bytes` is that since the start."""
        counted = (self._flops.get_total_flops(), self._watch.kernels)
        flops, kernels = (now - before for now, before in zip(counted, self._before, strict=True))
        self._before = counted
        return Work(flops, kernels, self.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """The most that was allocated at once since the start, over what was allocated before."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._allocated
        return self._watch.peak


@contextlib.contextmanager
def contentless(device: torch.device) -> Iterator[None]:
    """Tensors made inside have shape, type and storage size but no content, unless the device is a GPU."""
    if device.type == "cuda":
        yield
        return
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
