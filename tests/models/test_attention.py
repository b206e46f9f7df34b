import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from genxai.models.attention import FeatureAttention, TokenAttention, twice_differentiable_attention


def test_attention_weights_of_a_map_are_a_distribution_over_its_positions():
    attention = FeatureAttention(5, "residual")
    features = torch.randn(2, 5, 3, 4)
    alpha = attention.weights(features)
    score = torch.einsum("c,bchw->bhw", attention.score.weight[0, :, 0, 0], features).exp()
    assert alpha.shape == (2, 1, 3, 4)
    torch.testing.assert_close(alpha[:, 0], score / score.sum(dim=(1, 2), keepdim=True))


def test_residual_attention_starts_as_the_identity_and_follows_its_formula():
    attention = FeatureAttention(5, "residual")
    features = torch.randn(2, 5, 3, 4)
    assert torch.equal(attention(features), features)
    attention.gamma.data.fill_(0.7)
    expected = features * (1 + 0.7 * (12 * attention.weights(features) - 1))
    torch.testing.assert_close(attention(features), expected)


def test_residual_attention_with_even_weights_changes_nothing_at_any_gamma():
    attention = FeatureAttention(5, "residual")
    attention.score.weight.data.zero_()
    attention.gamma.data.fill_(0.7)
    features = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(attention(features), features)


def test_literal_attention_is_alpha_times_f():
    attention = FeatureAttention(5, "literal")
    features = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(attention(features), attention.weights(features) * features)
    assert not hasattr(attention, "gamma")


def test_attention_can_be_switched_off_and_then_has_no_parameters():
    attention = FeatureAttention(5, "none")
    features = torch.randn(2, 5, 3, 4)
    assert attention(features) is features
    assert list(attention.parameters()) == []


def test_token_attention_agrees_with_torchs_multi_head_attention():
    ours = TokenAttention(8, heads=2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]).data
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, torch.zeros(16)]).data
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, keys = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    expected, _ = theirs(queries, keys, keys, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, keys, mask), expected)


def test_masked_keys_have_no_influence():
    attention = TokenAttention(8, heads=2)
    queries, keys = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    other = torch.where(mask[:, :, None], keys, torch.randn(2, 7, 8))
    assert torch.equal(attention(queries, keys, mask), attention(queries, other, mask))


def test_a_row_without_any_visible_key_attends_to_nothing():
    attention = TokenAttention(8, heads=2)
    keys = torch.randn(2, 7, 8, requires_grad=True)
    mask = torch.tensor([[True] * 7, [False] * 7])
    out = attention(torch.randn(2, 5, 8), keys, mask)
    torch.testing.assert_close(out[1], attention.out.bias.expand(5, 8))
    (gradient,) = torch.autograd.grad(out.square().sum(), keys)
    assert gradient.isfinite().all()
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_token_attention_has_exact_first_and_second_derivatives():
    attention = TokenAttention(4, heads=2).double()
    queries = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])

    def attend(queries, keys):
        return attention(queries, keys, mask)

    assert torch.autograd.gradcheck(attend, (queries, keys))
    assert torch.autograd.gradgradcheck(attend, (queries, keys))


def test_the_fused_kernels_still_lack_the_second_derivative_that_ours_has():
    def second_derivative(attend):
        query, key, value = (torch.randn(2, 2, 4, 8, requires_grad=True) for _ in range(3))
        (gradient,) = torch.autograd.grad(attend(query, key, value).square().sum(), query, create_graph=True)
        gradient.square().sum().backward()
        return query.grad

    assert second_derivative(twice_differentiable_attention).isfinite().all()
    try:
        second_derivative(scaled_dot_product_attention)
    except RuntimeError as error:
        assert "derivative" in str(error)
    else:
        pytest.skip("this torch differentiates its default attention twice: the math backend may no longer be needed")
