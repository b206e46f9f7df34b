import shutil
import sys

import pytest
import torch

from genxai.config import TextEncoderConfig
from genxai.errors import GenxaiError, UsageError
from genxai.models.text_encoders import build_text_encoder

VOCABULARY = 30  # that of bert_folder


@pytest.fixture(params=["small", "bert"])
def encoder(request):
    """Both kinds, in evaluation mode (BERT has dropout)."""
    if request.param == "small":
        cfg = TextEncoderConfig(width=8, layers=2, heads=2, max_tokens=8)
    else:
        cfg = TextEncoderConfig(name=request.getfixturevalue("bert_folder"), max_tokens=8)
    return build_text_encoder(cfg, VOCABULARY).eval()


@pytest.fixture
def captions():
    return torch.randint(VOCABULARY, (3, 6)), torch.arange(6) < torch.tensor([[6], [3], [0]])


def test_each_token_gets_a_vector(encoder, captions):
    hidden = encoder(*captions)
    assert hidden.shape == (3, 6, encoder.token_channels)
    assert hidden.dtype == torch.float32


def test_padding_does_not_change_the_tokens_of_a_caption(encoder, captions):
    tokens, mask = captions
    other = torch.where(mask, tokens, (tokens + 7) % VOCABULARY)
    torch.testing.assert_close(encoder(other, mask)[mask], encoder(tokens, mask)[mask])
    torch.testing.assert_close(encoder(tokens[1:2, :3], mask[1:2, :3])[0], encoder(tokens, mask)[1, :3])


def test_a_missing_caption_gives_finite_values_and_gradients(encoder, captions):
    hidden = encoder(*captions)
    assert hidden.isfinite().all()
    hidden.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_word_order_matters(encoder):
    tokens, mask = torch.tensor([[1, 2, 3], [3, 2, 1]]), torch.ones(2, 3, dtype=torch.bool)
    hidden = encoder(tokens, mask)
    assert not torch.allclose(hidden[0], hidden[1].flip(0), atol=1e-4)


def test_every_parameter_is_used(encoder, captions):
    encoder(*captions).square().sum().backward()
    unused = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert unused == []


def test_a_caption_longer_than_max_tokens_is_refused(encoder):
    with pytest.raises(UsageError, match=r"9 tokens long; model\.text\.max_tokens allows 8"):
        encoder(torch.zeros(1, 9, dtype=torch.long), torch.ones(1, 9, dtype=torch.bool))


def test_bert_gives_what_transformers_gives(bert_folder, captions):
    from transformers import BertModel

    tokens, mask = captions[0][:2], captions[1][:2]
    reference = BertModel.from_pretrained(bert_folder).eval()
    expected = reference(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    ours = build_text_encoder(TextEncoderConfig(name=bert_folder, max_tokens=8), VOCABULARY).eval()
    torch.testing.assert_close(ours(tokens, mask)[mask], expected[mask])


def test_bert_never_gets_a_row_without_any_key(bert_folder, captions):
    ours = build_text_encoder(TextEncoderConfig(name=bert_folder, max_tokens=8), VOCABULARY)
    masks = []
    ours.bert.register_forward_pre_hook(
        lambda _, __, options: masks.append(options["attention_mask"]), with_kwargs=True
    )
    ours(*captions)
    assert masks[0].any(dim=-1).all()
    assert torch.equal(masks[0][:2, 0, 0], captions[1][:2])


def test_bert_without_pretraining_has_the_architecture_and_random_weights(bert_folder):
    cfg = TextEncoderConfig(name=bert_folder, max_tokens=8, pretrained=False)
    fresh, trained = (
        build_text_encoder(cfg, VOCABULARY),
        build_text_encoder(cfg.model_copy(update={"pretrained": True}), 5),
    )
    shapes = [{name: t.shape for name, t in network.state_dict().items()} for network in (fresh, trained)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(fresh.bert.embeddings.word_embeddings.weight, trained.bert.embeddings.word_embeddings.weight)


def test_a_tokenizer_or_caption_length_beyond_the_model_is_refused(bert_folder):
    with pytest.raises(UsageError, match="knows 30 tokens, but the tokenizer makes 31"):
        build_text_encoder(TextEncoderConfig(name=bert_folder, max_tokens=8), VOCABULARY + 1)
    with pytest.raises(UsageError, match=r"max_tokens=17: .* allows at most 16"):
        build_text_encoder(TextEncoderConfig(name=bert_folder, max_tokens=17), VOCABULARY)


def test_a_name_that_is_nowhere_is_one_plain_message(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = str(tmp_path / "nowhere")
    with pytest.raises(GenxaiError, match="nowhere' is neither 'small', nor a local folder") as caught:
        build_text_encoder(TextEncoderConfig(name=name), VOCABULARY)
    assert "\n" not in str(caught.value)


def test_a_folder_with_damaged_weights_is_one_plain_message(tmp_path, bert_folder):
    folder = tmp_path / "damaged"
    shutil.copytree(bert_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GenxaiError, match="damaged"):
        build_text_encoder(TextEncoderConfig(name=str(folder)), VOCABULARY)


def test_weights_that_lack_a_part_are_refused_not_filled_at_random(tmp_path, bert_folder):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "partial"
    shutil.copytree(bert_folder, folder)
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GenxaiError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        build_text_encoder(TextEncoderConfig(name=str(folder), max_tokens=8), VOCABULARY)


def test_a_model_that_is_no_bert_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"not BERT-like \(gpt2\)"):
        build_text_encoder(TextEncoderConfig(name=str(tmp_path), pretrained=False), VOCABULARY)


def test_missing_transformers_are_told_plainly(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GenxaiError, match=r"needs transformers.*genxai\[text\].*model\.text\.name=small"):
        build_text_encoder(TextEncoderConfig(name="bert-base-uncased"), VOCABULARY)
