"""The processor is called as Transformers' own are, and the tokenizers do what they promise."""

from __future__ import annotations

import pytest
import torch
from specimens import PHONEMES, WORDS, build_processor

from hf_genext import GenextProcessor, train_tokenizer


def test_source_and_target_come_as_the_model_takes_them():
    processor = build_processor()
    batch = processor(text=["cat", "at"], text_target=["K AE T", "AE T"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["input_ids"][1, -1] == processor.tokenizer.pad_token_id
    assert batch["labels"][1, -1] == processor.target_tokenizer.pad_token_id
    assert batch["labels"][0, -1] == processor.target_tokenizer.eos_token_id
    assert processor.batch_decode(batch["labels"], skip_special_tokens=True) == ["K AE T", "AE T"]
    assert processor.decode(batch["labels"][0], skip_special_tokens=True) == "K AE T"
    assert torch.equal(processor(text=["cat", "at"], padding=True, return_tensors="pt")["input_ids"], batch["input_ids"])
    assert set(processor(text_target="AE T")) == {"labels"}


def test_spelling_with_capitals_is_the_same_word():
    processor = build_processor()
    ids = [processor(text=word)["input_ids"] for word in ("Violin", "VIOLIN", "violin")]
    assert ids[0] == ids[1] == ids[2]


def test_each_side_is_cut_to_its_own_length():
    batch = build_processor()(
        text="violins", text_target="V AY AH L IH N Z", truncation=True, max_length=5, max_target_length=3
    )
    assert (len(batch["input_ids"]), len(batch["labels"])) == (5, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "got neither"),
        ({"text": 3}, TypeError, "text must be a string or a list of strings, got int"),
        ({"text": ["a", None]}, TypeError, r"text\[1\] must be a string, got NoneType"),
        ({"text_target": [["a"]]}, TypeError, r"text_target\[0\] must be a string, got list"),
    ],
)
def test_what_is_no_text_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        build_processor()(**arguments)


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = train_tokenizer(WORDS, unit="character")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"target_tokenizer has no padding token.*pad_token ="):
        GenextProcessor(tokenizer=train_tokenizer(WORDS, unit="character"), target_tokenizer=tokenizer)


@pytest.mark.parametrize("unit", ["character", "word", "subword"])
def test_texts_come_back_as_they_were(unit):
    tokenizer = train_tokenizer(PHONEMES, unit=unit, vocab_size=300)
    for text in PHONEMES:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer(PHONEMES[0])["input_ids"][-1] == tokenizer.eos_token_id


def test_characters_that_were_not_seen_are_unknown_but_bytes_never_are():
    assert train_tokenizer(WORDS, unit="character").unk_token_id in train_tokenizer(WORDS, unit="character")("日")["input_ids"]
    subwords = train_tokenizer(WORDS, unit="subword", vocab_size=300)
    assert subwords.decode(subwords("日本 naïve")["input_ids"], skip_special_tokens=True) == "日本 naïve"


@pytest.mark.parametrize(
    ("texts", "unit", "message"),
    [
        (["a"], "letter", 'unit must be "character", "word" or "subword"'),
        ([""], "character", "no character"),
        ([" "], "word", "no word"),
    ],
)
def test_texts_without_a_vocabulary_are_refused(texts, unit, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, unit=unit)


def test_arguments_may_stand_in_groups_as_in_transformers():
    processor = build_processor()
    plain = processor(text=["cat", "a"], padding=True, return_tensors="pt")
    grouped = processor(text=["cat", "a"], text_kwargs={"padding": True}, common_kwargs={"return_tensors": "pt"})
    assert {name: tensor.tolist() for name, tensor in grouped.items()} == {name: t.tolist() for name, t in plain.items()}
