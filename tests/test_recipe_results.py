"""What recipes store of their runs: several seeds, and what makes a run another one."""

from __future__ import annotations

import pytest

from hf_genext.hub import read_results, write_results
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import parse_settings
from recipes.results import build_results, update_recipe_results
from recipes.reuse import digest_settings
from recipes.scored_models import store_scores
from recipes.train_conditional import DataSettings, ModelSettings, RunSettings

KINDS = [ModelSettings, DataSettings, RunSettings]


def test_results_of_several_seeds_are_means_with_their_spread(tmp_path):
    path = tmp_path / "results.json"
    facts = {
        "deciding": {"word_error_rate": "lower"},
        "baselines": {"rival": {"word_error_rate": 21.0}},
        "data": {},
        "hardware": "x",
        "versions": {},
    }
    for seed, rate in ((1, 20.0), (2, 24.0), (1, 22.0)):
        update_recipe_results(path, build_results({"word_error_rate": rate}, seed=seed, minutes=float(seed), **facts))
    results = read_results(path)
    assert results["metrics"] == {"word_error_rate": 23.0}
    assert results["spread"]["word_error_rate"] == pytest.approx(2**0.5)
    assert results["baselines"] == {"rival": {"word_error_rate": 21.0}}
    assert (results["seeds"], results["minutes"]) == ([1, 2], 1.5)


def test_runs_of_other_settings_or_data_are_no_runs_of_a_recipe(tmp_path, capsys):
    path = tmp_path / "results.json"
    facts = {"deciding": {}, "baselines": {}, "hardware": "2 threads", "versions": {}, "minutes": 1.0}

    def add(seed, settings, rows=3):
        new = build_results({"bleu": float(seed)}, seed=seed, settings=settings, data={"rows": rows}, **facts)
        update_recipe_results(path, new)
        return read_results(path)["seeds"]

    assert add(1, None) == [1]  # As results of an earlier version are.
    assert add(2, "one") == [1, 2]
    assert add(3, "one") == [1, 2, 3]
    assert capsys.readouterr().out == ""
    assert add(1, "other") == [1]
    assert "taken out of" in (said := capsys.readouterr().out) and "seed 2, 3." in said
    assert add(2, "other", rows=4) == [2]


def test_a_model_that_is_scored_again_keeps_the_settings_of_its_run(tmp_path, capsys):
    path = tmp_path / "recipe.json"
    facts = {"deciding": {}, "baselines": {}, "data": {}, "hardware": "x", "versions": {}, "minutes": 1.0}
    run = RunSettings(title="Words", task="None.", example="a", deciding_metrics={"bits": "lower"})

    def score(seed, settings, bits):
        write_results(tmp_path / "results.json", build_results({"loss": 0.0}, seed=seed, settings=settings, **facts))
        store_scores(tmp_path, run, {"bits": bits}, {"importance_samples": 4}, recipe_results=path)
        return read_results(path)

    score(1, "old", 9.0)
    assert score(2, "old", 9.2)["metrics"] == {"bits": pytest.approx(9.1)}
    results = score(1, "new", 1.0)
    assert (results["metrics"], results["seeds"]) == ({"bits": 1.0}, [1])
    assert results["data"] == {"importance_samples": 4}
    assert "taken out of" in capsys.readouterr().out


def test_what_has_no_effect_on_a_run_is_not_in_its_digest(tmp_path):
    def digest(*words):
        *settings, _ = parse_settings(
            [*KINDS, GenextTrainingArguments], ["recipes/g2p/smoke.yaml", "--output_dir", str(tmp_path), *words]
        )
        return digest_settings(*settings)

    same = [
        digest("--seed", "7"),
        digest("--num_threads", "2"),
        digest("--output_dir", "elsewhere"),
        digest("--title", "other"),
    ]
    assert set(same) == {digest()}
    others = [digest("--learning_rate", "0.5"), digest("--decoder.dropout", "0.5"), digest("--max_target_length", "7")]
    assert len({digest(), *others}) == 4
