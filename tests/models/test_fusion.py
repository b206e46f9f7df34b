import math

import pytest
import torch

from genxai.config import ModelConfig, TextEncoderConfig
from genxai.models import FusionClassifier
from genxai.models.fusion import masked_mean

CLASSES, VOCABULARY = 4, 30
MODES = ["image", "text", "early", "cross"]
WITH_IMAGE = ["image", "early", "cross"]


@pytest.fixture
def build(model_config):
    def make(fusion: str) -> FusionClassifier:
        return FusionClassifier(model_config(fusion), CLASSES, VOCABULARY).eval()

    return make


@pytest.mark.parametrize("fusion", MODES)
def test_a_classifier_gives_logits_and_the_explained_map_where_there_is_one(fusion, build, batch):
    logits, activations = build(fusion)(*batch)
    assert logits.shape == (3, CLASSES)
    if fusion == "text":
        assert activations is None
    else:
        assert activations.shape == (3, 8, 14, 14)


@pytest.mark.parametrize("fusion", MODES)
def test_every_parameter_gets_a_gradient(fusion, build, batch):
    network = build(fusion).train()
    network(*batch).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("fusion", "absent"), [("image", "text"), ("text", "image")])
def test_the_branch_that_a_mode_does_not_use_does_not_exist(fusion, absent, build, batch):
    network = build(fusion)
    assert not any(absent in name for name, _ in network.named_modules())
    images, tokens, mask = batch
    other = (images, (tokens + 1) % VOCABULARY, ~mask) if absent == "text" else (1 - images, tokens, mask)
    assert torch.equal(network(*batch).logits, network(*other).logits)


@pytest.mark.parametrize("fusion", WITH_IMAGE)
def test_the_map_is_in_the_graph_of_the_logits_and_can_be_differentiated_twice(fusion, build, batch):
    network = build(fusion)
    logits, activations = network(*batch)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), activations, create_graph=True)
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()  # also for the image whose caption is missing
    gradient.square().sum().backward()
    first = network.head[1].weight.grad
    assert first is not None and first.isfinite().all() and first.abs().sum() > 0


def test_a_loss_on_the_map_gradient_reaches_the_text_branch_through_cross_attention(build, batch):
    network = build("cross")
    logits, activations = network(*batch)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), activations, create_graph=True)
    gradient.square().sum().backward()
    reached = network.text_encoder.embedding.weight.grad
    assert reached.isfinite().all() and reached.abs().sum() > 0


def test_a_loss_on_the_map_gradient_passes_through_bert_with_its_fused_kernels(tmp_path, model_config, batch):
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, **size)).save_pretrained(tmp_path)
    config = model_config("cross").model_copy(update={"text": TextEncoderConfig(name=str(tmp_path), max_tokens=8)})
    network = FusionClassifier(config, CLASSES, VOCABULARY).train()
    logits, activations = network(*batch)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), activations, create_graph=True)
    (logits.square().sum() + gradient.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_second_derivative_through_cross_attention_is_exact(build, batch):
    network = build("cross").double()
    images, tokens, mask = batch
    weight = network.cross.layers[0].image_from_text.query.weight

    def map_gradient_size():
        logits, activations = network(images.double(), tokens, mask)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), activations, create_graph=True)
        return 1e4 * gradient.square().sum()

    (analytic,) = torch.autograd.grad(map_gradient_size(), weight)
    direction, step = analytic / analytic.norm(), 1e-5
    with torch.no_grad():
        weight += step * direction
    above = map_gradient_size().item()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = map_gradient_size().item()
    assert (above - below) / (2 * step) == pytest.approx(analytic.norm().item(), rel=1e-4)


@pytest.mark.parametrize("fusion", WITH_IMAGE)
def test_the_image_decides_also_where_all_captions_are_missing(fusion, build, batch):
    images, tokens, mask = batch
    images.requires_grad_()
    logits, _ = build(fusion)(images, tokens, torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("fusion", ["text", "early", "cross"])
def test_padding_tokens_do_not_matter(fusion, build, batch):
    network = build(fusion)
    images, tokens, mask = batch
    other = torch.where(mask, tokens, (tokens + 5) % VOCABULARY)
    torch.testing.assert_close(network(images, other, mask).logits, network(images, tokens, mask).logits)
    more = torch.nn.functional.pad(tokens, (0, 2), value=3), torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(network(images, *more).logits, network(images, tokens, mask).logits)


@pytest.mark.parametrize("fusion", ["text", "early", "cross"])
def test_the_caption_decides_where_there_is_one(fusion, build, batch):
    network = build(fusion)
    images, tokens, mask = batch
    one, other = network(images, tokens, mask).logits, network(images, (tokens + 5) % VOCABULARY, mask).logits
    changed = ((one - other).abs() > 1e-6).any(dim=1)
    assert changed.tolist() == [True, True, False]


@pytest.mark.parametrize("fusion", MODES)
def test_a_sample_does_not_depend_on_the_others_of_its_batch(fusion, build, batch):
    network = build(fusion)
    alone = network(*(part[1:2] for part in batch)).logits
    torch.testing.assert_close(network(*batch).logits[1:2], alone)


def test_cross_attention_does_not_depend_on_the_order_in_which_image_tokens_are_listed(build):
    network = build("cross")
    cross, channels = network.cross, network.image_encoder.token_channels
    image, text, mask = torch.randn(2, 9, channels), torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(cross(image[:, torch.randperm(9)], text, mask), cross(image, text, mask))
    torch.testing.assert_close(cross(image, text[:, [2, 0, 3, 1]], mask), cross(image, text, mask))


def test_the_same_seed_gives_the_same_classifier_and_dropout(model_config, batch):
    def run():
        torch.manual_seed(5)
        return FusionClassifier(model_config("cross"), CLASSES, VOCABULARY).train()(*batch).logits

    assert torch.equal(run(), run())


def test_the_head_is_the_papers():
    _, first, activation, dropout, last = FusionClassifier(ModelConfig(), 10, VOCABULARY).head
    assert (first.out_features, last.in_features, last.out_features, dropout.p) == (256, 256, 10, 0.3)
    assert isinstance(activation, torch.nn.ReLU)


def test_dropout_is_active_in_training_only(build, batch):
    network = build("early")
    assert torch.equal(network(*batch).logits, network(*batch).logits)
    network.train()
    assert not torch.equal(network(*batch).logits, network(*batch).logits)


def test_masked_mean_averages_what_is_visible_and_ignores_even_infinite_padding():
    tokens = torch.tensor([[[1.0], [3.0], [math.inf]], [[5.0], [math.nan], [math.nan]], [[math.nan]] * 3])
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    assert masked_mean(tokens, mask).tolist() == [[2.0], [5.0], [0.0]]


class LiteralEquation10(torch.nn.Module):
    """Eq. 10 as printed: one pooled visual query, one text key and value. Kept only to show that it cannot work."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(width, width) for _ in range(3))

    def forward(self, visual, text):
        query, key, value = self.query(visual)[:, None], self.key(text)[:, None], self.value(text)[:, None]
        return ((query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(dim=2) @ value)[:, 0]


def test_equation_10_with_one_token_on_each_side_ignores_the_image_entirely():
    fuse = LiteralEquation10(8)
    visual, text = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8)
    assert torch.equal(fuse(visual, text), fuse(torch.randn(5, 8), text))
    fuse(visual, text).square().sum().backward()
    assert visual.grad.abs().max() == 0
    assert fuse.query.weight.grad.abs().max() == 0


def test_our_fusion_does_not_degenerate_even_with_one_token_on_each_side(build):
    network = build("cross")
    cross = network.cross
    visual, text = torch.randn(5, 1, network.image_encoder.token_channels, requires_grad=True), torch.randn(5, 1, 8)
    cross(visual, text, torch.ones(5, 1, dtype=torch.bool)).square().sum().backward()
    assert (visual.grad.abs().sum(dim=(1, 2)) > 0).all()
    assert cross.layers[0].image_from_text.query.weight.grad.abs().sum() > 0
