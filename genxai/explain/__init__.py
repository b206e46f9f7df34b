"""Attribution maps and how they are judged: Grad-CAM, Grad-CAM++ and localisation against a known mask.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genxai.explain.cam import grad_cam, grad_cam_plus, grad_cam_plus_plus
    from genxai.explain.localisation import iou_xai, out_of_mask, pointing_game, resize_map

_HOME = {
    "grad_cam": "cam",
    "grad_cam_plus": "cam",
    "grad_cam_plus_plus": "cam",
    "iou_xai": "localisation",
    "out_of_mask": "localisation",
    "pointing_game": "localisation",
    "resize_map": "localisation",
}

__all__ = [
    "grad_cam",
    "grad_cam_plus",
    "grad_cam_plus_plus",
    "iou_xai",
    "out_of_mask",
    "pointing_game",
    "resize_map",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
