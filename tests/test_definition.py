"""The definition recipe by its real commands, its data without leaks, and its baselines against brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import recipes.definition.baselines as baselines
import recipes.sentence_vectors as sentence_vectors
import recipes.wordnet as wordnet
from hf_genext import StaticEmbeddingModel
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.definition.prepare_data import prepare_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("debian_wordnet")]
ROOT = Path(__file__).parents[1]
SMOKE = "recipes/definition/smoke.yaml"


def run(*command):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, debian_wordnet):
    """The smoke run: its model, its vectors, and what it printed."""
    folder = tmp_path_factory.mktemp("definition")
    run("recipes/import_vectors.py", "recipes/glove/smoke.yaml", "--output_dir", folder / "glove")
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py", SMOKE]
    printed = run(*launcher, "--output_dir", folder / "model", "--conditions.vector.space", folder / "glove")
    return folder / "model", folder / "glove", printed


def test_the_smoke_run_leaves_a_model_that_defines_words(smoke):
    model, glove, printed = smoke
    results = read_results(model / "results.json")
    assert set(results["metrics"]) == {"chrf", "bleu", "median_retrieval_rank"}
    assert results["data"]["test_sources"] == results["data"]["validation_sources"] == 60
    assert 1 <= results["metrics"]["median_retrieval_rank"] <= 60
    code = f'pipe({{"vector": AutoModel.from_pretrained("{glove}")["violin"]}})'
    assert code in printed
    assert code in (model / "README.md").read_text(encoding="utf-8")
    define, space = pipeline("conditional-generation", model=str(model)), StaticEmbeddingModel.from_pretrained(glove)
    assert define({"vector": space["violin"]})[0]["generated_text"]


def test_the_baselines_are_scored_as_the_model_is(smoke, tmp_path, capsys):
    model, glove, _ = smoke
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("smoke.yaml", "metrics.py", "prepare_smoke_data.py"):
        (recipe / name).write_text((ROOT / "recipes/definition" / name).read_text(encoding="utf-8"), encoding="utf-8")
    words = [str(recipe / "smoke.yaml"), "--model", str(model), "--conditions.vector.space", str(glove)]
    words += ["--output_dir", str(tmp_path / "out"), "--num_threads", "1", "--update_results", "true"]
    with pytest.raises(SettingsError, match="train with --update_results true first"):
        baselines.main(words)
    (recipe / "results.json").write_text((model / "results.json").read_text())
    scores = baselines.main(words)
    assert len(scores) == 3
    results = json.loads((recipe / "results.json").read_text())
    assert results["baselines"] == scores
    assert all(set(values) == set(results["metrics"]) for values in scores.values())
    copied = scores["gloss of the nearest training word"]
    assert copied["chrf"] > scores["the most frequent words of glosses"]["chrf"]
    assert copied["median_retrieval_rank"] < 15, "neighbours' glosses find their words"


def test_neither_forms_nor_glosses_stand_on_two_sides(tmp_path):
    prepared = prepare_data(tmp_path, held_out=500)
    sides = {}
    for name in ("train", "validation", "test"):
        lines = Path(prepared[f"{name}_file"]).read_text(encoding="utf-8").splitlines()[1:]
        sides[name] = dict(line.split("\t") for line in lines)
    assert [len(sides[name]) for name in ("validation", "test")] == [500, 500]
    assert len(sides["train"]) + 1000 == prepared["facts"]["words"] < 60_000
    checked = 0
    for held_out in ("validation", "test"):
        others = {word: gloss for name, side in sides.items() if name != held_out for word, gloss in side.items()}
        assert not set(sides[held_out].values()) & set(others.values())
        for word in sides[held_out]:
            forms = [word + end for end in ("s", "es", "ed", "ing", "er", "est")]
            forms += [word.removesuffix(end) for end in ("s", "ed", "ing") if word.endswith(end)]
            forms += [word.removesuffix("e") + "ing", word.removesuffix("y") + "ies"]
            known = [form for form in forms if form in others and form != word]
            # What only looks like a form ("wed" and "w") is none by WordNet's rules.
            assert not [form for form in known if len(form) > 3 and len(word) > 3], (word, known)
            checked += len(forms)
    assert checked > 5000


def test_what_a_word_means_first_is_what_people_met_most_often():
    senses = wordnet.read_senses(wordnet.bring_wordnet()[0])
    run_, car = senses["run"][0], senses["car"][0]
    assert (run_.part, run_.category, run_.gloss.split(";")[0]) == (
        "v",
        "verb.motion",
        "move fast by using one's feet, with one foot off the ground at any given time",
    )
    assert (car.part, car.category) == ("n", "noun.artifact")
    assert {sense.category for found in senses.values() for sense in found} == set(wordnet.CATEGORIES)
    assert len(wordnet.CATEGORIES) == 45


def test_ranks_are_those_of_sorted_cosines_and_vectors_are_the_models_own():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from recipes.distilled.find_model import find_model

    texts = ["a small dog", "a large bowed instrument of the violin family", "cat", "the act of running", "a cat or a dog"]
    body = Transformer(find_model()["model"])
    reference = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device="cpu")
    vectors = sentence_vectors.encode_texts(texts, batch_size=2)
    np.testing.assert_allclose(vectors, reference.encode(texts, normalize_embeddings=True), atol=1e-5)
    ranks = sentence_vectors.compute_retrieval_ranks(vectors[[2, 1, 0]], vectors[[0, 1, 2]])
    expected = []
    for own, place in enumerate((2, 1, 0)):
        cosines = [float(np.dot(vectors[place].astype(float), vectors[other].astype(float))) for other in (0, 1, 2)]
        expected.append(sorted(cosines, reverse=True).index(cosines[own]) + 1)
    assert ranks.tolist() == expected
