"""The pipeline with conditions that are no text, with several, with none, and with single outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from composition_specimens import DECODERS, build_bert
from PIL import Image
from scipy.stats import chisquare
from specimens import PHONEMES, WORDS, build_config, build_processor, sharpen
from transformers import ViTConfig, ViTImageProcessor, WhisperConfig, WhisperFeatureExtractor, pipeline

from hf_genext import (
    GenextDecoderConfig,
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextHeadConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextProcessor,
    GenextVectorConditionerConfig,
    train_tokenizer,
)

TASK = "conditional-generation"
ACCENTS = {"accent": ["us", "uk", "in"]}
PICTURES = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
VECTORS = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)


def build_targets():
    return train_tokenizer(PHONEMES, unit="word", model_max_length=24)


def save(folder, encoder, decoder="gpt2", num_latents=2, **parts):
    """A model folder as a training leaves it."""
    processor = GenextProcessor(target_tokenizer=build_targets(), **parts)
    config = DECODERS[decoder]()
    config.vocab_size = len(processor.target_tokenizer)
    torch.manual_seed(0)
    model = sharpen(
        GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=encoder, decoder=config, num_latents=num_latents)
    )
    model.generation_config.max_new_tokens = 6
    model.generation_config.no_repeat_ngram_size = 1
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def check_answers(pipe, conditions, expected):
    """Alone, in a list and in batches the answers are those of `generate`."""
    assert [pipe(condition) for condition in conditions] == expected
    for batch_size in (1, 2, 3):
        assert pipe(conditions, batch_size=batch_size) == expected
    assert len({answer[0]["generated_text"] for answer in expected}) > 1, "the specimen answers the same to everything"


def to_answers(processor, ids):
    return [[{"generated_text": text}] for text in processor.batch_decode(ids, skip_special_tokens=True)]


def test_vectors(tmp_path):
    model, processor = save(tmp_path, GenextVectorConditionerConfig(vector_size=9, hidden_size=24), vector_size=9)
    expected = to_answers(processor, model.generate(condition_vectors=torch.from_numpy(VECTORS)))
    check_answers(pipeline(TASK, model=str(tmp_path)), [{"vector": vector} for vector in VECTORS], expected)
    pipe = pipeline(TASK, model=str(tmp_path))
    with pytest.raises(ValueError, match="vectors of 9 numbers, got some of 3"):
        pipe({"vector": [1.0, 2, 3]})
    assert pipe(list(VECTORS)) == pipe([{"vector": vector} for vector in VECTORS])
    for rows in (VECTORS, torch.from_numpy(VECTORS)):
        with pytest.raises(
            ValueError, match=rf"may be {len(VECTORS)} conditions or one of several vectors. Give list\(array\)"
        ):
            pipe(rows)


def test_pictures(tmp_path):
    encoder = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    image_processor = ViTImageProcessor(size={"height": 8, "width": 8})
    model, processor = save(tmp_path, encoder, "llama", image_processor=image_processor)
    expected = to_answers(processor, model.generate(**processor(images=PICTURES, return_tensors="pt")))
    check_answers(pipeline(TASK, model=str(tmp_path)), [{"image": picture} for picture in PICTURES], expected)


def test_audio(tmp_path):
    encoder = WhisperConfig(
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=28,
        num_mel_bins=8,
        max_source_positions=50,
    )
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    model, processor = save(tmp_path, encoder, "opt", feature_extractor=extractor)
    sounds = [np.sin(np.arange(9000) * pitch).astype(np.float32) for pitch in (0.1, 0.5, 1.5)]
    batch = processor(audio=sounds, sampling_rate=16000, return_tensors="pt")
    expected = to_answers(processor, model.generate(**batch))
    conditions = [{"audio": sound, "sampling_rate": 16000} for sound in sounds]
    pipe = pipeline(TASK, model=str(tmp_path))
    check_answers(pipe, conditions, expected)
    long = {"audio": np.resize(sounds[0], 16_001), "sampling_rate": 16000}
    with pytest.raises(ValueError, match=r"has 16,001 samples \(1\.0 seconds\); the model takes 16,000 \(1\.0\)"):
        pipe(long)
    assert pipe(long, truncation="truncate")[0]["truncated"]


def test_several_conditions_of_which_any_may_be_missing(tmp_path):
    letters = train_tokenizer(WORDS, unit="character", model_max_length=24)
    text = build_bert()
    text.vocab_size = len(letters)
    encoder = {
        "text": text,
        "accent": GenextLabelConditionerConfig(label_counts=[3], hidden_size=8),
        "vector": GenextVectorConditionerConfig(vector_size=9),
    }
    model, processor = save(tmp_path, encoder, num_latents=None, tokenizer=letters, label_names=ACCENTS, vector_size=9)
    conditions = [
        {"text": "cat", "label": "uk"},
        {"vector": VECTORS[0]},
        "violin",
        {"label": {"accent": "in"}, "text": "at"},
    ]
    pipe = pipeline(TASK, model=str(tmp_path))
    rows = processor(
        text=["cat", None, "violin", "at"],
        condition_labels=["uk", None, None, "in"],
        condition_vectors=[None, VECTORS[0], None, None],
        padding=True,
        return_tensors="pt",
    )
    expected = to_answers(processor, model.generate(**rows))
    check_answers(pipe, conditions, expected)
    assert pipe({"text": "cat", "label": None, "vector": None}) == pipe("cat")
    assert pipe({"text": None, "vector": VECTORS[0]}) == pipe({"vector": VECTORS[0]})
    none = pipe(num_samples=3, do_sample=False)
    assert none == [pipe({})] * 3
    assert len({answer[0]["generated_text"] for answer in pipe(num_samples=6)}) > 1
    with pytest.raises(ValueError, match="no label 'au'"):
        pipe({"text": "cat", "label": "au"})


def test_pictures_beside_texts_of_which_any_may_be_missing(tmp_path):
    letters = train_tokenizer(WORDS, unit="character", model_max_length=24)
    text = build_bert()
    text.vocab_size = len(letters)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    picture = ViTConfig(image_size=8, patch_size=4, **sizes)
    parts = {"tokenizer": letters, "image_processor": ViTImageProcessor(size={"height": 8, "width": 8})}
    save(tmp_path, {"text": text, "image": picture}, num_latents=None, **parts)
    pipe = pipeline(TASK, model=str(tmp_path))
    conditions = [
        {"text": "cat", "image": PICTURES[0]},
        {"text": "at"},
        {"image": PICTURES[1]},
        {},
        {"text": "violin", "image": PICTURES[2]},
        {"text": "at"},
    ]
    alone = [pipe(condition) for condition in conditions]
    check_answers(pipe, conditions, alone)
    assert pipe(conditions) == list(pipe((condition for condition in conditions), batch_size=4)) == alone
    assert pipe(conditions, num_workers=1, batch_size=4) == alone
    streamed = [list(stream)[-1]["generated_text"] for stream in pipe.stream(conditions)]
    assert streamed == [answer[0]["generated_text"] for answer in alone]
    targets = ["AE T", "V AY", ["AH"], [], ["S", "K AE T"], "AE"]
    scored = pipe.score(conditions, targets, batch_size=3)
    assert scored[3] == [] and len(scored[4]) == 2
    for found, condition, target in zip(scored, conditions, targets, strict=True):
        (expected,) = pipe.score([condition], [target])
        pairs = zip(found, expected, strict=True) if isinstance(target, list) else [(found, expected)]
        for score, other in pairs:
            assert score["token_scores"] == pytest.approx(other["token_scores"], abs=1e-4)


def test_nothing_is_a_condition_too(tmp_path):
    model, processor = save(tmp_path, None)
    pipe = pipeline(TASK, model=str(tmp_path))
    assert pipe(num_samples=2, num_beams=1) == to_answers(processor, model.generate(num_samples=2))


def build_null_pipe():
    """A pipeline of texts without a condition."""
    torch.manual_seed(0)
    tokenizer = build_targets()
    own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    decoder = GenextDecoderConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **own)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(GenextNullConditionerConfig(hidden_size=16), decoder)
    return pipeline(TASK, model=sharpen(model), processor=GenextProcessor(target_tokenizer=tokenizer))


def test_texts_out_of_nothing_are_of_the_models_own_distribution_whatever_it_is_saved_with():
    pipe = build_null_pipe()
    own = pipe(num_samples=20, seed=7, max_new_tokens=6)
    settings = {
        **{"temperature": 0.2, "top_k": 1, "top_p": 0.2, "min_p": 0.6, "typical_p": 0.2, "epsilon_cutoff": 0.3},
        **{"repetition_penalty": 4.0, "no_repeat_ngram_size": 1, "min_new_tokens": 6, "num_beams": 3, "suppress_tokens": [5]},
    }
    for name, value in {**settings, "num_return_sequences": 2}.items():
        setattr(pipe.model.generation_config, name, value)
    assert pipe(num_samples=20, seed=7, max_new_tokens=6) == own
    # What a call itself asks for counts, and so does what a pipeline was opened with.
    (same,) = {str(answer) for answer in pipe(num_samples=20, seed=7, max_new_tokens=6, top_k=1)}
    opened = pipeline(TASK, model=pipe.model, processor=pipe.processor, top_k=1)
    assert {str(answer) for answer in opened(num_samples=5, seed=7, max_new_tokens=6)} == {same}


def test_texts_out_of_nothing_are_drawn_as_often_as_they_are_likely():
    pipe = build_null_pipe()
    model, tokenizer = pipe.model, pipe.target_tokenizer

    def draw(count, **arguments):
        answers = pipe(num_samples=count, max_new_tokens=1, batch_size=500, **arguments)
        return [answer[0]["generated_text"] for answer in answers]

    drawn = draw(2000, seed=7)
    assert drawn[:7] == draw(7, seed=7) and drawn != draw(2000, seed=8)
    assert len(set(draw(20))) > 1 and len(set(draw(20, do_sample=False))) == 1
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        probabilities = model(num_samples=1, decoder_input_ids=start).logits[0, -1].double().softmax(dim=0)
    expected: dict[str, float] = {}
    for token, probability in enumerate(probabilities.tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0.0) + 2000 * probability
    frequent = [text for text, count in expected.items() if count > 5]
    counts, likely = [drawn.count(text) for text in frequent], [expected[text] for text in frequent]
    rest = 2000 - sum(counts), 2000 - sum(likely)
    assert len(frequent) > 4 and abs(rest[0] - rest[1]) < 5 + 4 * rest[1] ** 0.5
    assert chisquare(counts, np.array(likely) * sum(counts) / sum(likely)).pvalue > 1e-3


def take_apart(answers):
    """All names and all numbers of answers, in their order."""
    if isinstance(answers, dict):
        answers = [item for pair in answers.items() for item in pair]
    if not isinstance(answers, list):
        return ([], [answers]) if isinstance(answers, float) else ([answers], [])
    parts = [take_apart(answer) for answer in answers]
    return [name for part in parts for name in part[0]], [number for part in parts for number in part[1]]


def predict(kind, folder, **fields):
    config = build_config()
    processor = build_processor()
    config.conditioner.vocab_size = len(processor.tokenizer)
    config.decoder.vocab_size = len(processor.target_tokenizer)
    config.head = GenextHeadConfig(kind=kind, **fields)
    model = sharpen(GenextForPrediction(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    pipe = pipeline(TASK, model=str(folder))
    with torch.no_grad():
        outputs = model(**processor(text=WORDS, padding=True, return_tensors="pt"))
    alone = [pipe(word) for word in WORDS]
    for together in (pipe(WORDS, batch_size=3), pipe(WORDS)):
        names, numbers = take_apart(together)
        expected_names, expected_numbers = take_apart(alone)
        assert names == expected_names
        assert numbers == pytest.approx(expected_numbers, abs=1e-5)
    return pipe, alone, outputs


def test_a_class_is_answered_with_its_name_and_probability(tmp_path):
    names = ["noun", "verb", "adverb"]
    pipe, answers, outputs = predict("class", tmp_path, output_names=names)
    probabilities = outputs.logits.softmax(dim=-1)
    assert [answer[0]["label"] for answer in answers] == [names[index] for index in probabilities.argmax(dim=-1)]
    assert [answer[0]["score"] for answer in answers] == pytest.approx(probabilities.amax(dim=-1).tolist(), abs=1e-5)
    everything = pipe("cat", top_k=3)
    assert {answer["label"] for answer in everything} == set(names)
    assert sum(answer["score"] for answer in everything) == pytest.approx(1)
    with pytest.raises(ValueError, match="takes no num_beams"):
        pipe("cat", num_beams=2)


def test_labels_are_answered_with_all_probabilities(tmp_path):
    _, answers, outputs = predict("labels", tmp_path, output_names=["noun", "verb", "adverb"])
    for answer, logits in zip(answers, outputs.logits, strict=True):
        assert list(answer[0]["scores"].values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
        assert answer[0]["labels"] == [name for name, score in answer[0]["scores"].items() if score >= 0.5]


def test_numbers_are_answered_with_their_uncertainty(tmp_path):
    _, answers, outputs = predict("regression", tmp_path / "one")
    assert [answer[0]["value"] for answer in answers] == pytest.approx(outputs.logits[:, 0].tolist(), abs=1e-4)
    assert [answer[0]["uncertainty"] for answer in answers] == pytest.approx(outputs.scale[:, 0].tolist(), abs=1e-4)
    _, answers, outputs = predict("regression", tmp_path / "two", output_names=["height", "width"])
    assert list(answers[0][0]["value"]) == ["height", "width"]


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ({"vector": [0.0] * 9}, ValueError, "reads no vectors: it has no vector_size. It takes text="),
        (
            {"colour": "red"},
            TypeError,
            "must be a string, or a dictionary with some of text, image.*got a dictionary with 'colour'",
        ),
        (
            {"text": Image.new("RGB", (2, 2))},
            TypeError,
            r"text must be a string, got Image.* a picture as \{\"image\": \.\.\.\}",
        ),
        (Image.new("RGB", (2, 2)), ValueError, "reads no pictures"),
        (b"a picture", TypeError, "text must be a string, got bytes"),
        ({}, ValueError, "needs a condition"),
    ],
)
def test_a_condition_that_the_model_does_not_know_is_refused(condition, error, message, tmp_path):
    config = build_config()
    processor = build_processor()
    config.conditioner.vocab_size, config.decoder.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    GenextForConditionalGeneration(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(error, match=message):
        pipeline(TASK, model=str(tmp_path))(condition)


def test_a_processor_of_another_model_is_refused(tmp_path):
    model, _ = save(tmp_path, GenextVectorConditionerConfig(vector_size=9), vector_size=9)
    other = GenextProcessor(target_tokenizer=build_targets(), vector_size=5)
    with pytest.raises(ValueError, match="vectors of 5 numbers, the model of 9"):
        pipeline(TASK, model=model, processor=other)
