"""Suite `cam`: batched Grad-CAM++ against the least it could cost and against pytorch-grad-cam.

Compared on one image-only classifier in eval mode with random weights, whole batches from images to maps, in turns:
* ours: forward with frozen parameters, `genxai.explain.grad_cam_plus_plus` of each sample's class score, bilinear
  resize to the image;
* floor: forward, one backward from the summed scores to the explained layer, and nothing below it: a copy of the model
  whose parameters are frozen and whose graph starts at that layer;
* peer: `GradCAMPlusPlus` of pytorch-grad-cam (package grad-cam) as its documentation calls it, on a copy of the model.
Time over the floor = ours / floor (ours without the resize, which the floor has not). Speed over the peer = peer / ours
with the resize, the quotient of maps per second. Encoders: the small CNN of the configuration, and ResNet-50 explained
at layer3, at fewer than the paper's 224 px on a CPU, as the name of the figure says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.benchmarks.figures import Figure, ratio
from analysis.benchmarks.setting import Setting, threads
from analysis.benchmarks.timing import WARM_UP, alternate, calls

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BATCH = 64
#: batches in one timed call where a single one takes milliseconds
SMALL_CALLS = 5
#: rounds where a single call takes a second
SLOW_REPEATS = 8


class Case(NamedTuple):
    """An encoder to explain: overrides of the configuration, images per batch, batches per timed call."""

    name: str
    title: str
    overrides: tuple[str, ...]
    batch: int
    calls: int


class Maps(NamedTuple):
    """The contenders on one batch, each a function of nothing."""

    ours: Callable[[], Tensor]
    resized: Callable[[], Tensor]
    floor: Callable[[], Tensor]
    peer: Callable[[], Any] | None


def measure(setting: Setting) -> list[Figure]:
    """Time over the floor, speed over the peer and maps per second, for each encoder."""
    from genxai.training.experiment import choose_device

    device = choose_device(setting.config())
    figures: list[Figure] = []
    with threads(setting.config().train.threads):
        for case in cases(device, setting.short):
            figures += _measure_case(setting, case, device)
    return figures


def cases(device: str, short: bool) -> list[Case]:
    """The small CNN, and ResNet-50 as large as the device carries in seconds."""
    small = ("model.image.name=small_cnn", "model.image.input_size=28")
    side = 224 if device == "cuda" else 64
    batch = 16 if short and device == "cpu" else BATCH
    resnet = (
        *("model.image.name=resnet50", "model.image.cam_layer=layer3"),
        *(f"model.image.input_size={side}", f"data.image_size={side}"),
    )
    return [
        Case("small_cnn", f"small CNN, batch {BATCH}", small, BATCH, SMALL_CALLS),
        Case("resnet50", f"ResNet-50 layer3 at {side} px, batch {batch}", resnet, batch, 1),
    ]


def _measure_case(setting: Setting, case: Case, device_name: str) -> list[Figure]:
    import torch

    maps = contenders(setting, case, torch.device(device_name))
    work: dict[str, Callable[[], Any]] = {"ours": maps.ours, "resized": maps.resized, "floor": maps.floor}
    if maps.peer is not None:
        work["peer"] = maps.peer
    work = {name: _repeated(call, case.calls) for name, call in work.items()}
    slow = case.calls == 1 and device_name == "cpu"  # a ResNet on a CPU takes seconds a round: a few say enough
    repeats, warm_up = (min(setting.repeats, SLOW_REPEATS), 1) if slow else (setting.repeats, WARM_UP)
    with setting.progress.task(f"cam: {case.title}", calls(len(work), repeats, warm_up)) as tick:
        times = alternate(work, repeats, tick, torch.device(device_name), warm_up, setting.limit)
    speed = tuple(case.calls * case.batch / value for value in times["resized"])
    figures = [
        Figure(f"cam/{case.name}_maps", f"Grad-CAM++ maps per second, {case.title}", "/s", speed),
        ratio(f"cam/{case.name}_floor", f"time of a map, of its floor, {case.title}", times["ours"], times["floor"]),
    ]
    if "peer" in times:
        name = f"maps per second, of pytorch-grad-cam's, {case.title}"
        figures.append(ratio(f"cam/{case.name}_peer", name, times["peer"], times["resized"]))
    return figures


def contenders(setting: Setting, case: Case, device: torch.device) -> Maps:
    """The ways to explain one random batch; peer is None where grad-cam is not installed."""
    import torch

    from genxai.data.factors import NUM_CLASSES
    from genxai.explain import grad_cam_plus_plus, resize_map
    from genxai.models import FusionClassifier, frozen

    config = setting.config(*_IMAGE_ONLY, "model.image.weights=none", "model.image.cam_layer=''", *case.overrides)
    side = config.data.image_size
    torch.manual_seed(0)
    model = FusionClassifier(config.model, NUM_CLASSES, vocab_size=1).to(device).eval()
    images = torch.rand(case.batch, 1, side, side, device=device)
    labels = torch.arange(case.batch, device=device) % NUM_CLASSES
    unused = torch.zeros(case.batch, 1, dtype=torch.int64, device=device)

    bare = graph_from_layer(model)

    def forward(network: Any) -> tuple[Tensor, Tensor]:
        prediction = network(images, unused, unused.bool())
        return prediction.logits.gather(1, labels[:, None]).squeeze(1), prediction.activations

    def explained() -> Tensor:
        with frozen(model):  # as genxai.training.evaluation.explain does
            return grad_cam_plus_plus(*forward(model))

    def floor() -> Tensor:
        score, activations = forward(bare)
        (gradient,) = torch.autograd.grad(score.sum(), activations)
        return gradient

    return Maps(
        ours=explained,
        resized=lambda: resize_map(explained(), side),
        floor=floor,
        peer=_peer(copy.deepcopy(model), images, labels, unused),
    )


#: the classifier of images alone, which has nothing else to be explained
_IMAGE_ONLY = ("model.fusion=image",)


def _peer(model: Any, images: Tensor, labels: Tensor, unused: Tensor) -> Callable[[], Any] | None:
    try:
        from pytorch_grad_cam import GradCAMPlusPlus  # type: ignore[import-untyped]
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-untyped]
    except ImportError:
        return None
    cam = GradCAMPlusPlus(model=_image_only(model, unused), target_layers=[_explained_layer(model.image_encoder)])
    targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
    return lambda: cam(input_tensor=images, targets=targets)


def graph_from_layer(model: Any) -> Any:
    """A copy with nothing to train, whose autograd graph starts at the explained layer's output."""
    bare = copy.deepcopy(model).requires_grad_(False)
    layer = _explained_layer(bare.image_encoder)
    layer.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    return bare


def _explained_layer(encoder: Any) -> nn.Module:
    """The layer whose output is `Prediction.activations`."""
    layer: nn.Module = encoder.to_map if hasattr(encoder, "to_map") else encoder.blocks[encoder.cam_layer]
    return layer


def _image_only(model: Any, unused: Tensor) -> nn.Module:
    """images -> logits, which is what pytorch-grad-cam can call."""
    from torch import nn

    class ImageOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images, unused, unused.bool()).logits
            return logits

    return ImageOnly()


def _repeated(call: Callable[[], Any], count: int) -> Callable[[], None]:
    def several() -> None:
        for _ in range(count):
            call()

    return several
