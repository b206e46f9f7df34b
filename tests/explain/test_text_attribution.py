"""Attribution to tokens: closed forms on a linear model, derivatives, captum, and the placebo."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from genxai.config import ModelConfig
from genxai.errors import GenxaiError
from genxai.explain.placebo import other_tokens
from genxai.explain.text import margin, share_on, token_attribution
from genxai.explain.text_captum import integrated_gradients, require_captum
from genxai.metrics.toxicity import completeness_gap
from genxai.models import FusionClassifier
from genxai.training.text_steps import attribute

WORDS, LENGTH = 30, 7


class Linear(nn.Module):
    """logits = W sum_l e_l over the tokens: every attribution is known."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = SimpleNamespace(embedding_layer=nn.Embedding(WORDS, 5))
        self.embedding = self.text_encoder.embedding_layer
        self.head = nn.Linear(5, 2, bias=False)

    def forward(
        self, images: Tensor, tokens: Tensor, token_mask: Tensor, embeddings: Tensor | None = None
    ) -> SimpleNamespace:
        embeddings = self.embedding(tokens) if embeddings is None else embeddings
        return SimpleNamespace(logits=self.head((embeddings * token_mask[:, :, None]).sum(dim=1)))


@pytest.fixture
def texts() -> tuple[Tensor, Tensor, Tensor]:
    """tokens, token_mask, labels of three texts of 7, 4 and 2 tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, WORDS, (3, LENGTH), generator=generator)
    mask = torch.arange(LENGTH) < torch.tensor([[7], [4], [2]])
    return torch.where(mask, tokens, 0), mask, torch.tensor([1, 0, 1])


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(1)
    return Linear().double()


@pytest.fixture(params=["small", "bert"])
def classifier(request: pytest.FixtureRequest) -> FusionClassifier:
    """A text classifier in float64 whose embeddings are large enough to matter."""
    name = "small" if request.param == "small" else request.getfixturevalue("bert_folder")
    text = {"name": name, "width": 8, "layers": 1, "heads": 2, "max_tokens": 8}
    torch.manual_seed(2)
    model = FusionClassifier(ModelConfig.model_validate({"fusion": "text", "hidden": 8, "text": text}), 2, WORDS)
    with torch.no_grad():
        model.text_encoder.embedding_layer.weight.normal_(std=0.3)
    return model.double()


def nothing(count: int) -> Tensor:
    return torch.zeros(count, 1, 0, 0)


# --- gradient x embedding ---------------------------------------------------------------------------


def test_on_a_linear_model_it_is_what_each_token_adds(linear: Linear, texts) -> None:
    tokens, mask, labels = texts
    added = (linear.embedding(tokens) - linear.embedding(torch.tensor(0))) @ linear.head.weight.T
    expected = (added[..., 1] - added[..., 0]).abs().detach()
    found = attribute(linear, tokens, mask, labels, 0, create_graph=False)
    torch.testing.assert_close(found, expected * mask)
    assert not found.requires_grad


def test_given_embeddings_are_the_encoders_own(classifier: FusionClassifier, texts) -> None:
    tokens, mask, _ = texts
    classifier.eval()
    embeddings = classifier.text_encoder.embedding_layer(tokens)
    logits = classifier(nothing(3), tokens, mask).logits
    torch.testing.assert_close(classifier(nothing(3), tokens, mask, embeddings=embeddings).logits, logits)
    other = classifier(nothing(3), tokens, mask, embeddings=embeddings.flip(2)).logits
    assert not torch.allclose(other, logits)


def test_padding_gets_nothing(classifier: FusionClassifier, texts) -> None:
    tokens, mask, labels = texts
    found = attribute(classifier, tokens, mask, labels, 0, create_graph=False)
    assert (found[~mask] == 0).all() and (found[mask] > 0).all()


def test_the_derivative_of_a_share_is_that_of_finite_differences(classifier: FusionClassifier, texts) -> None:
    tokens, mask, labels = texts
    terms = torch.zeros_like(mask)
    terms[:, 1] = True

    def shares() -> Tensor:
        return share_on(attribute(classifier, tokens, mask, labels, 0, create_graph=True), terms, mask).sum()

    parameters = dict(classifier.named_parameters())
    chosen = [name for name in parameters if "embedding" in name or "query.weight" in name or "head.1.weight" in name]
    assert len(chosen) >= 3
    gradients = torch.autograd.grad(shares(), [parameters[name] for name in chosen])
    for name, gradient in zip(chosen, gradients, strict=True):
        place, weights = int(gradient.abs().argmax()), parameters[name].data.view(-1)
        assert gradient.abs().max() > 0
        step = 1e-5
        weights[place] += step
        above = shares().item()
        weights[place] -= 2 * step
        below = shares().item()
        weights[place] += step
        assert gradient.flatten()[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-3)


def test_explaining_changes_neither_mode_nor_gradients(classifier: FusionClassifier, texts) -> None:
    tokens, mask, labels = texts
    classifier.train()
    attribute(classifier, tokens, mask, labels, 0, create_graph=True)
    assert classifier.training and all(parameter.grad is None for parameter in classifier.parameters())


def test_wrong_shapes_and_scores_are_named() -> None:
    embeddings = torch.rand(2, 3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \[2\], got \[3\]"):
        token_attribution(torch.rand(3), embeddings)
    with pytest.raises(ValueError, match=r"\[B, L, D\], got \[2, 3\]"):
        token_attribution(torch.rand(2), torch.rand(2, 3))
    with pytest.raises(ValueError, match="outside no_grad"):
        token_attribution(torch.rand(2), embeddings)
    with pytest.raises(ValueError, match="does not depend"):
        token_attribution(torch.rand(2, requires_grad=True), embeddings)


# --- shares -----------------------------------------------------------------------------------------


def test_a_share_is_of_what_all_tokens_have_and_zero_where_there_is_no_term() -> None:
    attribution = torch.tensor([[1.0, 2.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    chosen = torch.tensor([[False, True, False, True], [False] * 4, [True] * 4])
    found = share_on(attribution, chosen, mask)
    assert found.tolist() == [0.5, 0.0, 0.0]
    found.sum().backward()
    assert attribution.grad is not None and attribution.grad.isfinite().all() and (attribution.grad[1:] == 0).all()
    assert share_on(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)) == 1.0
    with pytest.raises(ValueError, match="token_mask must be bool"):
        share_on(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3))


def test_the_placebo_has_as_many_tokens_keeps_them_and_spares_the_ends() -> None:
    mask = torch.arange(9) < torch.tensor([[9], [6], [9]])
    terms = torch.zeros_like(mask)
    terms[0, 2:4] = terms[1, 1:5] = True
    ids = torch.arange(3)
    found = other_tokens(terms, mask, 0, ids)
    assert found.sum(dim=1).tolist() == [2, 4, 0]
    assert torch.equal(found[1], terms[1])  # all there are between the ends
    assert torch.equal(other_tokens(terms[:1], mask[:1], 0, ids[:1]), found[:1])
    many = other_tokens(terms[:1].expand(300, -1), mask[:1].expand(300, -1), 0, torch.arange(300))
    counts = many.sum(dim=0)
    assert counts[0] == counts[-1] == 0 and counts[1:-1].min() > 50


# --- captum -----------------------------------------------------------------------------------------


def test_integrated_gradients_of_a_linear_model_are_the_difference_to_padding(linear: Linear, texts) -> None:
    pytest.importorskip("captum")
    tokens, mask, labels = texts
    found = integrated_gradients(linear, tokens, mask, labels, 0)
    place = torch.arange(LENGTH)
    inner = mask & (place > 0) & (place < mask.sum(dim=1, keepdim=True) - 1)
    added = (linear.embedding(tokens) - linear.embedding(torch.tensor(0))) @ linear.head.weight.T
    expected = (added[..., 1] - added[..., 0]) * (2 * labels[:, None] - 1) * inner
    torch.testing.assert_close(found.attribution, expected.detach())
    torch.testing.assert_close(found.attribution.sum(dim=1), found.score - found.baseline)
    # which is what one gradient times the difference is, too
    once = attribute(linear, tokens, mask, labels, 0, create_graph=False)
    torch.testing.assert_close(found.attribution.detach().abs(), once * inner)


def test_integrated_gradients_of_a_transformer_add_up(classifier: FusionClassifier, texts) -> None:
    pytest.importorskip("captum")
    tokens, mask, labels = texts
    found = integrated_gradients(classifier.eval(), tokens, mask, labels, 0, steps=300)
    assert completeness_gap(found.attribution, found.score - found.baseline) < 0.05
    assert (found.attribution[~mask] == 0).all()
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_missing_captum_is_told_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenxaiError, match=r"captum.*genxai\[text\]"):
        require_captum()


def test_a_berts_attribution_depends_on_the_word_and_not_on_its_position_alone(bert_folder: str, texts) -> None:
    """Its LayerNorm makes gradient x embedding that of position and type, whatever the word."""
    text = {"name": bert_folder, "max_tokens": 8}
    torch.manual_seed(3)
    model = FusionClassifier(ModelConfig.model_validate({"fusion": "text", "hidden": 8, "text": text}), 2, WORDS)
    tokens, mask, labels = texts
    with torch.no_grad():  # words far larger than places; before training that of padding is 0
        model.text_encoder.embedding_layer.weight.normal_(std=0.5)
    embeddings = model.text_encoder.embedding_layer(tokens)
    logits = model.eval()(nothing(3), tokens, mask, embeddings=embeddings).logits
    (gradient,) = torch.autograd.grad(margin(logits, labels).sum(), embeddings)
    inner = model.text_encoder.bert.embeddings
    place = inner.position_embeddings(torch.arange(tokens.shape[1])) + inner.token_type_embeddings(torch.tensor(0))
    along = (gradient * embeddings).sum(2)
    torch.testing.assert_close(along, -(gradient * place).sum(2), atol=1e-6, rtol=1e-3)
    found = attribute(model, tokens, mask, labels, 0, create_graph=False)
    assert found[mask].mean() > 2 * along[mask].abs().mean()
