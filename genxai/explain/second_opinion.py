"""Maps of another implementation, pytorch-grad-cam, for the same classifier: a check of ours, after training only.

It works through numpy, on one input, switches the model to eval and clears its gradients: it is given a copy.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genxai import optional

PACKAGE = "pytorch_grad_cam"
#: what a map is called in a metric's name: the class that makes it
OPINIONS = {
    "pgc_grad_cam_plus_plus": "GradCAMPlusPlus",
    "pgc_grad_cam": "GradCAM",
    "pgc_layer_cam": "LayerCAM",
}


def require_second_opinion() -> None:
    """Raises UsageError where the package is missing."""
    optional.require(PACKAGE, "train.second_opinion=true", "leave the option out")


def second_opinions(classifier: nn.Module) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A function (images [B,1,H,W], tokens [B,L], token_mask [B,L], labels [B]) -> maps [B, 3, H, W] of OPINIONS.

    The maps explain the score of `labels` at the image's size, each stretched to [0, 1] by the library: from a
    network's own 14x14 the least value is subtracted before anything is scored. Raises UsageError as
    `require_second_opinion`.
    """
    require_second_opinion()
    library = importlib.import_module(PACKAGE)
    model = _OfImages(classifier).requires_grad_(True).eval()
    target = importlib.import_module(f"{PACKAGE}.utils.model_targets").ClassifierOutputTarget

    def maps(images: Tensor, tokens: Tensor, token_mask: Tensor, labels: Tensor) -> Tensor:
        model.hold(tokens, token_mask)
        targets = [target(label) for label in labels.tolist()]
        found = [_map(getattr(library, name), model, images, targets) for name in OPINIONS.values()]
        return torch.stack(found, dim=1)

    return maps


def _map(method: Any, model: _OfImages, images: Tensor, targets: list[Any]) -> Tensor:
    # not as a context manager, which would keep an IndexError to itself
    cam = method(model=model, target_layers=[model.explained])
    try:
        with torch.enable_grad():
            return torch.from_numpy(cam(input_tensor=images, targets=targets)).to(images.device)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)


class _OfImages(nn.Module):
    """A copy of a two-input classifier as a function of images alone, its text held; `explained` gives the map."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier: Any = copy.deepcopy(classifier)
        self.explained = nn.Identity()
        self.classifier.image_encoder = _Tapped(self.classifier.image_encoder, self.explained)
        self.text: tuple[Tensor, Tensor] | None = None

    def hold(self, tokens: Tensor, token_mask: Tensor) -> None:
        self.text = tokens, token_mask

    def forward(self, images: Tensor) -> Tensor:
        assert self.text is not None
        return self.classifier(images, *self.text).logits


class _Tapped(nn.Module):
    """An image encoder whose explained map passes through a module, where hooks can be hung."""

    def __init__(self, encoder: Any, tap: nn.Module) -> None:
        super().__init__()
        self.encoder, self.tap = encoder, tap

    def maps(self, images: Tensor) -> Tensor:
        return self.tap(self.encoder.maps(images))

    def tokens(self, activations: Tensor) -> Tensor:
        return self.encoder.tokens(activations)
