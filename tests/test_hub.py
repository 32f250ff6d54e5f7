"""Results files and the cards that are rendered from them."""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import ModelCard

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
