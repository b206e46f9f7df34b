"""Grad-CAM and Grad-CAM++ against closed forms, autograd identities and pytorch-grad-cam."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from genxai.explain import grad_cam, grad_cam_plus, grad_cam_plus_plus

METHODS = [grad_cam, grad_cam_plus, grad_cam_plus_plus]


class Explained(NamedTuple):
    score: Tensor
    activations: Tensor


class TinyCnn(nn.Module):
    """Two convolutions, then a head whose gradient is not constant over positions."""

    def __init__(self, smooth: bool = False) -> None:
        super().__init__()
        activation = nn.Softplus if smooth else nn.ReLU
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), activation(), nn.Conv2d(4, 3, 3), activation())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def explain(self, images: Tensor, labels: Tensor, scale: float = 1.0) -> Explained:
        activations = self.features(images)
        logits = scale * self.head(activations)
        return Explained(logits.gather(1, labels[:, None])[:, 0], activations)


@pytest.fixture
def network() -> TinyCnn:
    torch.manual_seed(0)
    return TinyCnn().double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def linear_head(activations: Tensor, weights: Tensor) -> Tensor:
    """score = sum_k w_k mean(A_k): the gradient is w_k / (h w) everywhere."""
    return (activations.mean(dim=(2, 3)) * weights).sum(dim=1)


def by_the_book(activations: Tensor, gradients: Tensor) -> Tensor:
    """Eq. 19 of the Grad-CAM++ paper, literally, sample by sample in float64."""
    maps = []
    for sample, gradient in zip(activations.double(), gradients.double(), strict=True):
        heatmap = torch.zeros_like(sample[0])
        for channel, slope in zip(sample, gradient, strict=True):
            weight = 0.0
            for g in slope.flatten().tolist():
                if g > 0:
                    weight += g**2 / (2 * g**2 + channel.sum().item() * g**3) * g
            heatmap += weight * channel
        maps.append(heatmap.clamp_min(0))
    return torch.stack(maps)


def normalised(maps: Tensor) -> Tensor:
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-300 if maps.dtype == torch.float64 else 1e-37)


def test_on_a_linear_head_the_weights_are_the_closed_form() -> None:
    activations = torch.rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    weights = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    g, total = weights / 20, activations.detach().sum(dim=(2, 3))
    closed = {
        grad_cam: g.expand(2, 3),
        grad_cam_plus: 20 * 0.5 * g.clamp_min(0).expand(2, 3),
        grad_cam_plus_plus: 20 * g.clamp_min(0) / (2 + total * g.clamp_min(0)),
    }
    for method, expected in closed.items():
        heatmap = method(linear_head(activations, weights), activations)
        wanted = (expected[:, :, None, None] * activations.detach()).sum(dim=1).clamp_min(0)
        torch.testing.assert_close(heatmap, wanted)


def test_it_is_the_published_formula_where_gradients_vary_over_positions(network: TinyCnn, images: Tensor) -> None:
    explained = network.explain(images, LABELS)
    (gradients,) = torch.autograd.grad(explained.score.sum(), explained.activations, retain_graph=True)
    assert gradients.std(dim=(2, 3)).min() > 0
    torch.testing.assert_close(grad_cam_plus_plus(*explained), by_the_book(explained.activations, gradients))


def test_alpha_is_the_ratio_of_higher_derivatives_of_an_exponential_score() -> None:
    """For Y = exp(S), S locally linear in A: alpha = Y'' / (2 Y'' + sum(A) Y'''), derivatives by autograd."""
    activations = torch.rand(1, 2, 2, 3, dtype=torch.float64).requires_grad_()
    slopes = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    total = activations.detach().sum(dim=(2, 3), keepdim=True)
    alpha = torch.zeros_like(slopes)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in slopes.shape)).tolist():
        derivative: Tensor = (slopes * activations).sum().exp()
        value, orders = derivative.item(), []
        for _ in range(3):
            (gradient,) = torch.autograd.grad(derivative, activations, create_graph=True)
            derivative = gradient[tuple(place)]
            orders.append(derivative.item())
        g = slopes[tuple(place)].item()
        assert orders[1:] == pytest.approx([value * g**2, value * g**3])
        alpha[tuple(place)] = orders[1] / (2 * orders[1] + total[0, place[1], 0, 0].item() * orders[2])
    weights = (alpha * slopes.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    expected = (weights * activations.detach()).sum(dim=1).clamp_min(0)
    torch.testing.assert_close(grad_cam_plus_plus((slopes * activations).sum((1, 2, 3)), activations), expected)


@pytest.mark.parametrize("c", [1e-10, 1e-3, 1e3, 1e10])
def test_rescaling_the_activations_against_the_head_leaves_the_map_as_it_is(c: float) -> None:
    torch.manual_seed(0)
    base, slopes = torch.rand(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    plain, scaled = base.clone().requires_grad_(), (base * c).requires_grad_()
    expected = grad_cam_plus_plus((slopes * plain).sum((1, 2, 3)), plain)
    torch.testing.assert_close(
        grad_cam_plus_plus((slopes / c * scaled).sum((1, 2, 3)), scaled), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("c", [1e-15, 1e-6, 1e-2])
def test_small_logits_give_the_normalised_map_of_alpha_one_half_and_never_underflow(c: float) -> None:
    torch.manual_seed(0)
    network, images = TinyCnn().float(), torch.rand(6, 1, 6, 6)
    small = normalised(grad_cam_plus_plus(*network.explain(images, LABELS, scale=c)))
    control = normalised(grad_cam_plus(*network.explain(images, LABELS)))
    assert (small - control).abs().max() < 20 * c + 1e-5


def test_for_the_plain_and_the_control_map_the_scale_of_the_logits_drops_out(network: TinyCnn, images: Tensor) -> None:
    for method in (grad_cam, grad_cam_plus):
        one, other = (normalised(method(*network.explain(images, LABELS, scale=c))) for c in (1.0, 1e-4))
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_samples_one_by_one(method, network: TinyCnn, images: Tensor) -> None:
    together = method(*network.explain(images, LABELS))
    apart = [method(*network.explain(images[i : i + 1], LABELS[i : i + 1])) for i in range(len(images))]
    torch.testing.assert_close(together, torch.cat(apart))
    assert together.shape == (6, 4, 4) and (together >= 0).all() and together.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_differentiable_in_the_parameters(method) -> None:
    torch.manual_seed(0)
    network = TinyCnn(smooth=True).double()  # smooth, so that finite differences mean something
    parameters = {name: p for name, p in network.named_parameters() if name in ("features.0.weight", "head.1.bias")}
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64)

    def maps(*values: Tensor) -> Tensor:
        replaced = dict(zip(parameters, values, strict=True))

        def part(name: str, inputs: Tensor) -> Tensor:
            own = {k.removeprefix(f"{name}."): v for k, v in replaced.items() if k.startswith(f"{name}.")}
            return torch.func.functional_call(getattr(network, name), own, (inputs,))

        activations = part("features", images)
        return method(part("head", activations)[:, 1], activations, create_graph=True)

    assert torch.autograd.gradcheck(maps, tuple(parameters.values()))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_call_leaves_the_network_and_the_random_streams_as_they_were(method, create_graph: bool) -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 1))
    network = nn.Sequential(features, head).train()
    images, seen = torch.rand(4, 1, 6, 6), []
    network(images).sum().backward()
    features.eval()
    activations = features(images)
    score = head(activations)[:, 0]

    def state() -> list[object]:
        buffers = [b.clone() for b in network.buffers()]
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in network.modules()]
        return [[m.training for m in network.modules()], hooks, torch.get_rng_state(), buffers, gradients]

    seen = [state()]
    heatmap = method(score, activations, create_graph=create_graph)
    seen.append(state())
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)
    assert heatmap.requires_grad is create_graph
    score.mean().backward()  # the loss can still be differentiated


def test_the_correction_and_the_loss_can_be_differentiated_together(network: TinyCnn, images: Tensor) -> None:
    explained = network.explain(images, LABELS)
    heatmap = grad_cam_plus_plus(*explained, create_graph=True)
    (explained.score.mean() + heatmap.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.features.parameters())


@pytest.mark.parametrize("offset", [0.0, -0.4, -1.0, -50.0])
def test_negative_activations_keep_map_and_gradients_finite(offset: float) -> None:
    torch.manual_seed(0)
    raw = (torch.rand(4, 3, 5, 5) + offset).requires_grad_()
    activations = raw * 1.0
    slopes = torch.linspace(-2, 4, 25).view(1, 1, 5, 5)  # S g passes through -2, where the formula is singular
    heatmap = grad_cam_plus_plus((activations.square() * slopes).sum((1, 2, 3)), activations, create_graph=True)
    heatmap.sum().backward()
    assert heatmap.isfinite().all() and raw.grad is not None and raw.grad.isfinite().all()


def test_denominators_at_and_beyond_the_singularity_are_held_at_one() -> None:
    singular = torch.tensor([[[[-1.0, 0.0]]]]).requires_grad_()  # 2 + S g = 0: infinity times 0 without the guard
    assert grad_cam_plus_plus(2.0 * singular.sum((1, 2, 3)), singular).tolist() == [[[0.0, 0.0]]]
    beyond = torch.tensor([[[[-1.0]], [[30.0]]]]).requires_grad_()  # 2 + S g = -2 in channel 0, 32 in channel 1
    score = 4.0 * beyond[:, 0, 0, 0] + 1.0 * beyond[:, 1, 0, 0]
    # alpha = 1 and 1/32: M = ReLU(-4 + 30/32) = 0; a negative weight would turn channel 0 into +2
    assert grad_cam_plus_plus(score, beyond).item() == 0.0
    mild = torch.tensor([[[[-0.25]], [[3.0]]]]).requires_grad_()  # S g = -0.5: the formula itself, alpha = 1/1.5
    score = 2.0 * mild[:, 0, 0, 0] + 4.0 * mild[:, 1, 0, 0]
    assert grad_cam_plus_plus(score, mild).item() == pytest.approx(-0.25 * 2 / 1.5 + 3 * 4 / 14)


def test_dead_activations_give_a_zero_map_with_finite_gradients() -> None:
    raw = torch.zeros(2, 3, 4, 4, requires_grad=True)
    activations = raw.relu()
    heatmap = grad_cam_plus_plus(linear_head(activations, torch.ones(3)), activations, create_graph=True)
    heatmap.sum().backward()
    assert heatmap.abs().max() == 0 and raw.grad is not None and raw.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_activations_give_a_float32_map_close_to_the_full_one(method) -> None:
    torch.manual_seed(0)
    full, weights = torch.rand(2, 3, 5, 5).requires_grad_(), torch.tensor([3.0, -1.0, 2.0])
    half = full.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heatmap = method(linear_head(half, weights), half)
    assert heatmap.dtype == torch.float32
    torch.testing.assert_close(heatmap, method(linear_head(full, weights), full), rtol=0.02, atol=0.01)


# --- what a person can get wrong -----------------------------------------------------------------


def test_wrong_shapes_are_named() -> None:
    activations = torch.rand(2, 3, 4, 4).requires_grad_()
    with pytest.raises(ValueError, match=r"one value per sample, shape \[2\], got \[2, 3\]"):
        grad_cam(activations.mean(dim=(2, 3)), activations)
    with pytest.raises(ValueError, match=r"\[B, C, h, w\], got \[2, 16\]"):
        tokens = torch.rand(2, 16).requires_grad_()
        grad_cam_plus_plus(tokens.sum(1), tokens)


def test_a_score_from_another_forward_pass_is_an_error() -> None:
    activations, other = torch.rand(2, 3, 4, 4).requires_grad_(), torch.rand(2, 3, 4, 4).requires_grad_()
    with pytest.raises(ValueError, match="does not depend on these activations"):
        grad_cam(other.sum((1, 2, 3)), activations)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_pass_without_a_graph_is_an_error(mode, network: TinyCnn, images: Tensor) -> None:
    with mode(), pytest.raises(ValueError, match="outside no_grad and inference_mode"):
        grad_cam_plus_plus(*network.explain(images, LABELS))
    explained = network.explain(images, LABELS)
    with torch.no_grad():
        assert grad_cam(*explained).max() > 0
        with pytest.raises(ValueError, match="create_graph=True needs gradients enabled"):
            grad_cam(*explained, create_graph=True)


# --- another library -----------------------------------------------------------------------------


def theirs(name: str, network: TinyCnn, images: Tensor, scale: float) -> Tensor:
    """Normalised maps of pytorch-grad-cam at the layer's own resolution."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, batch: Tensor) -> Tensor:
            return scale * self.network(batch)

    method = getattr(library, name)(model=Scaled(), target_layers=[network.features[-1]])
    targets = [ClassifierOutputTarget(int(label)) for label in LABELS]
    with method as cam:
        outputs = cam.activations_and_grads(images)
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward(retain_graph=True)
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        maps = method.get_cam_image(images, network.features[-1], targets, activations, gradients, False)
    return normalised(torch.from_numpy(maps).clamp_min(0))


@pytest.fixture
def trained_scale() -> tuple[TinyCnn, Tensor]:
    """A network whose gradients are large, as after training, where an absolute epsilon does not matter."""
    torch.manual_seed(3)
    network = TinyCnn().float()
    with torch.no_grad():
        network.head[3].weight *= 20
    return network, torch.rand(6, 1, 6, 6)


@pytest.mark.parametrize(("ours", "name"), [(grad_cam, "GradCAM"), (grad_cam_plus_plus, "GradCAMPlusPlus")])
def test_it_agrees_with_pytorch_grad_cam_at_large_gradients(ours, name: str, trained_scale) -> None:
    network, images = trained_scale
    heatmap = normalised(ours(*network.explain(images, LABELS)))
    assert (heatmap.std(dim=(1, 2)) > 0.01).sum() >= 4  # a plain Grad-CAM map may be empty
    torch.testing.assert_close(heatmap, theirs(name, network, images, 1.0), atol=2e-3, rtol=0, check_dtype=False)


def test_with_small_logits_the_other_library_leaves_the_formula_and_this_one_does_not(trained_scale) -> None:
    network, images = trained_scale
    for scale in (1e-2, 1e-4):
        explained = network.explain(images, LABELS, scale=scale)
        (gradients,) = torch.autograd.grad(explained.score.sum(), explained.activations, retain_graph=True)
        exact = normalised(by_the_book(explained.activations.detach(), gradients)).float()
        assert (normalised(grad_cam_plus_plus(*explained)) - exact).abs().max() < 1e-5
    assert (theirs("GradCAMPlusPlus", network, images, scale) - exact).abs().max() > 0.02
