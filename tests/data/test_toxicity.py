"""Toxic text: its splits, tokens, identity terms and vocabulary, on the comments inside the package."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch

from genxai.config import Config, TextEncoderConfig
from genxai.data import open_split, split_names
from genxai.data.identity_terms import NONE, find_terms, identity_terms
from genxai.data.tokens import NO_WORD, WordPiece, load_tokenizer, load_vocabulary
from genxai.data.toxicity import ToxicText
from genxai.data.toxicity_sources import MADLIBS, load_comments
from genxai.data.toxicity_text import build_vocabulary, comment_words, encode_comments
from genxai.errors import UsageError

SPLITS = ("train", "val", "test", MADLIBS)


@pytest.fixture
def comments() -> Callable[..., Config]:
    """comments(max_tokens=64, name="small", **data options) -> Config of the comments inside the package."""

    def make(max_tokens: int = 64, name: str = "small", **data: object) -> Config:
        return Config.model_validate(
            {
                "data": {"dataset": "toxicity-surge", "source": "embedded", **data},
                "model": {"fusion": "text", "text": {"name": name, "max_tokens": max_tokens}},
                "train": {"generator": False},
                "revise": {"enabled": False},
            }
        )

    return make


def rows(split: ToxicText) -> list[tuple[int, ...]]:
    """Each comment of a split as its token ids, without padding."""
    pairs = zip(split.tokens, split.token_mask, strict=True)
    return [tuple(tokens[mask].tolist()) for tokens, mask in pairs]


def test_every_split_of_the_protocol_can_be_opened(comments) -> None:
    config = comments()
    assert split_names(config.data).every == SPLITS
    for name in SPLITS:
        split = open_split(config, name)
        assert len(split) == len(split.labels) > 0 and split.num_classes == 2 and split.labels.dtype == torch.int64
        assert int(split.tokens.max()) < split.vocab_size
    with pytest.raises(UsageError, match="the splits are train, val, test, madlibs"):
        ToxicText(config, "test_unbiased")


def test_splits_share_no_comment_and_leave_none_out(comments) -> None:
    found = {name: rows(ToxicText(comments(max_tokens=512), name)) for name in SPLITS[:3]}
    assert sum(map(len, found.values())) == 999  # of 1,000 one is there twice
    for one, other in combinations(found.values(), 2):
        assert not set(one) & set(other)
    assert [len(found[name]) for name in SPLITS[:3]] == [719, 80, 200]


def test_splits_have_the_share_of_toxic_comments_of_the_whole(comments) -> None:
    for name in SPLITS[:3]:
        split = ToxicText(comments(train_limit=90, test_limit=41), name)
        assert abs(int(split.labels.sum()) - len(split) * 500 / 999) <= 1


def test_splits_are_a_function_of_the_data_seed(comments) -> None:
    first, again, other = (rows(ToxicText(comments(max_tokens=512, seed=seed), "test")) for seed in (0, 0, 1))
    assert first == again and set(first) != set(other)


def test_limits_shorten_splits_and_the_audit_keeps_every_identity_in_both_classes(comments) -> None:
    config = comments(train_limit=90, test_limit=408)
    assert [len(ToxicText(config, name)) for name in ("train", "val")] == [90, 10]
    audited = ToxicText(config, MADLIBS)
    assert len(audited) == 408
    for label in (0, 1):
        counts = audited.identities[audited.labels == label].sum(dim=0)
        assert int(counts.min()) >= 3 and int(counts.max()) <= 5
    assert audited.identities.sum(dim=1).max() == 1 and audited.terms == identity_terms()


def test_a_batch_holds_what_a_step_needs(comments) -> None:
    split = ToxicText(comments(), "train")
    sample = split.batch([5, 0, 7])
    assert sample.images.shape == (3, 1, 0, 0) and sample.indices.tolist() == [5, 0, 7]
    for column, whole in (
        (sample.labels, split.labels),
        (sample.tokens, split.tokens),
        (sample.token_mask, split.token_mask),
        (sample.masks, split.identity_mask),
        (sample.identities, split.identities),
    ):
        assert torch.equal(column, whole[[5, 0, 7]])


def test_a_long_comment_loses_its_end_but_not_its_last_token_and_is_counted(comments) -> None:
    long, short = (ToxicText(comments(max_tokens=length), "test") for length in (512, 16))
    pairs = list(zip(rows(long), rows(short), strict=True))
    assert 0 < sum(len(whole) > 16 for whole, _ in pairs) == short.provenance["truncated"] < len(pairs)
    assert long.provenance["truncated"] == 1
    assert all(cut == (whole if len(whole) <= 16 else (*whole[:15], whole[-1])) for whole, cut in pairs)


def test_provenance_says_what_was_read_and_what_was_left_out(comments) -> None:
    told = ToxicText(comments(), "train").provenance
    assert told["repeats_left_out"] == 1 and told["dataset"] == "toxicity-surge" and told["vocab_size"] > 1000
    assert told["sha256"] == {"toxicity-surge": load_comments("toxicity-surge", "embedded").sha256}
    assert list(ToxicText(comments(), MADLIBS).provenance["sha256"]) == [MADLIBS]


@pytest.mark.skipif(not os.environ.get("GENXAI_DATA"), reason="GENXAI_DATA is not set: no full data to compare with")
def test_the_comments_inside_the_package_are_all_there_are(comments) -> None:
    inside, full = load_comments("toxicity-surge", "embedded"), load_comments("toxicity-surge", "full")
    assert inside.texts == full.texts and (inside.labels == full.labels).all()
    for name in SPLITS[:3]:
        assert rows(ToxicText(comments(), name)) == rows(ToxicText(comments(source="full"), name))


# --- words and vocabulary ---------------------------------------------------------------------------


def test_comments_are_lower_cased_split_and_freed_of_html_entities() -> None:
    expected = ["i", "said", ":", *'"', "hello", *'"&', "bye", *"..."]
    assert comment_words("I Said: &quot;HELLO&quot; &amp; bye...") == expected


COMMENTS = [*(f"walking talking jumping {letter}" for letter in "abc"), "walking", "zebra a"]


def test_a_vocabulary_has_frequent_words_endings_and_letters_and_depends_on_no_order() -> None:
    words = [comment.split() for comment in COMMENTS]
    pieces = build_vocabulary(words)
    assert pieces == build_vocabulary(words[::-1]) and len(set(pieces)) == len(pieces)
    assert {"walking", "talking", "##ing", "##king", "a", "##a"} - set(pieces) == {"##king"}
    assert "zebra" not in pieces and "z" not in pieces  # seen once


def test_a_rare_word_is_cut_into_known_parts() -> None:
    pieces = build_vocabulary(comment.split() for comment in COMMENTS)
    ((ids, _),) = [zip(*row, strict=True) for row in WordPiece(pieces, 16).encode_words([["walking", "taking"]])]
    assert [pieces[number] for number in ids] == ["[CLS]", "walking", "t", "##a", "##k", "##ing", "[SEP]"]


def test_the_vocabulary_is_that_of_the_training_comments_alone(comments) -> None:
    def vocabulary(**limits: int) -> tuple[int, list[tuple[int, ...]]]:
        split = ToxicText(comments(**limits), "train")
        return split.vocab_size, rows(split)

    assert vocabulary() == vocabulary(test_limit=20)  # other test comments, the same ids
    assert vocabulary()[0] > vocabulary(train_limit=300)[0]
    assert len({ToxicText(comments(), name).vocab_size for name in SPLITS}) == 1


# --- identity terms ---------------------------------------------------------------------------------


def found_in(text: str) -> list[str | None]:
    return [None if number == NONE else identity_terms()[number] for number in find_terms(text.split())]


def test_terms_are_found_whole_in_the_plural_and_the_longest_first() -> None:
    assert found_in("two muslims met an african american") == [
        *(None, "muslim", None, None),
        *("african american",) * 2,
    ]
    assert found_in("african cooking , american muslimah") == ["african", None, None, "american", None]
    assert found_in("middle of the aged") == [None] * 4


def test_the_list_has_fifty_terms_in_alphabetical_order() -> None:
    assert len(set(identity_terms())) == 50 and list(identity_terms()) == sorted(identity_terms())


def test_the_mask_is_true_on_exactly_the_tokens_of_terms() -> None:
    words = [["my", "jewish", "uncle"], ["no"], [*6 * ["so"], "latinx"]]
    encoded = encode_comments(words, WordPiece(load_vocabulary(), 12), 12)
    pieces, marked = load_vocabulary(), []
    for tokens, mask in zip(encoded.tokens, encoded.identity_mask, strict=True):
        marked.append("".join(pieces[number] for number in tokens[mask].tolist()).replace("##", ""))
    assert marked == ["jewish", "", ""]
    assert encoded.truncated == 2 and not (encoded.identity_mask & ~encoded.token_mask).any()
    # a term that was cut off is in the comment still, though on no token of it
    named = [identity_terms()[number] for number in encoded.identities.nonzero()[:, 1].tolist()]
    assert named == ["jewish", "latinx"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT's tokenizer in a local folder, over the vocabulary of captions."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    pieces = {piece: number for number, piece in enumerate(load_vocabulary())}
    transformers.BertTokenizer(vocab=pieces, do_lower_case=True).save_pretrained(folder)
    return str(folder)


TEXTS: Sequence[str] = ("A Latina woman, 30!", "ünïcode & gay men's rights", "", "x" * 120, "old-fashioned :-)")


def test_tokens_of_a_bert_know_their_words_as_our_own_do(bert: str) -> None:
    theirs = load_tokenizer(TextEncoderConfig(name=bert, max_tokens=64))
    words = [comment_words(text) for text in TEXTS]
    assert theirs.encode_words(words) == WordPiece(load_vocabulary(), 64).encode_words(words)
    assert theirs.encode_words([]) == []
    assert {row[0][1] for row in theirs.encode_words(words)} == {NO_WORD}


def test_a_berts_own_tokenizer_reads_the_comments(comments, bert: str) -> None:
    split = ToxicText(comments(name=bert), "test")
    assert split.vocab_size == len(load_vocabulary())
    assert torch.equal(split.identities, ToxicText(comments(), "test").identities)
    assert split.identity_mask.any()
