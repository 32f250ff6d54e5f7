"""The evaluator against a count by hand, scipy's bootstrap, and what pipelines of every kind answer."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest
import scipy.stats
from datasets import ClassLabel, Dataset, Features, Value
from foreign_specimens import ENDS, SIZE, TOKENIZER
from sklearn.metrics import f1_score, r2_score
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


def test_what_is_no_number_has_no_interval():
    def scoring(predictions, references):
        return {"share": float(np.mean([a == b for a, b in zip(predictions, references, strict=True)])), "parts": [1.0, 2.0]}

    data = {"text": list("abc"), "label": ["a", "b", "c"]}
    scores = ConditionalGenerationEvaluator().compute(
        answer_with(["a", "b", "d"]), data, scoring, strategy="bootstrap", n_resamples=20
    )
    assert scores["parts"] == [1.0, 2.0]
    assert scores["share"]["score"] == pytest.approx(2 / 3)
    assert len(scores["share"]["confidence_interval"]) == 2


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
    for metric in (None, ["exact_match", "accuracy"]):
        scores = ConditionalGenerationEvaluator().compute(pipe, data, metric)
        assert scores["accuracy"] == pytest.approx(100.0 * (len(WORDS) - 1) / len(WORDS))
    assert scores["exact_match"] == scores["accuracy"]


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


def answer_values(name, values):
    return lambda conditions, **kwargs: [[{name: value}] for value in values]


def test_named_metrics_serve_every_kind_of_single_output():
    compute = ConditionalGenerationEvaluator().compute
    classes, truth = list("aabbc"), list("abbbb")
    data = {"text": list("vwxyz"), "label": truth}
    scores = compute(answer_values("label", classes), data, ["accuracy", "macro_f1"], strategy="bootstrap", n_resamples=20)
    assert scores["accuracy"]["score"] == pytest.approx(60)
    assert scores["macro_f1"]["score"] == pytest.approx(100 * f1_score(truth, classes, average="macro", zero_division=0))
    sets, data = [["n"], ["n", "v"], [], ["a"], []], {**data, "label": [["n", "v"], ["v"], [], ["a"], ["x"]]}
    assert compute(answer_values("labels", sets), data)["micro_f1"] == pytest.approx(200 * 3 / 9)
    assert compute(answer_values("labels", [[], []]), {"text": ["a", "b"], "label": [[], []]})["micro_f1"] == 0
    values, truth = [1.0, 2.0, 4.0, 3.0, 5.0], [1.0, 2.5, 3.0, 4.0, 5.0]
    scores = compute(answer_values("value", values), {**data, "label": truth}, ["r2", "spearman"])
    assert scores["r2"] == pytest.approx(r2_score(truth, values))
    assert scores["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, values).statistic)
    # Of several numbers those that are known, by their names or in their order.
    several = answer_values("value", [{"h": value, "g": -value} for value in values])
    for label in ([{"g": -number, "h": number} for number in truth], [[number, -number] for number in truth]):
        assert compute(several, {**data, "label": label})["r2"] == pytest.approx(r2_score(truth, values))
    # Where most are not known, some draws have none of them.
    label = [[number, -number if place < 2 else float("nan")] for place, number in enumerate(truth)]
    drawn = compute(several, {**data, "label": label}, strategy="bootstrap", n_resamples=40)["r2"]
    assert np.isfinite(drawn["confidence_interval"]).all() and np.isfinite(drawn["score"])
    label = [*([number, -number] for number in truth[:4]), [5.0, float("nan")]]
    assert compute(several, {**data, "label": label})["r2"] == pytest.approx(
        (r2_score(truth, values) + r2_score(truth[:4], values[:4])) / 2
    )


@pytest.mark.parametrize(
    ("name", "values", "label", "metric", "message"),
    [
        ("generated_text", ["A", "B"], ["A", None], None, "Row 1: a reference is a text, or a list of several .* got None"),
        ("generated_text", ["A", "B"], [["A"], []], None, r"Row 1: a reference is a text, .* got \[\]"),
        ("generated_text", ["A", "B"], ["A", "B"], "accuracy", "'accuracy' is not for outputs of kind 'text'"),
        ("label", ["a", "b"], [0, 1], None, "Row 0: a reference is the name of a class; got 0"),
        ("label", ["a", "b"], [0, 1], "exact_match", "Row 0: a reference is a text"),
        ("labels", [["a"], []], [["a"], "a"], None, "Row 1: a reference is a list of the names of labels"),
        ("labels", [["a"], []], [["a"], []], "exact_match", "'exact_match' is not for .* 'labels'; those have micro_f1"),
        ("value", [1.0, 2.0], [1.0, "x"], None, "Row 1: a reference is a number"),
        ("value", [1.0, 2.0], [[1.0, 2.0], 1.0], None, "Row 0: a reference is a number"),
        ("value", [{"h": 1.0}, {"h": 2.0}], [{"h": 1.0}, {"g": 2.0}], None, "Row 1: a reference is a number"),
        ("smell", ["A", "B"], ["A", "B"], None, "Row 0: an answer has one of generated_text, label"),
    ],
)
def test_references_that_a_metric_cannot_take_are_named_by_their_row(name, values, label, metric, message):
    with pytest.raises(ValueError, match=message):
        ConditionalGenerationEvaluator().compute(answer_values(name, values), {"text": ["a", "b"], "label": label}, metric)


def test_what_is_wrong_is_said_before_the_work():
    def refuse(*args, **kwargs):
        raise AssertionError("it was called")

    ours, data = ConditionalGenerationEvaluator(), {"text": ["a"], "label": ["A"]}
    with pytest.raises(ValueError, match="n_resamples must be 2 or more"):
        ours.compute(refuse, data, strategy="bootstrap", n_resamples=1)
    with pytest.raises(ValueError, match="There are no metrics in an empty list"):
        ours.compute(refuse, data, [])
    with pytest.raises(TypeError, match="a dataset or a dictionary of columns, got list"):
        ours.compute(refuse, [{"text": "a", "label": "A"}])
    processor = build_processor()
    for kind, names, label in (("regression", ["height", "width"], 1.0), ("labels", list("xyz"), "x"), ("class", None, 3)):
        pipe = ConditionalGenerationPipeline(
            model=build_prediction(kind, output_names=names).eval(), processor=processor, tokenizer=processor.tokenizer
        )
        pipe.forward = refuse
        with pytest.raises(ValueError, match="Row 0: a reference is "):
            ours.compute(pipe, {"text": ["cat"], "label": [label]})


def test_answers_by_another_name_and_answers_that_are_not_there():
    pipe, ours = build_pipeline(), ConditionalGenerationEvaluator()
    data = {"text": WORDS, "label": [answer[0]["generated_text"] for answer in pipe(WORDS)]}
    assert ours.compute(pipe, data, output_key="translation_text")["exact_match"] == 100
    assert ours.compute(build_pipeline(output_key="summary_text"), data)["exact_match"] == 100
    with pytest.raises(ValueError, match=r"Row 1 has no answer, got \[\]"):
        ours.compute(lambda texts, **kwargs: [[{"generated_text": "A"}], []], {"text": ["a", "b"], "label": ["A", "B"]})
    with pytest.raises(ValueError, match="got 1 answers of 2 rows"):
        ours.compute(lambda texts, **kwargs: [[{"generated_text": "A"}]], {"text": ["a", "b"], "label": ["A", "B"]})


def test_images_are_no_texts_and_no_numbers():
    pipe = ConditionalGenerationPipeline(model=build_prediction("image").eval(), processor=build_processor())
    with pytest.raises(ValueError, match=r"this model gives images\. pipe\.score says how likely"):
        ConditionalGenerationEvaluator().compute(pipe, {"text": WORDS, "label": [[0.0] * 6] * len(WORDS)}, "r2")
