"""From text to ids: beside gensim's vocabulary and the tokenizer of a space, and what is said to text that cannot be used."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import datasets
import numpy as np
import pytest
from gensim.models import Word2Vec
from gensim.models.word2vec import LineSentence
from gensim.test.utils import datapath

from hf_genext import corpora
from hf_genext.corpora import DROPPED, SENTENCE_END, encode_corpus
from hf_genext.static_embedding.tokenization_static_embedding import build_word_tokenizer

LEE = datapath("lee_background.cor")
QUIET = {"show_progress": False}


def spell(corpus):
    """The text of a corpus, dropped words as a dash and ends of lines as a bar."""
    marks = {DROPPED: "-", SENTENCE_END: "|"}
    return " ".join(marks.get(place) or corpus.words[place] for place in corpus.places[corpus.ids].tolist())


def test_vocabulary_and_counts_are_gensims(tmp_path):
    peer = Word2Vec(min_count=5)
    peer.build_vocab(LineSentence(LEE))
    corpus = encode_corpus(LEE, tmp_path, split="whitespace", **QUIET)
    expected = {word: peer.wv.get_vecattr(word, "count") for word in peer.wv.index_to_key}
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == expected and len(expected) > 1000
    assert sorted(corpus.counts, reverse=True) == corpus.counts.tolist()
    assert corpus.num_tokens == peer.corpus_total_words
    text = [word for line in Path(LEE).read_text(encoding="utf-8").splitlines() for word in [*line.split(), "|"]]
    expected = " ".join(word if word == "|" or word in peer.wv else "-" for word in text)
    assert spell(corpus) == expected


def test_words_are_parted_as_the_tokenizer_of_the_space_does(tmp_path):
    text = "“Don't!” she said (twice): well-known e-mails, U.S. and 3.5% of naïve_users... 中文 'tis #5 a--b …\n\tHéllo.World"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    corpus = encode_corpus(tmp_path / "text.txt", tmp_path / "c", lowercase=True, min_count=1, **QUIET)
    tokenizer = build_word_tokenizer(["a"], lowercase=True).backend_tokenizer
    expected = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text.lower())]
    assert [word for word in spell(corpus).split() if word != "|"] == expected and len(expected) > 25


def test_where_pieces_of_the_file_end_makes_no_difference(tmp_path, monkeypatch):
    whole = encode_corpus(LEE, tmp_path / "whole", min_count=2, **QUIET)
    monkeypatch.setattr(corpora, "_CHUNK", 97)
    pieces = encode_corpus(LEE, tmp_path / "pieces", min_count=2, **QUIET)
    assert spell(pieces) == spell(whole) and np.array_equal(pieces.counts, whole.counts)


def test_files_folders_lists_and_datasets_give_the_same_text(tmp_path):
    lines = ["the cat sat", "on the mat", "", "the cat the mat"]
    text = "\n".join(lines) + "\n"
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("\ufeff" + "\n".join(lines[:2]) + "\r\n", encoding="utf-8")
    (folder / "inner" / "b.txt").write_text("\n".join(lines[2:]), encoding="utf-8")
    (folder / "ignored.json").write_text("{}")
    (tmp_path / "all.txt").write_text(text)
    for suffix, opener in ((".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)):
        with opener(tmp_path / f"all.txt{suffix}", "wt") as file:
            file.write(text)
    dataset = datasets.Dataset.from_dict({"text": lines, "id": [1, 2, 3, 4]})
    sources = [
        tmp_path / "all.txt",
        *(str(tmp_path / f"all.txt{suffix}") for suffix in (".gz", ".bz2", ".xz")),
        folder,
        [folder / "a.txt", folder / "inner" / "b.txt"],
        dataset,
        dataset.to_iterable_dataset(),
    ]
    for number, source in enumerate(sources):
        corpus = encode_corpus(source, tmp_path / str(number), min_count=2, **QUIET)
        words = [word for word in spell(corpus).split() if word != "|"]
        assert words == ["the", "cat", "-", "-", "the", "mat", "the", "cat", "the", "mat"], source
        assert corpus.words == ["the", "cat", "mat"] and corpus.counts.tolist() == [4, 2, 2]
        assert corpus.num_tokens == 10 and corpus.num_distinct == 5
        sentences = [part.split() for part in spell(corpus).split("|")]
        assert ["the", "cat", "-"] in sentences and ["the", "cat", "the", "mat"] in sentences


def test_an_encoded_corpus_is_opened_again_until_something_changes(tmp_path, monkeypatch, caplog):
    file, folder = tmp_path / "text.txt", tmp_path / "corpus"
    file.write_text("one two two\n")
    encode_corpus(file, folder, min_count=1, **QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "_read_files", None)
        assert encode_corpus(file, folder, min_count=1, **QUIET).words == ["two", "one"]
    assert encode_corpus(file, folder, min_count=2, **QUIET).words == ["two"]
    file.write_text("three three three\n")
    assert encode_corpus(file, folder, min_count=2, **QUIET).words == ["three"]
    (folder / "tokens.int32").write_bytes(b"1234")
    assert encode_corpus(file, folder, min_count=2, **QUIET).words == ["three"]
    assert "holds 1 ids instead of" in caplog.text


def test_rare_words_are_forgotten_where_memory_is_bounded(tmp_path):
    lines = [f"often rare{number}" for number in range(500)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    monkeypatched = corpora._CHUNK
    corpora._CHUNK = 200
    try:
        corpus = encode_corpus(tmp_path / "text.txt", tmp_path / "c", min_count=1, max_words_in_memory=100, **QUIET)
    finally:
        corpora._CHUNK = monkeypatched
    assert corpus.words[0] == "often" and corpus.counts[0] == 500
    assert len(corpus.words) <= 100 and corpus.num_tokens == 1000
    limited = encode_corpus(tmp_path / "text.txt", tmp_path / "d", min_count=1, max_vocab_size=3, **QUIET)
    assert limited.words == ["often", "rare0", "rare1"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", {}, r"no word in '.*text.txt'"),
        (b" \n\t\n", {}, "no word in"),
        (b"one two two", {"min_count": 3}, r"No word of .* occurs 3 times; the most frequent one, 'two', occurs 2 times"),
        (b"caf\xe9 au lait", {}, r"is not utf-8 text: .*Convert it"),
        (b"a" * (1 << 25), {}, r"no white space in 16,777,216 characters"),
        (b"one", {"split": "letters"}, "split must be"),
        (b"one", {"min_count": 0}, "must be 1 or more, got 0"),
    ],
)
def test_text_that_cannot_be_used_is_refused(tmp_path, content, arguments, message):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        encode_corpus(tmp_path / "text.txt", tmp_path / "c", **arguments, **QUIET)


def test_sources_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'nowhere\.txt'"):
        encode_corpus("nowhere.txt", tmp_path / "c", **QUIET)
    with pytest.raises(FileNotFoundError, match=r"no text file \(.txt"):
        encode_corpus(tmp_path, tmp_path / "c", **QUIET)
    with pytest.raises(ValueError, match="no file was given"):
        encode_corpus([], tmp_path / "c", **QUIET)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"one two " * 9999)[:60])
    with pytest.raises(ValueError, match=r"cut.gz' breaks off"):
        encode_corpus(tmp_path / "cut.gz", tmp_path / "c", **QUIET)
    dataset = datasets.Dataset.from_dict({"title": ["a b"]})
    with pytest.raises(ValueError, match="no column 'text' in the dataset; it has 'title'"):
        encode_corpus(dataset, tmp_path / "c", **QUIET)
    with pytest.raises(ValueError, match="has splits \\(train\\)"):
        encode_corpus(datasets.DatasetDict({"train": dataset}), tmp_path / "c", **QUIET)
    with pytest.raises(ValueError, match="Row 0 of the dataset has None"):
        encode_corpus(datasets.Dataset.from_dict({"text": [None, "a"]}), tmp_path / "c", **QUIET)
