"""Spaces of word vectors: through Transformers' doors, as a mapping, and beside gensim."""

from __future__ import annotations

import json
import logging
import resource
from pathlib import Path

import gensim
import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from model2vec import StaticModel
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

from hf_genext import StaticEmbeddingConfig, StaticEmbeddingModel
from hf_genext.static_embedding.tokenization_static_embedding import build_word_tokenizer
from hf_genext.static_embedding.vocabulary_static_embedding import Vocabulary

FILE = datapath("lee_fasttext.vec")


@pytest.fixture(scope="module")
def space():
    return StaticEmbeddingModel.from_vectors(FILE)


@pytest.fixture(scope="module")
def peer():
    return KeyedVectors.load_word2vec_format(FILE)


def test_a_space_is_a_mapping_from_words_to_vectors(space, peer):
    assert len(space) == len(peer) and list(space.words) == peer.index_to_key
    for word in ("the", "Australia", "night"):
        np.testing.assert_allclose(space[word], peer[word], atol=1e-6)
        assert word in space
    assert space[["the", "night"]].shape == (2, peer.vector_size)
    assert "unheardof" not in space and 3 not in space
    with pytest.raises(KeyError, match="no word 'nigth'; near it are 'night'"):
        space["nigth"]
    with pytest.raises(TypeError, match="a word or a list of words, got int"):
        space[3]


def test_a_vector_that_is_changed_leaves_the_space_alone(tmp_path):
    StaticEmbeddingModel.from_words(["a", "b"], np.eye(2, dtype=np.float32)).save_pretrained(tmp_path)
    opened = AutoModel.from_pretrained(tmp_path)
    for given in ("a", ["a", "b"]):
        vector = opened[given]
        vector *= 0
        assert np.array_equal(opened[["a", "b"]], np.eye(2))


def test_a_space_that_was_saved_opens_without_a_warning(tmp_path):
    """model2vec's own field of the configuration is none that nothing reads."""
    StaticEmbeddingModel.from_words(["a", "b"], np.eye(2, dtype=np.float32)).save_pretrained(tmp_path)
    assert "max_length" in json.loads((tmp_path / "config.json").read_text())
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("hf_genext.static_embedding")
    logger.addHandler(handler)
    try:
        AutoModel.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(handler)
    assert not told


def test_neighbours_follow_the_vectors():
    space = StaticEmbeddingModel.from_words(["a", "b", "c"], np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32))
    assert space.most_similar("a", topn=1)[0][0] == "b"
    turned = torch.tensor([[1, 0], [0, 1], [0.9, 0.1], [0, 0], [0, 0]])
    space.load_state_dict({"embeddings": turned}, assign=True)
    assert space.most_similar("a", topn=1)[0][0] == "c"
    with torch.no_grad():
        space.embeddings[1] = torch.tensor([2.0, 0.0])
    assert [word for word, _ in space.most_similar("a")] == ["b", "c"]
    assert space.most_similar("a", topn=0) == []
    with pytest.raises(ValueError, match="topn must be 0 or more, got -1"):
        space.most_similar("a", topn=-1)
    with pytest.raises(ValueError, match="at least one word or vector"):
        space.most_similar()
    with pytest.raises(ValueError, match=r"has 2 numbers, got one of shape \(3,\)"):
        space.most_similar(np.ones(3))


@pytest.mark.parametrize(
    ("words", "asked", "near"),
    [
        (["violin", "viola"], "voilin", "near it are 'violin'"),
        (["скрипка", "альт"], "скрипко", "near it are 'скрипка'"),
        (["Rome", "rome"], "ROME", "near it are 'Rome', 'rome'"),
        (["violin"], "zzzzzz", "nor any spelled nearly so"),
    ],
)
def test_unknown_words_raise_with_the_nearest_spellings(words, asked, near):
    space = StaticEmbeddingModel.from_words(words, np.ones((len(words), 2), np.float32))
    assert asked not in space
    for ask in (lambda: space[asked], lambda: space[[words[0], asked]], lambda: space.similarity(words[0], asked)):
        with pytest.raises(KeyError, match=f"no word '{asked}'.+{near}"):
            ask()
    with pytest.raises(KeyError, match=asked):
        space.most_similar(asked)


@pytest.mark.parametrize(
    ("positive", "negative"), [("night", ()), (["night", "Australia"], ["the"]), ([np.ones(10, np.float32), "night"], [])]
)
def test_neighbours_are_gensims(space, peer, positive, negative):
    ours = space.most_similar(positive, negative, topn=20)
    theirs = peer.most_similar(positive=positive, negative=list(negative), topn=20)
    assert [word for word, _ in ours] == [word for word, _ in theirs]
    np.testing.assert_allclose([cosine for _, cosine in ours], [cosine for _, cosine in theirs], atol=1e-5)
    assert space.similarity("night", "Australia") == pytest.approx(float(peer.similarity("night", "Australia")), abs=1e-6)


def test_judgements_and_analogies_are_scored_as_gensim_does(space, peer):
    pairs = []
    for line in Path(datapath("wordsim353.tsv")).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            first, second, judgement = line.split("\t")[:3]
            pairs.append((first.lower(), second.lower(), float(judgement)))
    scores = space.evaluate_word_pairs(pairs)
    pearson, *_ = peer.evaluate_word_pairs(datapath("wordsim353.tsv"), case_insensitive=False)
    assert scores["out_of_vocabulary"] > 0
    assert scores["pearson"] == pytest.approx(pearson[0], abs=0.05)
    known = [pair for pair in pairs if pair[0] in space and pair[1] in space]
    assert scores["pairs"] == len(known)
    cosines = np.array([float(peer.similarity(first, second)) for first, second, _ in known])
    assert scores["pearson"] == pytest.approx(np.corrcoef(cosines, [pair[2] for pair in known])[0, 1], abs=1e-5)
    from scipy.stats import spearmanr

    assert scores["spearman"] == pytest.approx(spearmanr(cosines, [pair[2] for pair in known])[0], abs=1e-9)
    words = list(space.words)[:60]
    questions = [(words[i], words[i + 1], words[i + 2], words[i + 3]) for i in range(0, 56)] + [("the", "zzz", "of", "to")]
    right = sum(peer.most_similar(positive=[b, c], negative=[a], topn=1)[0][0] == d for a, b, c, d in questions if b != "zzz")
    found = space.evaluate_word_analogies(questions)
    assert found["questions"] == 56 and found["out_of_vocabulary"] == 1
    # gensim takes the mean of vectors at length 1 and so do we; ties in rounding may differ by one question.
    assert found["accuracy"] * 56 == pytest.approx(right, abs=1)
    with pytest.raises(ValueError, match="knows none of the 1 questions"):
        space.evaluate_word_analogies([("zzz", "yyy", "xxx", "www")])


def test_the_folder_opens_through_transformers_doors(space, tmp_path):
    space.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is StaticEmbeddingConfig
    opened, tokenizer = AutoModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(opened) is StaticEmbeddingModel
    assert np.array_equal(opened["night"], space["night"])
    assert opened.words == space.words
    texts = ["the night Australia", "unheardof night"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    outputs = opened(**batch)
    np.testing.assert_allclose(
        outputs.pooler_output[0].detach(), np.mean([space[word] for word in texts[0].split()], axis=0), atol=1e-6
    )
    np.testing.assert_allclose(outputs.pooler_output[1].detach(), space["night"], atol=1e-6)  # Unknown words count nothing.
    np.testing.assert_allclose(opened.encode(texts), outputs.pooler_output.detach(), atol=1e-6)
    assert np.array_equal(opened.encode(texts[0]), opened.encode(texts)[0])
    features = pipeline("feature-extraction", model=str(tmp_path))("the night", return_tensors=True)
    np.testing.assert_allclose(features[0].numpy(), np.stack([space["the"], space["night"]]), atol=1e-6)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float16 and half["night"].dtype == np.float16
    again = tmp_path / "again"
    opened.save_pretrained(again)
    assert AutoModel.from_pretrained(again).words == space.words


def count_resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_opening_maps_the_matrix_and_reads_no_other_word(tmp_path):
    words = [f"w{index}" for index in range(50_000)]
    space = StaticEmbeddingModel.from_words(words, np.ones((50_000, 300), np.float32))
    space.save_pretrained(tmp_path)
    before = count_resident_bytes()
    opened = AutoModel.from_pretrained(tmp_path)
    assert opened._vocabulary is None
    assert opened["w49999"].tolist() == [1.0] * 300
    assert opened._tokenizer is None
    assert count_resident_bytes() - before < space.embeddings.nbytes / 3
    assert opened.embeddings.sum() == 50_000 * 300
    assert count_resident_bytes() - before > space.embeddings.nbytes * 0.9  # What is read is seen by this measure.


def test_smooth_inverse_frequency_weights_words_by_the_papers_formula(tmp_path):
    counts, matrix = np.array([900, 90, 10]), np.eye(3, dtype=np.float32)
    space = StaticEmbeddingModel.from_words(["the", "night", "owl"], matrix, counts=counts, pooling="sif")
    expected = np.array([1e-3 / (1e-3 + share) for share in (0.9, 0.09, 0.01)])
    np.testing.assert_allclose(space.encode("the night owl"), expected / 3, rtol=1e-5)
    space.save_pretrained(tmp_path)
    np.testing.assert_allclose(AutoModel.from_pretrained(tmp_path).encode("owl"), matrix[2] * expected[2], rtol=1e-5)
    normalized = StaticEmbeddingModel.from_words(["the", "owl"], matrix[:2], counts=[9, 1], pooling="sif", normalize=True)
    assert np.linalg.norm(normalized.encode("the owl")) == pytest.approx(1)
    with pytest.raises(ValueError, match="needs a count for each of the 3 words, got none"):
        StaticEmbeddingModel.from_words(["the", "night", "owl"], matrix, pooling="sif")


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        (["a"], (2, 3), "1 words and vectors of shape"),
        ([], (0, 3), "at least one word"),
        (["a", "a"], (2, 3), "1 come a second"),
    ],
)
def test_words_and_vectors_that_do_not_fit_are_refused(words, shape, message):
    with pytest.raises(ValueError, match=message):
        StaticEmbeddingModel.from_words(words, np.zeros(shape, np.float32))


def test_a_folder_whose_matrix_does_not_fit_is_refused(space, tmp_path):
    space.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 11}))
    with pytest.raises(ValueError, match=r"'embeddings' should be \(\d+, 11\) and is \(\d+, 10\)"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocabulary.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="no vocabulary that can be read"):
        AutoModel.from_pretrained(tmp_path)["night"]
    (tmp_path / "vocabulary.safetensors").unlink()
    with pytest.raises(ValueError, match="rows have no names"):
        AutoModel.from_pretrained(tmp_path)["night"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 1}, "rows for the two special tokens"),
        ({"num_buckets": 5, "min_ngram": 4, "max_ngram": 3}, "1 <= min_ngram <= max_ngram"),
        ({"pooling": "max"}, "pooling"),
        ({"sif_coefficient": 0.0}, "sif_coefficient must be more than 0"),
        ({"dtype": "flo`t32"}, "dtype must be a kind of number"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        StaticEmbeddingConfig(**settings)


def test_a_vocabulary_is_a_list_of_words(tmp_path):
    words = ["the", "violin", "café", "日本", "a b", ""]
    vocabulary = Vocabulary(words, counts=[5, 4, 3, 2, 1, 0])
    vocabulary.save(tmp_path / "v.safetensors")
    for given in (vocabulary, Vocabulary.load(tmp_path / "v.safetensors")):
        assert list(given) == words and given[-1] == "" and given[1:3] == ["violin", "café"]
        assert [given.index(word) for word in words] == list(range(6))
        assert "viola" not in given and 3 not in given
        assert given.counts.tolist() == [5, 4, 3, 2, 1, 0]
        assert given.find_nearest_spellings("vilin") == ["violin"]
        with pytest.raises(ValueError, match="'viola' is not among the 6 words"):
            given.index("viola")
        with pytest.raises(IndexError):
            given[6]
    with pytest.raises(ValueError, match="6 words and 1 counts"):
        Vocabulary(words, counts=[1])


def test_text_is_parted_around_punctuation_but_not_inside_words():
    words = ["don't", "well-known", ",", ".", "the", '"', "...", "3.5"]
    tokenizer = build_word_tokenizer(words)
    text = 'the well-known , don\'t "the", 3.5...'
    assert [tokenizer.decode([token]) for token in tokenizer(text).input_ids] == [
        "the", "well-known", ",", "don't", '"', "the", "[UNK]", "3.5", "...",
    ]  # fmt: skip
    assert tokenizer("unknown").input_ids == [len(words)] == [tokenizer.unk_token_id]
    assert tokenizer.pad_token_id == len(words) + 1
    assert build_word_tokenizer(["the"], lowercase=True)("THE").input_ids == [0]
    assert build_word_tokenizer(["the,"], split="whitespace")("the,").input_ids == [0]
    with pytest.raises(ValueError, match="split must be"):
        build_word_tokenizer(["a"], split="letters")
    assert gensim.__version__


def build_wordpiece_tokenizer():
    """Pieces of words, with special tokens around a text."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "night", "##s", "the", "owl"]
    backend = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return backend


def write_static_folder(folder, tensors):
    """A folder as model2vec writes it, with these tensors."""
    build_wordpiece_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))


ELSEWHERE = {
    "mean": {},
    "normalized": {"normalize": True},
    "lowercase": {"lowercase": True},
    "frequency weights": {"pooling": "sif", "counts": [900, 90, 50, 40, 30, 20, 10, 5, 3]},
    "frequency weights, normalized": {"pooling": "sif", "normalize": True, "counts": [9, 8, 7, 6, 5, 4, 3, 2, 1]},
    "subwords": {"ngrams": np.ones((11, 5), np.float32), "min_ngram": 3, "max_ngram": 5},
    "white space": {"split": "whitespace"},
    "whole texts": {"split": "none"},
}


def encode_elsewhere(folder, texts):
    """Sentence vectors by the three libraries that open a folder."""
    return {
        "AutoModel": AutoModel.from_pretrained(folder).encode(texts),
        "sentence-transformers": SentenceTransformer(str(folder), device="cpu").encode(texts),
        "model2vec": StaticModel.from_pretrained(folder).encode(texts),
    }


@pytest.mark.parametrize("settings", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_folder_gives_equal_vectors_in_sentence_transformers_and_model2vec(tmp_path, settings, dtype):
    words = ["the", "night", "owl", ",", "new york", "don't", "café", "well-known", "[UNK]"]
    matrix = np.random.default_rng(0).normal(size=(len(words), 5)).astype(dtype)
    space = StaticEmbeddingModel.from_words(words, matrix, **settings)
    space.save_pretrained(tmp_path)
    texts = ["the night owl", "the", "don't café well-known", " ".join(["owl the night"] * 700)]
    parts = [text.split() for text in texts]
    if settings.get("lowercase"):
        texts = [text.upper() for text in texts]
    if settings.get("split") == "none":
        texts = ["new york", "the", "don't"]
        parts = [[text] for text in texts]
    shares = space.weights.numpy() if "counts" in settings else np.ones(len(words))
    rows = [np.mean([matrix[words.index(word)] * shares[words.index(word)] for word in part], axis=0) for part in parts]
    if settings.get("normalize"):
        rows = [row / np.linalg.norm(row) for row in rows]
    for name, found in encode_elsewhere(tmp_path, texts).items():
        np.testing.assert_allclose(found, rows, atol=1e-5 if dtype == np.float32 else 3e-3, err_msg=name)


def test_unknown_words_count_for_nothing_but_in_sentence_transformers(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for words in (["the", "night", "owl"], ["the", "[UNK]", "[PAD]"]):
        StaticEmbeddingModel.from_words(words, matrix).save_pretrained(tmp_path)
        found = encode_elsewhere(tmp_path, ["the zzz", "zzz"])
        for name in ("AutoModel", "model2vec"):
            np.testing.assert_allclose(found[name], [matrix[0], np.zeros(5)], atol=1e-7)
        np.testing.assert_allclose(found["sentence-transformers"], [matrix[0] / 2, np.zeros(5)], atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, None),
        (
            {"pooling": "sif", "counts": [2, 1]},
            "frequency weights count in Transformers, model2vec, and sentence-transformers from",
        ),
        ({"ngrams": np.ones((3, 4)), "min_ngram": 3, "max_ngram": 5}, "its subwords count in Transformers only"),
    ],
)
def test_what_other_libraries_cannot_express_is_said_at_the_save(tmp_path, caplog, settings, message):
    space = StaticEmbeddingModel.from_words(["the", "owl"], np.ones((2, 4), np.float32), **settings)
    space.save_pretrained(tmp_path)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hf_genext")]
    assert said == [] if message is None else len(said) == 1 and message in said[0] and str(tmp_path) in said[0]
    caplog.clear()
    space.to_vectors(tmp_path / "vectors.txt")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hf_genext")]
    assert len(said) == ("ngrams" in settings) and all("cannot hold subwords" in text for text in said)


@pytest.mark.parametrize("binary", [True, False])
def test_a_space_written_as_word2vec_is_gensims(tmp_path, binary):
    words = ["the", "owl", "café", "日本", "don't", "[UNK]"]
    matrix = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    counts = [6, 5, 4, 3, 2, 1]
    space = StaticEmbeddingModel.from_words(words, matrix, counts=counts, pooling="sif", normalize=True, lowercase=True)
    space.to_vectors(tmp_path / "vectors", binary=binary)
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "vectors"), binary=binary)
    assert theirs.index_to_key == words
    np.testing.assert_array_equal(theirs.vectors, matrix)
    again = StaticEmbeddingModel.from_vectors(tmp_path / "vectors")
    np.testing.assert_array_equal(again[words], matrix)
    with pytest.raises(ValueError, match="cannot hold the word 'new york'"):
        StaticEmbeddingModel.from_words(["new york"], matrix[:1]).to_vectors(tmp_path / "vectors", binary=binary)
    np.testing.assert_array_equal(StaticEmbeddingModel.from_vectors(tmp_path / "vectors")[words], matrix)


def save_elsewhere(folder, library, normalize, matrix):
    """A static model with a WordPiece tokenizer, saved by the library itself."""
    backend = build_wordpiece_tokenizer()
    if library == "model2vec":
        StaticModel(matrix, backend, normalize=normalize).save_pretrained(folder)
        return StaticModel.from_pretrained(folder)
    modules = [StaticEmbedding(backend, embedding_weights=matrix), *([Normalize()] if normalize else [])]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save(str(folder))
    return model


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("library", ["model2vec", "sentence-transformers"])
def test_folders_of_other_libraries_become_spaces(tmp_path, library, normalize):
    matrix = np.random.default_rng(2).normal(size=(8, 5)).astype(np.float32)
    texts = ["the nights owl", "owl", "nights nights"]
    expected = save_elsewhere(tmp_path / "theirs", library, normalize, matrix).encode(texts)
    space = StaticEmbeddingModel.from_vectors(tmp_path / "theirs")
    np.testing.assert_array_equal(space["owl"], matrix[7])
    np.testing.assert_allclose(space.encode(texts), expected, atol=1e-6)
    space.save_pretrained(tmp_path / "ours")
    for name, found in encode_elsewhere(tmp_path / "ours", texts).items():
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    # A piece that is unknown counts for nothing here, as in model2vec.
    unknown = AutoModel.from_pretrained(tmp_path / "ours").encode("the zzz owl")
    np.testing.assert_allclose(unknown, space.encode("the owl"), atol=1e-6)


def test_weights_and_a_mapping_of_a_folder_count(tmp_path):
    rows, mapping = torch.randn(3, 5), torch.tensor([0, 0, 0, 0, 1, 2, 1, 2])
    weights = torch.arange(8) / 4.0
    write_static_folder(tmp_path, {"embeddings": rows, "mapping": mapping, "weights": weights})
    space = StaticEmbeddingModel.from_vectors(tmp_path, normalize=False)
    expected = (rows[1] * weights[6] + rows[2] * weights[7]) / 2
    np.testing.assert_allclose(space.encode("the owl"), expected.numpy(), atol=1e-6)
    assert StaticEmbeddingModel.from_vectors(tmp_path, dtype="float16")["owl"].dtype == np.float16
    for dtype in ("int8", "nonsense"):
        with pytest.raises(ValueError, match=f"dtype must be a kind of real number.+got '{dtype}'"):
            StaticEmbeddingModel.from_vectors(tmp_path, dtype=dtype)
    with pytest.raises(ValueError, match="leave limit out"):
        StaticEmbeddingModel.from_vectors(tmp_path, limit=3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": torch.ones(8, 5)}, "holds other, not a matrix"),
        ({"embeddings": torch.ones(7, 5)}, "8 tokens do not fit 7 vectors"),
        ({"embeddings": torch.ones(3, 5), "mapping": torch.tensor([0, 9])}, "points outside of its 3 vectors"),
        ({"embeddings": torch.ones(8, 5), "weights": torch.ones(3)}, "weights of shape"),
    ],
)
def test_folders_whose_parts_do_not_fit_are_refused(tmp_path, tensors, message):
    write_static_folder(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        StaticEmbeddingModel.from_vectors(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        StaticEmbeddingModel.from_vectors(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        StaticEmbeddingModel.from_vectors(tmp_path)
