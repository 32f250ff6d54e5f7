"""The evaluator against a count by hand, scipy's bootstrap, and what pipelines of every kind answer."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest
import scipy.stats
from datasets import ClassLabel, Dataset, Features, Value
from foreign_specimens import ENDS, SIZE, TOKENIZER
from specimens import PHONEMES, WORDS, build_pipeline, build_prediction, build_processor, sharpen
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration, pipeline

from hf_genext import ConditionalGenerationPipeline
from hf_genext.evaluator import ConditionalGenerationEvaluator, draw_scores
from hf_genext.metrics import ExactMatch, PhonemeErrorRate, build_metrics

REFERENCES = [["a b c"], ["a b"], ["b c d e"], ["a"], ["c c"], ["e d c"], ["b"]]
PREDICTIONS = ["a b", "a b", "b d e", "b", "c c", "e d c a", "b"]


def answer_with(predictions):
    """A pipeline that knows its answers."""
    return lambda conditions, **kwargs: [[{"generated_text": prediction}] for prediction in predictions]


@pytest.mark.parametrize("names", [["exact_match"], ["phoneme_error_rate", "exact_match"], ["chrf"]])
def test_intervals_are_those_of_scipy(names):
    data = {"text": list("abcdefg"), "label": REFERENCES}
    scores = ConditionalGenerationEvaluator().compute(
        answer_with(PREDICTIONS), data, names, strategy="bootstrap", n_resamples=60, confidence_level=0.9, random_state=5
    )
    compute = build_metrics(names)
    for name in names:

        def score(rows, name=name):
            rows = rows.astype(int)
            return compute([PREDICTIONS[row] for row in rows], [REFERENCES[row] for row in rows])[name]

        expected = scipy.stats.bootstrap(
            (np.arange(len(PREDICTIONS)),),
            score,
            n_resamples=60,
            confidence_level=0.9,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(5),
        )
        assert scores[name]["score"] == pytest.approx(score(np.arange(len(PREDICTIONS))))
        assert scores[name]["confidence_interval"] == pytest.approx(tuple(expected.confidence_interval))
        assert scores[name]["standard_error"] == pytest.approx(expected.standard_error)
        low, high = scores[name]["confidence_interval"]
        assert low < scores[name]["score"] < high


def test_the_interval_of_a_share_covers_as_often_as_it_says():
    truth, covered, generator = 0.7, 0, np.random.default_rng(0)
    for seed in range(200):
        right = generator.random(80) < truth
        drawn = draw_scores(
            lambda predictions, references: {"share": float(np.mean(predictions))},
            right,
            right,
            n_resamples=200,
            random_state=seed,
        )["share"]
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_pipeline_its_model_and_its_folder_score_alike(tmp_path):
    pipe = build_pipeline()
    pipe.save_pretrained(tmp_path)
    data = Dataset.from_dict({"word": WORDS, "phonemes": [[target, "AH"] for target in PHONEMES]})
    columns = {"input_column": "word", "label_column": "phonemes", "num_beams": 2}
    texts = [answer[0]["generated_text"] for answer in pipe(WORDS, num_beams=2)]
    expected = PhonemeErrorRate().compute(predictions=texts, references=[[target, "AH"] for target in PHONEMES])
    ours = ConditionalGenerationEvaluator()
    for given in (pipe, pipe.model, tmp_path):
        scores = ours.compute(given, data, PhonemeErrorRate(), processor=pipe.processor, **columns)
        assert scores["phoneme_error_rate"] == pytest.approx(expected["phoneme_error_rate"])
        assert scores["samples_per_second"] == pytest.approx(1 / scores["latency_in_seconds"])
    both = ours.compute(pipe, data, evaluate.combine([ExactMatch(), PhonemeErrorRate()]), **columns)
    assert both["phoneme_error_rate"] == pytest.approx(expected["phoneme_error_rate"]) and "exact_match" in both


def test_other_peoples_models_come_with_their_tokenizer():
    model = sharpen(T5ForConditionalGeneration(T5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=32, num_layers=1, **ENDS)))
    model.generation_config = GenerationConfig(max_new_tokens=5, decoder_start_token_id=TOKENIZER.pad_token_id, **ENDS)
    pipe = pipeline("conditional-generation", model=model, tokenizer=TOKENIZER)
    data = {"text": WORDS, "label": [answer["generated_text"] for (answer,) in pipe(WORDS)]}
    assert ConditionalGenerationEvaluator().compute(model, data, processor=TOKENIZER)["exact_match"] == 100.0


def test_classes_of_datasets_are_taken_by_their_names():
    names = list("vwxyz")
    model, processor = build_prediction("class", output_names=names).eval(), build_processor()
    pipe = ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)
    predicted = [names.index(answer["label"]) for (answer,) in pipe(WORDS)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    data = Dataset.from_dict({"text": WORDS, "label": [*predicted[:-1], (predicted[-1] + 1) % 5]}, features=features)
    scores = ConditionalGenerationEvaluator().compute(pipe, data)
    assert scores["exact_match"] == pytest.approx(100.0 * (len(WORDS) - 1) / len(WORDS))


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_single_outputs_are_scored_by_what_they_are_called(kind):
    names = {"class": list("vwxyz"), "labels": list("xyz"), "regression": ["height", "width"]}[kind]
    model = build_prediction(kind, output_names=names).eval()
    processor = build_processor()
    pipe = ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)
    seen = []

    def score(predictions, references):
        seen.append(predictions)
        return {"share": sum(prediction == reference for prediction, reference in zip(predictions, references, strict=True))}

    field = {"class": "label", "labels": "labels", "regression": "value"}[kind]
    expected = [answer[0][field] for answer in pipe(WORDS)]
    scores = ConditionalGenerationEvaluator().compute(pipe, {"text": WORDS, "label": expected}, score, batch_size=1)
    assert scores["share"] == len(WORDS)
    assert seen == [expected]


def test_what_is_wrong_is_named():
    ours, data = ConditionalGenerationEvaluator(), {"text": ["a"], "label": ["A"]}
    with pytest.raises(ValueError, match="no column 'label'; there are text, target"):
        ours.compute(answer_with(["A"]), {"text": ["a"], "target": ["A"]})
    with pytest.raises(ValueError, match="got 0 rows"):
        ours.compute(answer_with([]), {"text": [], "label": []})
    with pytest.raises(ValueError, match="There is no metric 'blue'"):
        ours.compute(answer_with(["A"]), data, "blue")
    with pytest.raises(ValueError, match='"simple" or "bootstrap", got \'jackknife\''):
        ours.compute(answer_with(["A"]), data, strategy="jackknife")
    with pytest.raises(ValueError, match="n_resamples must be 2 or more"):
        ours.compute(answer_with(["A"]), data, strategy="bootstrap", n_resamples=1)
    with pytest.raises(TypeError, match="a folder, a model, a pipeline or a function, got int"):
        ours.compute(7, data)
