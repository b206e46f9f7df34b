"""Weights from a local file, read without unpickling and checked against the network they are meant for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from genxai.errors import GenxaiError, UsageError


def load_weights(network: nn.Module, file: str, *, option: str, optional_prefix: str) -> None:
    """Copy the tensors of a .safetensors or .pth file into a network, by name.

    Names that start with `optional_prefix` may be missing or have other shapes; every other name must be on both
    sides with one shape. `option` names the setting in messages. Raises UsageError for a file that is not there or
    not of these kinds, GenxaiError for one that cannot be read or belongs to another network.
    """
    state = read_state(Path(file).expanduser(), option)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(optional_prefix)}
    expected = {name: t.shape for name, t in network.state_dict().items() if not name.startswith(optional_prefix)}
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    shapes = [name for name in expected if name in state and state[name].shape != expected[name]]
    for what, names in ("lacks", missing), ("has the unknown", unknown), ("has another shape for", shapes):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise GenxaiError(
                f"{option}: {file} {what} {names[0]}{more}; it must hold the weights of a {type(network).__name__} "
                f"like this one ({len(expected)} tensors)"
            )
    network.load_state_dict(state, strict=False)


def read_state(file: Path, option: str) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU."""
    if file.suffix not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"{option}={str(file)!r}: allowed are 'none', 'imagenet', or a .safetensors, .pth or .pt file")
    if not file.is_file():
        raise UsageError(f"{option}: there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GenxaiError(f"{option}: {file} cannot be read as weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise GenxaiError(f"{option}: {file} must hold a flat dictionary of tensors (a state_dict)")
    return state
