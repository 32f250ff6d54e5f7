"""How likely given sequences are, and what drawn texts are worth: counted by hand, by exhaustion, and by the pipeline."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from specimens import sharpen
from tokenizers import processors

from hf_genext import (
    GenextDecoderConfig,
    GenextForConditionalGeneration,
    GenextLabelConditionerConfig,
    GenextProcessor,
    GenextTrainingArguments,
    pipeline,
    train_tokenizer,
)
from hf_genext.conditions import parse_condition_columns, read_rows
from hf_genext.encoding import encode_rows
from hf_genext.sample_metrics import Diversity, Novelty, Validity
from hf_genext.sequence_metrics import (
    build_sequence_metrics,
    count_characters,
    count_target_characters,
    score_perplexity,
)
from hf_genext.training import GenextTrainer
from recipes.text_distributions import measure_given

WORDS = ["cab", "a", "bead", "faced", "cab", "deed", "abba"]
SIDES = ["left", "right", "left", "right", "right", "left", "left"]
NAMES = ["bits_per_character", "log_likelihood_per_character", "perplexity"]


def build_pipe(*, variational=False, unit="character", ends=True):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, unit=unit, vocab_size=300)
    if not ends:  # As GPT-2's, whose end token the processor adds.
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    decoder = GenextDecoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = GenextLabelConditionerConfig(label_counts=[2], hidden_size=16)
    bottleneck = {"kind": "variational", "latent_size": 2} if variational else None
    model = sharpen(
        GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder, bottleneck=bottleneck)
    ).eval()
    processor = GenextProcessor(target_tokenizer=tokenizer, label_names={"side": ["left", "right"]})
    return pipeline("conditional-generation", model=model, processor=processor)


def build_trainer(pipe, folder, times=1, **arguments):
    path = folder / "rows.tsv"
    lines = [f"{word}\t{side}" for word, side in zip(WORDS, SIDES, strict=True)] * times
    path.write_text("\n".join(["word\tside", *lines]) + "\n", encoding="utf-8")
    rows, _ = read_rows(str(path), parse_condition_columns({"label": "side"}), target_columns=["word"])
    encoded, _ = encode_rows(rows, pipe.processor, max_source_length=9, max_target_length=9)
    return GenextTrainer(
        model=pipe.model,
        args=GenextTrainingArguments(output_dir=str(folder / "out"), report_to="none", use_cpu=True, **arguments),
        eval_dataset=encoded,
        processing_class=pipe.processor,
        sequence_metrics=build_sequence_metrics(NAMES),
    )


# Of given sequences


@pytest.mark.parametrize("unit", ["character", "subword"])
@pytest.mark.parametrize("arguments", [{"per_device_eval_batch_size": 3}, {"max_tokens_per_batch": 4}])
def test_an_evaluation_finds_what_the_pipeline_says_of_each_text(tmp_path, unit, arguments):
    pipe = build_pipe(unit=unit)
    found = build_trainer(pipe, tmp_path, **arguments).evaluate()
    scores = pipe.score([{"label": side} for side in SIDES], WORDS)
    total, tokens = sum(score["score"] for score in scores), sum(len(score["token_scores"]) for score in scores)
    characters = sum(map(len, WORDS)) + len(WORDS)
    assert found["eval_log_likelihood_per_character"] == pytest.approx(total / characters, rel=1e-5)
    assert found["eval_bits_per_character"] == pytest.approx(-total / characters / math.log(2), rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(found["eval_loss"]), rel=1e-5)


def test_of_a_model_with_latent_numbers_an_evaluation_finds_the_bound_of_one_draw(tmp_path):
    pipe = build_pipe(variational=True)
    trainer = build_trainer(pipe, tmp_path, times=60, per_device_eval_batch_size=60)
    found = trainer.evaluate()["eval_log_likelihood_per_character"]
    rows = [{"label": side} for side in SIDES]
    one, many = (
        statistics.fmean(
            sum(score["score"] for score in pipe.score(rows, WORDS, num_importance_samples=count, seed=seed))
            for seed in range(20)
        )
        / count_characters(WORDS)
        for count in (1, 50)
    )
    assert found == pytest.approx(one, abs=0.03)
    assert one + 0.05 < many  # A bound that rises with its draws.


def test_characters_are_those_of_the_decoded_texts_and_an_end_for_each():
    tokenizer = train_tokenizer(WORDS, unit="subword", vocab_size=265)
    labels = tokenizer(["abba", "cab"], padding=True, return_tensors="pt")
    assert labels.input_ids.shape[1] < 5  # Some tokens are of several characters.
    ids = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
    assert count_target_characters(ids, tokenizer) == count_characters(["abba", "cab"]) == 9
    # What is cut has no end.
    assert count_target_characters(torch.tensor([tokenizer("abba").input_ids[:-1]]), tokenizer) == 4
    with pytest.raises(ValueError, match="no metric 'bleu' of given sequences; known are bits_per_character"):
        build_sequence_metrics(["bleu"])


# Of drawn texts

DRAWN = ["a red cat", "a red dog", "a red cat", "", "the dog"]


def test_samples_counted_by_hand():
    assert Novelty(training_texts=["a red cat", "the dog", "else"]).compute(predictions=DRAWN) == {"novelty": 40.0}
    # 4 of 5 texts; of 11 words 5 are distinct; of 7 pairs "a red", "red cat", "red dog" and "the dog".
    found = Diversity(ngram_sizes=(1, 2, 4)).compute(predictions=DRAWN)
    assert found == pytest.approx({"diversity": 80.0, "distinct_1": 500 / 11, "distinct_2": 400 / 7, "distinct_4": 0.0})
    # Of characters: "aba" and "ab" have the pairs ab, ba, ab.
    assert Diversity(ngram_sizes=(2,), split=list).compute(predictions=["aba", "ab"])["distinct_2"] == pytest.approx(200 / 3)
    assert Validity(rule=lambda text: text.endswith("dog")).compute(predictions=DRAWN) == {"validity": 40.0}
    assert Validity(rule=["a red dog", ""]).compute(predictions=DRAWN) == {"validity": 40.0}


def test_copies_are_neither_new_nor_hidden():
    texts = [f"text {number}" for number in range(50)]
    assert Novelty(training_texts=texts).compute(predictions=texts) == {"novelty": 0.0}
    assert Diversity().compute(predictions=texts[:1] * 50)["diversity"] == 2.0
    for metric in (Novelty(training_texts=texts), Diversity(), Validity(rule=texts)):
        with pytest.raises(ValueError, match="got no samples"):
            metric.compute(predictions=[])
    with pytest.raises(ValueError, match="ngram_sizes must be numbers of 1 or more, got \\[0\\]"):
        Diversity(ngram_sizes=[0])


def test_a_perplexity_that_no_number_holds_is_infinite():
    assert score_perplexity(-1e6, 10, 10) == math.inf
    assert score_perplexity(-6000.0, 10, 10) == pytest.approx(math.exp(600.0))
    assert score_perplexity(-math.inf, 10, 10) == math.inf
    # A training that diverged is not taken for one that has just begun.
    assert math.isnan(score_perplexity(math.nan, 10, 10))


@pytest.mark.parametrize(
    ("build", "error", "told"),
    [
        (lambda: Validity(rule=3), TypeError, "rule must be a collection of texts or a function, got 3"),
        (lambda: Validity(rule="a red dog"), TypeError, "rule must be a collection of texts or a function, got 'a red dog'"),
        (lambda: Novelty(training_texts="a red dog"), TypeError, "training_texts must be a collection of texts, got"),
        (lambda: Novelty(training_texts=[]), ValueError, "training_texts is empty"),
        (lambda: Novelty(training_texts=["a"]).compute(predictions=[]), ValueError, "got no samples"),
        (lambda: Novelty(training_texts=["a"]).compute(predictions="a red dog"), TypeError, "must be a list, got 'a red"),
    ],
)
def test_what_samples_cannot_be_compared_with_is_refused(build, error, told):
    with pytest.raises(error, match=told):
        build()


@pytest.mark.parametrize("ends", [True, False])
def test_a_saved_model_is_scored_as_in_its_training_whether_its_tokenizer_writes_ends_or_not(ends, tmp_path):
    pipe = build_pipe(unit="subword", ends=ends)
    assert (pipe.target_tokenizer("cab")["input_ids"][-1] == pipe.target_tokenizer.eos_token_id) == ends
    trained = build_trainer(pipe, tmp_path).evaluate()
    found = measure_given(pipe, [{"label": side} for side in SIDES], WORDS, NAMES)
    assert found == pytest.approx({name: trained[f"eval_{name}"] for name in NAMES}, rel=1e-5)


def test_targets_that_hold_what_the_vocabulary_lacks_are_counted(caplog):
    pipe = build_pipe()
    with caplog.at_level("WARNING", "recipes"):
        measure_given(pipe, [{"label": "left"}] * 2, ["cab", "face"])
        assert not caplog.records
        measure_given(pipe, [{"label": "left"}] * 3, ["cab", "zoo", "fox"])
    assert "2 of 3 targets hold what the target vocabulary lacks, which is scored as <unk>" in caplog.text
