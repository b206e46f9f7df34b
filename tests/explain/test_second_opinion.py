"""pytorch-grad-cam's maps of a two-input classifier, and that the classifier does not notice."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from genxai.config import ImageEncoderConfig, ModelConfig, TextEncoderConfig
from genxai.errors import UsageError
from genxai.explain import grad_cam, grad_cam_plus_plus, require_second_opinion, resize_map, second_opinions
from genxai.explain.second_opinion import OPINIONS
from genxai.models import FusionClassifier

pytest.importorskip("pytorch_grad_cam")
LABELS = torch.tensor([0, 3, 1, 2])


@pytest.fixture(params=["cross", "early", "image"])
def classifier(request: pytest.FixtureRequest) -> FusionClassifier:
    torch.manual_seed(0)
    text = TextEncoderConfig(width=16, layers=1, heads=2, max_tokens=8)
    model = ModelConfig(
        fusion=request.param, dim=16, heads=2, layers=1, hidden=16, image=ImageEncoderConfig(width=8), text=text
    )
    return FusionClassifier(model, 4, 30).train()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 30, (4, 8), generator=generator)
    return torch.rand(4, 1, 28, 28, generator=generator), tokens, torch.arange(8) < torch.tensor([[8], [5], [2], [0]])


def stretched(maps: Tensor) -> Tensor:
    """Each map from 0 to 1, then to the image's size: what the library does."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    large = resize_map((maps - low) / (high - low), 28)
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (large - low) / (high - low)


def test_its_grad_cam_is_ours_of_the_same_class_and_the_same_caption(classifier, batch) -> None:
    theirs = second_opinions(classifier)(*batch, LABELS)
    assert theirs.shape == (4, 3, 28, 28)
    classifier.eval()
    prediction = classifier(*batch)
    ours = stretched(grad_cam(prediction.logits.gather(1, LABELS[:, None])[:, 0], prediction.activations).detach())
    place = list(OPINIONS).index("pgc_grad_cam")
    seen = ours.isfinite().all(dim=2).all(dim=1)
    assert seen.any()  # plain Grad-CAM of an untrained network may be empty
    torch.testing.assert_close(theirs[seen, place], ours[seen], atol=1e-4, rtol=0)
    assert (theirs[:, 0] - theirs[:, 1]).abs().max() > 1e-3 < (theirs[:, 1] - theirs[:, 2]).abs().max()


def test_its_grad_cam_plus_plus_is_ours_where_its_epsilon_does_not_matter(classifier, batch) -> None:
    """Eq. 7 has no epsilon; theirs, 1e-6 in a denominator of cubed gradients, is nothing beside large ones."""
    head = [module for module in classifier.head.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.mul_(1e3)
    theirs = second_opinions(classifier)(*batch, LABELS)[:, list(OPINIONS).index("pgc_grad_cam_plus_plus")]
    classifier.eval()
    prediction = classifier(*batch)
    score = prediction.logits.gather(1, LABELS[:, None])[:, 0]
    ours = stretched(grad_cam_plus_plus(score, prediction.activations).detach())
    assert ours.isfinite().all()
    torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=0)


def test_the_caption_of_each_sample_is_held_while_its_image_is_explained(batch) -> None:
    torch.manual_seed(0)
    text = TextEncoderConfig(width=16, layers=1, heads=2, max_tokens=8)
    model = ModelConfig(dim=16, heads=2, layers=1, hidden=16, image=ImageEncoderConfig(width=8), text=text)
    maps = second_opinions(FusionClassifier(model, 4, 30))
    images, tokens, mask = batch
    one, other = maps(images, tokens, mask, LABELS), maps(images, (tokens + 7) % 30, mask, LABELS)
    assert (one[0] - other[0]).abs().max() > 1e-4  # its caption has changed
    torch.testing.assert_close(one[3], other[3])  # it has none
    torch.testing.assert_close(maps(*(part[:2] for part in batch), LABELS[:2]), one[:2], atol=1e-4, rtol=0)


def test_the_classifier_keeps_its_mode_its_gradients_and_its_freedom_from_hooks(classifier, batch) -> None:
    classifier(*batch).logits.sum().backward()
    classifier.requires_grad_(False)

    def state() -> list[object]:
        hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in classifier.modules()]
        flags = [module.training for module in classifier.modules()]
        gradients = [parameter.grad.clone() for parameter in classifier.parameters()]
        values = [value.clone() for value in classifier.state_dict().values()]
        return [flags, hooks, [p.requires_grad for p in classifier.parameters()], gradients, values]

    before = state()
    maps = second_opinions(classifier)
    with torch.no_grad():
        first = maps(*batch, LABELS)
    torch.testing.assert_close(maps(*batch, LABELS), first)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert first.isfinite().all() and first[:, 0].amax() == pytest.approx(1, abs=1e-5)


def test_without_the_package_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"train\.second_opinion=true needs pytorch_grad_cam.*\[second-opinion\]"):
        require_second_opinion()
