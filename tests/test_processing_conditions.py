"""The processor's other parts: pictures, audio, vectors and labels, alone and beside text, and all the way into a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from composition_specimens import DECODERS, build_bert
from PIL import Image
from specimens import PHONEMES, WORDS, build_processor, sharpen
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_genext import (
    GenextConfig,
    GenextForConditionalGeneration,
    GenextProcessor,
    GenextVectorConditionerConfig,
    train_tokenizer,
)

PICTURES = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]


def build_letters():
    return train_tokenizer(WORDS, unit="character", lowercase=True, model_max_length=24)


def build_phonemes():
    return train_tokenizer(PHONEMES, unit="word", model_max_length=24)


def build_whole_processor(**parts) -> GenextProcessor:
    return GenextProcessor(
        **{
            "tokenizer": build_letters(),
            "target_tokenizer": build_phonemes(),
            "image_processor": ViTImageProcessor(size={"height": 8, "width": 8}),
            "feature_extractor": WhisperFeatureExtractor(feature_size=8, chunk_length=1),
            "label_names": {"digit": list("0123"), "accent": ["us", "uk"]},
            "vector_size": 3,
            **parts,
        }
    )


WHOLE_BATCH = {
    "text": ["cat", "at"],
    "images": PICTURES,
    "audio": [np.zeros(8000), np.ones(4000)],
    "sampling_rate": 16000,
    "condition_vectors": [[1.0, 2, 3], [4, 5, 6]],
    "condition_labels": [{"digit": "2", "accent": "us"}, {"accent": 1}],
    "text_target": ["K AE T", "AE T"],
    "padding": True,
    "return_tensors": "pt",
}


def test_every_kind_of_condition_becomes_what_its_conditioner_reads():
    batch = build_whole_processor()(**WHOLE_BATCH)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 4),
        "attention_mask": (2, 4),
        "pixel_values": (2, 3, 8, 8),
        "input_features": (2, 8, 100),
        "condition_vectors": (2, 3),
        "condition_labels": (2, 2),
        "labels": (2, 4),
    }
    assert batch["condition_labels"].tolist() == [[2, 0], [-1, 1]]
    assert batch["condition_vectors"].dtype == torch.float32
    expected = ViTImageProcessor(size={"height": 8, "width": 8})(PICTURES, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)


def test_audio_of_unequal_length_has_a_mask():
    processor = build_whole_processor(feature_extractor=Wav2Vec2FeatureExtractor())
    batch = processor(audio=[np.ones(8, np.float32), np.ones(5, np.float32)], sampling_rate=16000, return_tensors="pt")
    assert batch["feature_attention_mask"].sum(dim=1).tolist() == [8, 5]


@pytest.mark.parametrize(
    "without", [[], ["tokenizer"], ["image_processor", "feature_extractor"], ["label_names", "vector_size"]]
)
def test_a_processor_is_saved_and_opened_with_the_parts_that_it_has(without, tmp_path):
    processor = build_whole_processor(**dict.fromkeys(without))
    processor.save_pretrained(tmp_path)
    GenextConfig().save_pretrained(tmp_path)
    opened = AutoProcessor.from_pretrained(tmp_path)
    assert opened.get_attributes() == processor.get_attributes()
    removed = {"tokenizer": "text", "image_processor": "images", "feature_extractor": "audio"}
    removed |= {"label_names": "condition_labels", "vector_size": "condition_vectors"}
    batch = {name: value for name, value in WHOLE_BATCH.items() if name not in [removed[part] for part in without]}
    before, after = processor(**batch), opened(**batch)
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(before[name], after[name])


def test_what_is_missing_in_a_row_says_so():
    batch = build_whole_processor()(
        text=["cat", None],
        images=[None, PICTURES[0]],
        condition_vectors=[None, [1, 2, 3]],
        condition_labels=[None, {"digit": "3"}],
        padding=True,
        return_tensors="pt",
    )
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 0]
    assert batch["pixel_values"].isnan().all(dim=(1, 2, 3)).tolist() == [True, False]
    assert batch["condition_vectors"].isnan().all(dim=1).tolist() == [True, False]
    assert batch["condition_labels"].tolist() == [[-1, -1], [3, -1]]


def test_a_missing_condition_reaches_the_null_state_of_a_model():
    processor = GenextProcessor(
        tokenizer=build_letters(), target_tokenizer=build_phonemes(), vector_size=9, label_names={"accent": ["us", "uk", "in"]}
    )
    bert = build_bert()
    bert.vocab_size = len(processor.tokenizer)
    decoder = DECODERS["gpt2"]()
    decoder.vocab_size = len(processor.target_tokenizer)
    model = sharpen(
        GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            encoder={
                "vector": GenextVectorConditionerConfig(vector_size=9),
                "accent": {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 8},
                "text": bert,
            },
            decoder=decoder,
        )
    )
    processor.require_fit(model.config)
    rows = {"text": ["cat", None], "condition_vectors": [None, list(range(9))], "condition_labels": ["uk", None]}
    together = model.encode(**processor(**rows, padding=True, return_tensors="pt"))
    mask = torch.tensor([[0, 1, 1], [1, 0, 0]])
    given = processor(
        text=["cat", "at"],
        condition_vectors=np.ones((2, 9)) * range(9),
        condition_labels=["uk", "us"],
        return_tensors="pt",
        padding=True,
    )
    torch.testing.assert_close(together, model.encode(**given, condition_mask=mask))
    generated = model.generate(**given, max_new_tokens=5)
    assert len(processor.batch_decode(generated, skip_special_tokens=True)) == 2


def test_a_row_without_the_only_condition_is_refused_by_the_model():
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4),
        decoder=DECODERS["gpt2"](),
    )
    batch = build_whole_processor()(images=[None, PICTURES[0]], return_tensors="pt")
    with pytest.raises(ValueError, match=r"one condition \(pixel_values\).*condition_dropout="):
        model.generate(**batch)


def build_tokenizer_like(template: str, names: tuple[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer that adds what those of language models add: nothing, a start token, or both ends."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    ends = dict(zip(names, ("<s>", "</s>"), strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **ends)


@pytest.mark.parametrize("names", [("bos_token", "eos_token"), ("cls_token", "sep_token")])
@pytest.mark.parametrize("template", ["", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_labels_end_with_the_end_token_and_begin_behind_the_start_token(template, names):
    processor = GenextProcessor(tokenizer=build_tokenizer_like(template, names))
    assert processor(text_target="a b")["labels"] == [3, 4, 2]
    assert processor(text_target=["a b", "b"])["labels"] == [[3, 4, 2], [4, 2]]
    padded = processor(text_target=["a b", "b"], padding=True, return_tensors="pt")["labels"]
    assert padded.tolist() == [[3, 4, 2], [4, 2, 0]]
    cut = processor(text_target=["a b a b a", "b"], truncation=True, max_target_length=3)["labels"]
    assert [row[-1] for row in cut] == [2, 2]
    assert max(map(len, cut)) <= 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": PICTURES[0]}, TypeError, r"text must be a string.*got Image.*Give a picture as images="),
        ({"text": [np.zeros(3)]}, TypeError, r"text\[0\] must be a string.*condition_vectors="),
        ({"images": ["cat.png"]}, TypeError, "takes pictures, got the string 'cat.png'"),
        ({"condition_vectors": [[1.0, 2]]}, ValueError, "vectors of 3 numbers, got some of 2"),
        (
            {"condition_labels": [{"digit": "seven"}]},
            ValueError,
            "Field 'digit' has no label 'seven'; known are '0', '1', '2', '3'",
        ),
        ({"condition_labels": [{"accent": "uss"}]}, ValueError, "Did you mean 'us'"),
        ({"condition_labels": [{"colour": "red"}]}, ValueError, "no field 'colour' of labels; known are 'digit', 'accent'"),
        ({"condition_labels": ["2"]}, ValueError, "2 fields of labels.*Give a dictionary"),
        ({"condition_labels": [{"digit": 4}]}, ValueError, "labels 0 to 3"),
        ({"audio": [np.zeros(10)]}, ValueError, "sampling_rate=. The model takes 16000"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(arguments, error, message):
    with pytest.raises(error, match=message):
        build_whole_processor()(**arguments)


def test_a_number_that_is_the_name_of_another_label_is_refused():
    processor = GenextProcessor(label_names={"stars": ["1", "2", "3"]})
    assert processor(condition_labels=["2", "3"])["condition_labels"].tolist() == [[1], [2]]
    assert processor(condition_labels=[0, -1])["condition_labels"].tolist() == [[0], [-1]]
    with pytest.raises(ValueError, match=r"of the name '2', and another, '3', of the number 2. Give the name"):
        processor(condition_labels=[2])
    digits = GenextProcessor(label_names={"digit": [str(digit) for digit in range(10)]})
    assert digits(condition_labels=[7])["condition_labels"].tolist() == [[7]]


@pytest.mark.parametrize("label", [0.5, math.nan, math.inf])
def test_a_number_that_is_no_whole_one_is_no_label(label):
    processor = GenextProcessor(label_names={"field": ["a", "b"]})
    with pytest.raises(ValueError, match=rf"whole numbers or names, got {label}. For none give None"):
        processor(condition_labels=["a", label])
    assert processor(condition_labels=[1.0, True, None])["condition_labels"].tolist() == [[1], [1], [-1]]


def test_a_condition_without_its_part_is_refused():
    with pytest.raises(ValueError, match=r"reads no pictures: it has no image_processor. It takes text="):
        build_processor()(images=PICTURES)
    with pytest.raises(ValueError, match="no target_tokenizer"):
        GenextProcessor(vector_size=3)(text_target="a")
    with pytest.raises(ValueError, match="one part at least"):
        GenextProcessor()
    with pytest.raises(ValueError, match="vector of row 1 holds what is not a finite number"):
        GenextProcessor(vector_size=2)(condition_vectors=[[0.0, 1.0], [0.0, float("nan")], None])
    with pytest.raises(TypeError, match=r"text\[1\] must be a string, got NoneType"):
        build_processor()(text=["a", None])


def test_two_tokenizers_mixed_up_are_noticed():
    letters, phonemes = build_letters(), build_phonemes()
    assert len(letters) != len(phonemes)
    config = GenextConfig(conditioner={"vocab_size": len(letters)}, decoder={"vocab_size": len(phonemes)})
    GenextProcessor(letters, phonemes).require_fit(config)
    with pytest.raises(ValueError, match=r"mixed up: exchange tokenizer= and target_tokenizer="):
        GenextProcessor(phonemes, letters).require_fit(config)
    config.conditioner = GenextVectorConditionerConfig(vector_size=5)
    config.decoder.vocab_size = 5
    with pytest.raises(ValueError, match=r"target_tokenizer has \d+ tokens, but the model knows 5 there. Resize"):
        GenextProcessor(target_tokenizer=letters, vector_size=5).require_fit(config)
    config.decoder.vocab_size = len(phonemes)
    with pytest.raises(ValueError, match="vectors of 4 numbers, the model of 5"):
        GenextProcessor(target_tokenizer=phonemes, vector_size=4).require_fit(config)
