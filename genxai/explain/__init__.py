"""Attribution maps and how they are judged: Grad-CAM, Grad-CAM++ and localisation against a known mask.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

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

__getattr__ = lazy_exports(__name__, _HOME)
