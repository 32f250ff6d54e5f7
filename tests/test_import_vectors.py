"""Vectors of others become a folder of ours: the command of the glove recipe, maps, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from huggingface_hub import ModelCard
from matplotlib import pyplot
from sklearn.decomposition import PCA
from transformers import AutoModel

from hf_genext import StaticEmbeddingModel
from hf_genext.hub import read_results
from hf_genext.word_metrics import WordSim353
from recipes import plots
from recipes.arguments import SettingsError
from recipes.glove.read_vectors import read_vectors
from recipes.import_vectors import main as import_vectors
from recipes.plots import MAP_WORDS, _overlap, draw_space_map, place_labels, project_to_plane

ROOT = Path(__file__).parents[1]
SMOKE = "recipes/glove/smoke.yaml"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke run of the glove recipe: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("glove")
    kept = (ROOT / "recipes/glove/results.json").read_bytes()
    command = [sys.executable, "recipes/import_vectors.py", SMOKE, "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "recipes/glove/results.json").read_bytes() == kept, "only --update_results may write it"
    return folder, done.stdout


def test_the_recipe_leaves_the_published_vectors_scores_a_map_and_a_card(smoke):
    folder, printed = smoke
    space = AutoModel.from_pretrained(folder)
    words, vectors = read_vectors()
    assert len(space) == 20_000
    assert np.array_equal(space[words[:500]], vectors[:500])
    results = read_results(folder / "results.json")
    assert results["metrics"]["wordsim353"] == pytest.approx(WordSim353().compute(space=space)["wordsim353"])
    assert results["metrics"]["wordsim353_out_of_vocabulary"] == 34
    assert f"{results['metrics']['wordsim353']:.4g}" in printed
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "feature-extraction"
    assert "](map.png)" in card.text
    picture = pyplot.imread(folder / "map.png")
    assert picture.shape[:2] == (900, 900)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 100  # Not an empty frame.


def test_any_file_of_vectors_is_imported(tmp_path):
    words = [word for text in MAP_WORDS.values() for word in text.split()]
    peer = KeyedVectors(4)
    peer.add_vectors(words, np.random.default_rng(0).normal(size=(len(words), 4)).astype(np.float32))
    peer.save_word2vec_format(str(tmp_path / "mine.bin"), binary=True)
    arguments = ["--vectors", str(tmp_path / "mine.bin"), "--metrics", "wordsim353", "--output_dir", str(tmp_path / "out")]
    import_vectors(arguments)
    space = AutoModel.from_pretrained(tmp_path / "out")
    assert list(space.words) == words
    assert np.array_equal(space["violin"], peer["violin"])
    results = read_results(tmp_path / "out" / "results.json")
    assert results["data"]["name"] == "mine.bin"
    assert results["metrics"]["wordsim353_pairs"] + results["metrics"]["wordsim353_out_of_vocabulary"] == 353


def test_results_and_map_go_into_the_recipe_only_when_asked(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((ROOT / SMOKE).read_text())
    (tmp_path / "read_vectors.py").write_bytes((ROOT / "recipes/glove/read_vectors.py").read_bytes())
    arguments = ["--output_dir", str(tmp_path / "out"), "--limit", "5000", "--metrics", "simlex999"]
    deciding = ["--deciding_metrics", "{simlex999: higher}"]
    import_vectors([str(config), *arguments, *deciding])
    assert not (tmp_path / "results.json").exists()
    import_vectors([str(config), *arguments, *deciding, "--update_results", "true"])
    assert read_results(tmp_path / "results.json")["better"] == {"simlex999": "higher"}
    assert (tmp_path / "map.png").read_bytes() == (tmp_path / "out" / "map.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There are no vectors: set vectors"),
        (["--update_results", "true"], "needs a settings file"),
        (["--vector", "x"], "no setting 'vector' .*Did you mean 'vectors'"),
        ([SMOKE, "--vectors_script", "no.py"], "no.py', which is not there"),
        ([SMOKE, "--limit", "100", "--metrics", "wordsim"], "no test of words 'wordsim'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SettingsError, ValueError), match=message):
        import_vectors([*arguments, "--output_dir", str(tmp_path)])
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_map_shows_the_main_directions_and_keeps_labels_apart(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(30, 7))
    points, expected = project_to_plane(vectors, "pca"), PCA(2).fit_transform(vectors)
    signs = np.sign((points * expected).sum(axis=0))
    assert points * signs == pytest.approx(expected, abs=1e-9)
    boxes = place_labels([(10.0 * row, 7.0 * column) for row in range(3) for column in range(3)], [(20.0, 8.0)] * 9)
    pairs = [(one, other) for index, one in enumerate(boxes) for other in boxes[:index]]
    assert all(_overlap(one, other) == 0 for one, other in pairs)


def test_a_map_is_the_same_wherever_its_points_stand(tmp_path, monkeypatch):
    words = ["france", "dog", "bread", "violin", *"abcdefgh"]
    space = StaticEmbeddingModel.from_words(words, np.random.default_rng(2).normal(size=(12, 3)))
    pictures = []
    for shift in (0.0, 50.0):
        monkeypatch.setattr(plots, "project_to_plane", lambda *given, by=shift: project_to_plane(*given) + by)
        draw_space_map(space, tmp_path / "map.png", words={"some": " ".join(words)})
        pictures.append(pyplot.imread(tmp_path / "map.png"))
    assert (pictures[0] != pictures[1]).mean() < 1e-4  # The labels alone cover ten times as much.


def test_a_map_of_unknown_words_shows_the_spaces_own_or_is_refused(tmp_path):
    space = StaticEmbeddingModel.from_words([f"w{n}" for n in range(12)], np.random.default_rng(0).normal(size=(12, 3)))
    draw_space_map(space, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="the space knows 1 of the words"):
        draw_space_map(space, tmp_path / "other.png", words={"some": "w1 violin viola"})
    with pytest.raises(ValueError, match='"pca" or "umap", got \'tsne\''):
        draw_space_map(space, tmp_path / "other.png", method="tsne")
    assert not (tmp_path / "other.png").exists()


def test_umap_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    space = StaticEmbeddingModel.from_words(["a", "b", "c"], np.eye(3))
    with pytest.raises(ImportError, match=r'pip install "hf_genext\[maps\]"'):
        draw_space_map(space, tmp_path / "map.png", method="umap")
