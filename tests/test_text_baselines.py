"""What recipes of texts share: sides without leaks, files, and baselines, each against a plain search."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import recipes.text_baselines as text_baselines
import recipes.text_splits as text_splits
from hf_genext.hub import read_results, write_results
from recipes.results import add_baselines, build_results
from recipes.running import find_results_to_join
from recipes.sentence_vectors import encode_texts, encode_texts_once
from recipes.text_splits import find_like, fold_words, read_column, split_texts, write_table


def test_no_text_stands_on_two_sides_whatever_its_case_and_marks():
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(300)]
    texts = [word if generator.random() < 0.5 else f"({word.upper()}!)" for word in [*words, *words, *words]]
    sides = split_texts(texts, 40)
    assert [len(sides[side]) for side in text_splits.SIDES] == [220, 40, 40]
    assert sorted(text_splits.fold_words(text) for side in sides.values() for text in side) == sorted(words)
    assert all(text in texts for side in sides.values() for text in side)
    assert split_texts(texts, 40) == sides != split_texts(texts, 40, seed=1)
    assert sum(map(len, split_texts(texts, 40, most=100).values())) == 100
    with pytest.raises(ValueError, match="80 texts are to be held out, but there are 80, of which some must be left"):
        split_texts(texts, 40, most=80)


def test_texts_that_give_away_others_are_found_as_by_brute_force():
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    # Few words, so that many texts are like others, some in parts and some by chance.
    texts, held_out = ([" ".join(draw.choice(words, size=draw.integers(1, 9))) for _ in range(300)] for _ in range(2))
    held_out = held_out[:60]

    def gives_away(text, other):
        own, others = fold_words(text).split(), fold_words(other).split()
        if own == others:
            return True
        if len(others) < 4:
            return False
        in_a_row = any(own[start : start + len(others)] == others for start in range(len(own)))
        return in_a_row or len({*own} & {*others}) >= 0.8 * len({*own} | {*others})

    expected = {place for place, text in enumerate(texts) if any(gives_away(text, other) for other in held_out)}
    assert 20 < len(expected) < 280
    assert find_like(texts, held_out) == expected


def test_tables_are_read_as_they_were_written(tmp_path):
    texts = ["a 'b'", 'c "d', "é # e"]
    path = write_table(tmp_path / "deep" / "table.tsv", {"text": texts, "more": ["1", "2", "3"]})
    assert read_column(tmp_path / "deep" / "table.tsv", "text") == texts
    assert path == str(tmp_path / "deep" / "table.tsv")
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    table = pq.read_table(write_table(tmp_path / "table.parquet", {"vector": vectors, "text": texts}))
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), vectors)
    assert table["text"].to_pylist() == texts
    assert sorted(found.name for found in tmp_path.rglob("*") if found.is_file()) == ["table.parquet", "table.tsv"]
    for broken in ("a\tb", "a\nb"):
        with pytest.raises(ValueError, match="a tab or a line's end"):
            write_table(tmp_path / "broken.tsv", {"text": ["fine", broken]})
    assert not list(tmp_path.rglob("broken*"))


def test_the_nearest_training_text_is_that_of_a_plain_search():
    vectors = np.random.default_rng(0).normal(size=(347, 5))
    known, asked = vectors[:47], vectors[47:]
    expected = []
    for vector in asked:
        cosines = [vector @ other / np.linalg.norm(vector) / np.linalg.norm(other) for other in known]
        expected.append(int(np.argmax(cosines)))
    assert text_baselines.find_nearest(known, asked) == expected
    assert text_baselines.find_nearest(sparse.csr_matrix(known), sparse.csr_matrix(asked)) == expected
    rows = [
        {"source": [{"vector": list(vector)} for vector in part], "references": [[f"text {row}"] for row in range(len(part))]}
        for part in (known, asked)
    ]
    assert text_baselines.copy_nearest_texts(*rows) == [f"text {place}" for place in expected]
    shuffled = text_baselines.shuffle_conditions(rows[1])
    assert all(given != own for given, own in zip(shuffled, rows[1]["source"], strict=True))
    assert sorted(map(str, shuffled)) == sorted(map(str, rows[1]["source"]))


def test_baselines_join_the_results_that_a_training_wrote(tmp_path, capsys):
    config, scores = tmp_path / "config.yaml", {"rival": {"bleu": 3.25}}
    assert find_results_to_join(config, wanted=False) is None
    with pytest.raises(ValueError, match=r"no .*other.json' yet: train with --update_results true first"):
        find_results_to_join(config, wanted=True, name="other.json")
    facts = {"seed": 1, "minutes": 1.0, "deciding": {}, "data": {}, "hardware": "x", "versions": {}}
    path = tmp_path / "results.json"
    write_results(path, build_results({"bleu": 4.0}, baselines={"older": {"bleu": 1.0}}, **facts))
    add_baselines(find_results_to_join(config, wanted=True), scores)
    assert read_results(path)["baselines"] == {"older": {"bleu": 1.0}, "rival": {"bleu": 3.25}}
    told = capsys.readouterr().out
    assert "rival: bleu 3.25" in told and f"stay as they were in {path}: older; take out what is no more" in told
    add_baselines(path, {**scores, "older": {"bleu": 1.5}})
    assert "stay as they were" not in capsys.readouterr().out


def test_texts_are_encoded_once(tmp_path, monkeypatch):
    texts = ["a small dog", "a cat"]
    first = encode_texts_once(texts, folder=tmp_path)
    np.testing.assert_allclose(first, encode_texts(texts), atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("recipes.sentence_vectors.encode_texts", lambda texts: pytest.fail("encoded again"))
    np.testing.assert_array_equal(encode_texts_once(texts, folder=tmp_path), first)
    with pytest.raises(BaseException, match="encoded again"):
        encode_texts_once(texts[::-1], folder=tmp_path)
