"""Attribution maps and how they are judged: Grad-CAM, Grad-CAM++ and localisation against a known mask.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.explain.cam import grad_cam, grad_cam_plus, grad_cam_plus_plus
    from genxai.explain.localisation import (
        at_half_max,
        iou_xai,
        out_of_mask,
        pointing_game,
        relevance_mass,
        resize_map,
    )
    from genxai.explain.perturbation import noisy, shift_back, shifted
    from genxai.explain.second_opinion import require_second_opinion, second_opinions

_HOME = {
    "at_half_max": "localisation",
    "grad_cam": "cam",
    "grad_cam_plus": "cam",
    "grad_cam_plus_plus": "cam",
    "iou_xai": "localisation",
    "noisy": "perturbation",
    "out_of_mask": "localisation",
    "pointing_game": "localisation",
    "relevance_mass": "localisation",
    "require_second_opinion": "second_opinion",
    "resize_map": "localisation",
    "second_opinions": "second_opinion",
    "shift_back": "perturbation",
    "shifted": "perturbation",
}

__all__ = [
    "at_half_max",
    "grad_cam",
    "grad_cam_plus",
    "grad_cam_plus_plus",
    "iou_xai",
    "noisy",
    "out_of_mask",
    "pointing_game",
    "relevance_mass",
    "require_second_opinion",
    "resize_map",
    "second_opinions",
    "shift_back",
    "shifted",
]

__getattr__ = lazy_exports(__name__, _HOME)
