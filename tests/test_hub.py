"""Results files and the cards that are rendered from them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer

from hf_genext import StaticEmbeddingModel
from hf_genext.hub import read_results, render_comparison, render_model_card, write_results

RESULTS = {
    "metrics": {"word_error_rate": 23.456, "phoneme_error_rate": 5.25},
    "spread": {"word_error_rate": 0.31},
    "baselines": {"joint n-gram": {"word_error_rate": 24.53, "phoneme_error_rate": 5.88}, "rival": {"word_error_rate": 22.1}},
    "better": {"word_error_rate": "lower", "phoneme_error_rate": "lower"},
    "data": {"name": "CMUdict", "training_rows": 110621},
    "seeds": [1, 2],
    "minutes": 60.5,
    "versions": {"torch": "2.13.0"},
    "hardware": "x86_64, 2 threads",
}


def test_results_come_back_as_written_and_the_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    assert read_results(path) == RESULTS
    with pytest.raises(ValueError, match="must be a number"):
        write_results(path, {**RESULTS, "metrics": {"word_error_rate": "good"}})
    assert read_results(path) == RESULTS
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": None}, "'metrics' of the results must be a dict"),
        ({"seeds": 3}, "'seeds' of the results must be a list"),
        ({"minutes": True}, "'minutes' of the results must be a number"),
        ({"metrics": {"word_error_rate": True}}, "'metrics.word_error_rate' of the results must be a number"),
        ({"baselines": {"x": 3}}, "'baselines.x' of the results must be a dict of numbers"),
        ({"better": {"word_error_rate": "less"}}, "must be 'higher' or 'lower', got 'less'"),
        ({"better": {"bleu": "higher"}}, "'bleu', which is not among the metrics"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**RESULTS, **change}))
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_a_missing_field_and_a_file_that_is_no_json_are_named(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({name: value for name, value in RESULTS.items() if name != "hardware"}))
    with pytest.raises(ValueError, match="lack the field 'hardware'"):
        read_results(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_results(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="named fields, got list"):
        read_results(path)


def test_the_table_marks_what_decides_and_who_is_best():
    assert render_comparison(RESULTS).splitlines() == [
        "| system | **word error rate** (lower is better) | **phoneme error rate** (lower is better) |",
        "|---|---:|---:|",
        "| this model | 23.46 ± 0.31 | **5.25** |",
        "| joint n-gram | 24.53 | 5.88 |",
        "| rival | **22.1** |  |",
        "",
        "Means over 2 seeds, with their standard deviation.",
    ]


def test_what_does_not_decide_stands_below_the_table_but_for_unknown_words():
    metrics = {"wordsim353": 0.5, "wordsim353_pearson": 0.25, "wordsim353_out_of_vocabulary": 7, "loss": 2.5, "words": 123456.0}
    rival = {"wordsim353": 0.4, "wordsim353_pearson": 0.3, "wordsim353_out_of_vocabulary": 0}
    results = {**RESULTS, "metrics": metrics, "spread": {}, "baselines": {"rival": rival}, "better": {"wordsim353": "higher"}}
    assert render_comparison({**results, "seeds": [1]}).splitlines() == [
        "| system | **WordSim-353** (higher is better) | WordSim-353 out of vocabulary |",
        "|---|---:|---:|",
        "| this model | **0.5** | 7 |",
        "| rival | 0.4 | 0 |",
        "",
        "One run. Besides: loss 2.5, words 123,456, WordSim-353 pearson 0.25.",
    ]
    assert len(render_comparison({**results, "better": {}}).splitlines()[0].split("|")) == len(metrics) + 3


def test_every_number_of_a_card_stands_in_the_results():
    card = render_model_card(
        RESULTS, title="G2P", task="Letters to phonemes.", example="cat", license="apache-2.0", pictures={"Curve": "curve.png"}
    )
    parsed = ModelCard(card)
    assert parsed.data.license == "apache-2.0"
    assert {result.metric_type: result.metric_value for result in parsed.data.eval_results} == RESULTS["metrics"]
    assert "![Curve](curve.png)" in card
    assert 'pipe("cat")' in card.replace("'", '"')
    body = re.sub(r"`{3}.*?`{3}", "", parsed.text, flags=re.DOTALL)
    shown = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", body.replace("2.13.0", ""))}
    known = {23.46, 0.31, 5.25, 24.53, 5.88, 22.1, 110621, 60.5, 2}
    assert shown - {2.0, 86.0, 64.0} <= known


SPACE_RESULTS = {
    **RESULTS,
    "metrics": {"wordsim353": 0.5033, "simlex999": 0.2646, "wordsim353_out_of_vocabulary": 3},
    "spread": {},
    "baselines": {},
    "better": {"wordsim353": "higher", "simlex999": "higher"},
    "data": {"name": "GloVe", "words": 400000, "pooling": "mean"},
}


def render_space_card(**data):
    results = {**SPACE_RESULTS, "data": {**SPACE_RESULTS["data"], **data}}
    return render_model_card(
        results, title="A space", task="Words to vectors.", example="violin", license="pddl", kind="static-embedding"
    )


def run_code(card, folder):
    """What each Python block of a card leaves behind."""
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    scopes = []
    for block in blocks:
        *lines, last = block.replace("path/to/this/folder", str(folder)).strip().splitlines()
        scope = {}
        exec("\n".join([*lines, f"result = {last}"]), scope)
        scopes.append(scope)
    return scopes


def test_the_code_of_a_spaces_card_runs_and_three_libraries_agree(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    space = StaticEmbeddingModel.from_words(["violin", "a", "text", "another"], vectors)
    space.save_pretrained(tmp_path)
    ours, sentence_transformers, model2vec = run_code(render_space_card(), tmp_path)
    assert np.array_equal(ours["space"]["violin"], vectors[0])
    expected = vectors[[1, 2]].mean(axis=0)
    for scope in (ours, sentence_transformers, model2vec):
        assert scope["result"][0] == pytest.approx(expected, abs=1e-6)


def test_a_spaces_card_says_what_other_libraries_cannot_express(tmp_path):
    plain, subwords, sif = render_space_card(), render_space_card(subwords=2_000_000), render_space_card(pooling="sif")
    assert "whose vector is 0" in plain
    assert ("subwords; the others" in subwords, "subwords; the others" in plain) == (True, False)
    assert ("by their frequency" in sif, "by their frequency" in plain) == (True, False)
    # And it is so.
    ngrams = np.ones((20, 2), dtype=np.float32)
    space = StaticEmbeddingModel.from_words(["sun", "moon"], np.eye(2), ngrams=ngrams, min_ngram=2, max_ngram=3)
    assert space["sunny"] == pytest.approx([1, 1])
    space.save_pretrained(tmp_path)
    peers = SentenceTransformer(str(tmp_path), device="cpu"), StaticModel.from_pretrained(tmp_path)
    for peer, share in zip(peers, (1 / 2, 1), strict=True):
        assert peer.encode(["sunny"])[0] == pytest.approx([0, 0])
        assert peer.encode(["sun sunny"])[0] == pytest.approx([share, 0])
    assert space.encode("sun sunny") == pytest.approx([1, 0])


def test_cards_are_filed_on_the_hub_under_what_they_are():
    space = ModelCard(render_space_card()).data
    assert (space.library_name, space.pipeline_tag) == ("sentence-transformers", "feature-extraction")
    assert {(r.dataset_name, r.metric_type): r.metric_value for r in space.eval_results} == {
        ("WordSim-353", "spearman"): 0.5033,
        ("SimLex-999", "spearman"): 0.2646,
    }
    arguments = {"title": "T", "task": "t", "example": "The", "license": "mit"}
    language = ModelCard(render_model_card(RESULTS, **arguments, kind="text-generation")).data
    assert (language.library_name, language.pipeline_tag) == ("transformers", "text-generation")
    assert ModelCard(render_model_card(RESULTS, **arguments)).data.pipeline_tag is None
    with pytest.raises(ValueError, match="no kind of card 'text'; known are conditional-generation, static-embedding"):
        render_model_card(RESULTS, **arguments, kind="text")
