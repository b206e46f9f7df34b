"""Our WordPiece against transformers' on the same vocabulary, and every error a person can meet."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from genxai.config import TextEncoderConfig
from genxai.data import tokens
from genxai.data.captions import variants
from genxai.data.make_vocabulary import build_vocabulary
from genxai.data.tokens import WordPiece, load_tokenizer, load_vocabulary
from genxai.errors import GenxaiError, UsageError

VOCABULARY = Path(tokens.__file__).with_name("vocab.txt")


@pytest.fixture(scope="module")
def small() -> WordPiece:
    return WordPiece(load_vocabulary(), 24)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT's tokenizer in a local folder, over our vocabulary."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    pieces = {piece: number for number, piece in enumerate(load_vocabulary())}
    transformers.BertTokenizer(vocab=pieces, do_lower_case=True).save_pretrained(folder)
    return folder


def test_the_shipped_vocabulary_is_the_one_our_words_give():
    assert load_vocabulary() == build_vocabulary()
    assert len(set(build_vocabulary())) == len(build_vocabulary())
    assert load_vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_every_word_of_every_caption_is_one_piece(small, dataset):
    unknown = load_vocabulary().index("[UNK]")
    for text in variants(dataset, "train") + variants(dataset, "test"):
        ids = small.ids(text)
        assert unknown not in ids and len(ids) == 2 + len(tokens.split_words(text))


def test_any_lower_case_text_has_tokens(small):
    ids = small.ids("zebras, quizzed 42 times; they'd jump (very) high!")
    assert load_vocabulary().index("[UNK]") not in ids


def test_the_longest_piece_wins():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "s", "se", "seven", "##v", "##en", "##teen", "##t", "##e"]
    tokenizer = WordPiece(vocabulary, 16)
    names = [vocabulary[k] for k in tokenizer.ids("seventeen seve sevt xs")]
    assert names == ["[CLS]", "seven", "##teen", "se", "##v", "##e", "se", "##v", "##t", "[UNK]", "[SEP]"]


def test_texts_are_padded_and_masked(small):
    ids, mask = small.encode(["this is the digit seven", "", "a digit"])
    assert ids.shape == mask.shape == (3, 24) and ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [7, 2, 4]
    assert torch.equal(ids == small.pad_id, ~mask)
    assert ids.max() < small.vocab_size


def test_no_text_at_all_is_an_empty_batch(small):
    ids, mask = small.encode([])
    assert ids.shape == mask.shape == (0, 24)


def test_a_caption_that_does_not_fit_is_named_with_what_would_do(small):
    tokenizer = WordPiece(load_vocabulary(), 8)
    tokenizer.encode(["this is the digit seven"])
    with pytest.raises(
        UsageError, match=r"max_tokens.*'a picture of the digit seven with broad.*got 8; allowed: >= 12"
    ):
        tokenizer.encode(["a digit", "a picture of the digit seven with broad upright stripes"])


AWKWARD = [
    "",
    "  spaces\tand\nlines\r ",
    "Déjà VU, naïve Ångström",
    "don't-stop... (really?) [x] {y} <z> $5 ^^ `a` ~b~ + = |",
    "日本語 text 漢字",
    "emoji 😀 here",
    "zero\u200bwidth \u00a0 nbsp \x00 null \ufffd",
    "ﬁ ligature ½ ² ß İstanbul",
    "a" * 100 + " " + "b" * 101,
    "\u201cquotes\u201d \u2013 dash \u2014 \u00bfque?",
    "seventeen sevens t-shirt's tshirt",
]


def test_our_wordpiece_agrees_with_transformers(small, bert):
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(bert)
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 ,.-'ABCÉü\n"
    noise = ["".join(rng.choice(letters) for _ in range(rng.randint(0, 60))) for _ in range(300)]
    for text in AWKWARD + noise + variants("mnist", "train")[::7] + variants("fashion-mnist", "test")[::7]:
        assert small.ids(text) == theirs(text)["input_ids"], text


def test_any_bert_can_be_used_from_a_local_folder(small, bert):
    tokenizer = load_tokenizer(TextEncoderConfig(name=str(bert), max_tokens=24))
    texts = ["this is the digit seven", ""]
    assert all(torch.equal(a, b) for a, b in zip(tokenizer.encode(texts), small.encode(texts), strict=True))
    assert tokenizer.vocab_size == small.vocab_size and tokenizer.pad_id == small.pad_id
    with pytest.raises(UsageError, match="digit seven"):
        load_tokenizer(TextEncoderConfig(name=str(bert), max_tokens=8)).encode(["a b c d e f g digit seven"])


def test_a_folder_without_a_tokenizer_is_a_plain_error(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it would try for most of a minute
    for name in (str(tmp_path), str(tmp_path / "missing"), "~/no/such/folder", "no-such-user/no-such-bert"):
        with pytest.raises(GenxaiError, match=r"no tokenizer in|is not a folder") as caught:
            load_tokenizer(TextEncoderConfig(name=name))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GenxaiError, match=r"genxai\[text\]"):
        load_tokenizer(TextEncoderConfig(name="bert-base-uncased"))
