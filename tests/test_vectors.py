"""Foreign files of word vectors: equal to gensim's readers, refused when damaged, written so that gensim reads them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import sys
import zipfile
from pathlib import Path

import gensim
import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.models.fasttext import load_facebook_vectors

from hf_genext import StaticEmbeddingModel
from hf_genext.static_embedding import vectors_static_embedding
from hf_genext.static_embedding.fasttext_static_embedding import hash_ngrams
from hf_genext.static_embedding.vectors_static_embedding import read_vectors, write_word2vec
from recipes.glove.read_vectors import read_vectors as read_packaged_glove

DATA = Path(gensim.__file__).parent / "test" / "test_data"
TEXT = ["EN.1-10.cbow1_wind5_hs0_neg10_size300_smpl1e-05.txt", "IT.1-10.cbow1_wind5_hs0_neg10_size300_smpl1e-05.txt"]
TEXT += ["crime-and-punishment.vec", "high_precision.kv.txt", "lee_fasttext.vec", "pang_lee_polarity_fasttext.vec"]
TEXT += ["toy-model.vec", "w2v_keyedvectors_load_test.modeldata", "word2vec_pre_kv_c"]
BINARY = ["euclidean_vectors.bin", "high_precision.kv.bin", "poincare_vectors.bin"]
HEADLESS = ["DTM/sstats_test.txt", "test_glove.txt"]
FASTTEXT = ["cp852_fasttext.bin", "crime-and-punishment.bin", "lee_fasttext.bin", "lee_fasttext_new.bin"]
FASTTEXT += ["non_ascii_fasttext.bin", "toy-model-pretrained.bin", "toy-model.bin"]
ENCODINGS = {
    "cp852_fasttext.bin": "cp852",
    "pang_lee_polarity_fasttext.vec": "latin-1",
    "pang_lee_polarity_fasttext.bin": "latin-1",
}
CUT_CHARACTERS = ["w2v_keyedvectors_load_test.modeldata"]
ONLY_OURS = {
    "pang_lee_polarity_fasttext.bin": "a supervised model of fastText's",
    "similarities0-1.txt": "fields between tabs",
}


def read_with_gensim(name, kind):
    """gensim's words and vectors; its errors are of many classes."""
    path, encoding, errors = str(DATA / name), ENCODINGS.get(name, "utf-8"), "replace" if name in CUT_CHARACTERS else "strict"
    if kind == "fastText":
        return load_facebook_vectors(path, encoding=encoding)
    is_binary, is_headless = kind == "binary", kind == "headless"
    return KeyedVectors.load_word2vec_format(
        path, binary=is_binary, no_header=is_headless, encoding=encoding, unicode_errors=errors
    )


def list_gensims_data():
    return [str(path.relative_to(DATA)) for path in sorted(DATA.rglob("*")) if path.is_file()]


def find_kind(name):
    """The format of a file by which of gensim's readers takes it, or `None`; text files also pass for binary ones."""
    for kind in ("text", "headless", "binary", *(["fastText"] if name.endswith(".bin") else [])):
        try:
            found = read_with_gensim(name, kind)
        except Exception:
            continue
        if found.vector_size and len(found):
            return kind
    return None


def test_every_file_that_gensim_reads_is_compared_and_every_other_is_refused():
    kinds = {name: find_kind(name) for name in list_gensims_data()}
    assert len(kinds) == 203
    for kind, names in {"text": TEXT, "binary": BINARY, "headless": HEADLESS, "fastText": FASTTEXT}.items():
        assert [name for name, found in kinds.items() if found == kind] == sorted(names)
    others = [name for name, kind in kinds.items() if kind is None and name not in ONLY_OURS]
    assert len(others) == 180
    messages = {name: refuse(DATA / name) for name in others}
    place = re.compile(r"damaged or no file of word vectors: (line [\d,]+: .+|.+ \(at byte [\d,]+\))\.$")
    assert [name for name, message in messages.items() if not place.search(message)] == []


def refuse(path):
    """With what message a file is refused; what was read, where it is not."""
    try:
        return f"read: {read_vectors(path)}"
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, names in {"text": TEXT, "binary": BINARY, "headless": HEADLESS, "fastText": FASTTEXT}.items()
        for name in names
    ],
)
def test_files_of_gensims_test_data_give_gensims_vectors(kind, name):
    expected = read_with_gensim(name, kind)
    errors = "replace" if name in CUT_CHARACTERS else None
    found = read_vectors(DATA / name, encoding=ENCODINGS.get(name, "utf-8"), errors=errors)
    # gensim leaves empty places at the end for words that come a second time.
    assert found.words == [word for word in expected.index_to_key if word is not None]
    np.testing.assert_allclose(found.matrix, expected.vectors[: len(found.words)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pretrained.vec", r"its header claims 3 words, but 1 follow \(at byte 54\)"),
        ("w2v_keyedvectors_load_test.modeldata", r"line 2: the word b'.+' is not utf-8 \(unexpected end of data\)"),
        ("model-from-gensim-3.8.0.w2v", r"it is an object of Python's, pickled, .+ \(at byte 0\)"),
        ("ft_kv_3.6.0.model.gz", r"it is an object of Python's, pickled, .+ \(at byte 0\)"),
        ("word2vec_old_sep.syn1neg.npy", r"it is an array of NumPy, .+ \(at byte 0\)"),
        ("lee.cor", r"its first lines are not each a word and its numbers \(at byte 0\)"),
    ],
)
def test_what_gensim_refuses_is_refused_with_the_place(name, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(DATA / name)


@pytest.mark.parametrize("name", FASTTEXT)
def test_words_that_fasttext_did_not_see_have_gensims_vectors(name):
    expected = read_with_gensim(name, "fastText")
    space = StaticEmbeddingModel.from_vectors(DATA / name, encoding=ENCODINGS.get(name, "utf-8"))
    assert bool(expected.bucket and expected.max_n) == (space.config.num_buckets > 0)
    for word in ("unheardof", "präludium", "日本語", "a", "rejection-rejection", "landlady's"):
        if not expected.bucket or not expected.max_n:
            continue
        np.testing.assert_allclose(space[word], expected.get_vector(word), rtol=0, atol=1e-5)


def test_a_classifiers_word_vectors_are_those_of_its_text_file():
    # gensim reads no supervised models; fastText's own text export beside it has five digits.
    name = "pang_lee_polarity_fasttext"
    exact, rounded = (read_vectors(DATA / f"{name}{kind}", encoding="latin-1") for kind in (".bin", ".vec"))
    assert exact.words == rounded.words
    np.testing.assert_allclose(exact.matrix, rounded.matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_glove_in_full_scores_as_published_files_do(tmp_path):
    """GloVe 6B.50d as its text file: 400,000 words. The scores are those of gensim on the same file."""
    words, matrix = read_packaged_glove()
    line = " ".join(["%.5g"] * 50)
    with open(tmp_path / "glove.6B.50d.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{word} {line % tuple(row)}\n" for word, row in zip(words, matrix.tolist(), strict=True))
    space = StaticEmbeddingModel.from_vectors(tmp_path / "glove.6B.50d.txt")
    assert len(space) == 400_000 and list(space.words) == words
    for start in range(0, 400_000, 40_000):
        np.testing.assert_allclose(space[words[start]], matrix[start], rtol=0, atol=1e-6)
    assert round(space.evaluate_word_pairs(read_judgements("wordsim353.tsv"))["spearman"], 4) == 0.5033
    assert round(space.evaluate_word_pairs(read_judgements("simlex999.txt"))["spearman"], 4) == 0.2646


def read_judgements(name):
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(first, second, float(judgement)) for first, second, judgement in rows]


def draw(words=50, size=6, seed=0):
    generator = np.random.default_rng(seed)
    names = [f"w{index}" for index in range(words - 3)] + ["été", "日本", "don't"]
    return names, generator.normal(size=(words, size)).astype(np.float32)


@pytest.mark.parametrize("binary", [True, False])
def test_what_is_written_is_read_again_by_us_and_by_gensim(tmp_path, binary):
    words, matrix = draw()
    path = tmp_path / ("vectors.bin" if binary else "vectors.txt")
    write_word2vec(path, words, matrix)
    ours, theirs = read_vectors(path), KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert ours.words == theirs.index_to_key == words
    assert np.array_equal(ours.matrix, matrix)
    assert np.array_equal(theirs.vectors, matrix)
    for word in ("two words", "", "a\tb"):
        with pytest.raises(ValueError, match="cannot hold the word"):
            write_word2vec(path, [word], matrix[:1])
    assert np.array_equal(read_vectors(path).matrix, matrix)


def compress(path, kind):
    packed = path.with_name(path.name + kind)
    if kind == ".zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, path.name)
    else:
        packed.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[kind].compress(path.read_bytes()))
    return packed


@pytest.mark.parametrize("has_arrow", [True, False])
def test_texts_of_every_shape_give_pythons_numbers(tmp_path, monkeypatch, has_arrow):
    """Blocks are parsed whole where each line is regular, else line by line; both as `float` reads each field."""
    if not has_arrow:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(vectors_static_embedding, "BLOCK", 700)
    generator = np.random.default_rng(1)
    numbers = np.array([f"{number:{form}}" for number in generator.normal(size=60) for form in (".5g", ".3e", ".17g", "+.1f")])
    rows = [*numbers.reshape(-1, 3).tolist(), ["1", "-0", "1e-50"], [".5", "5.", "3.4e38"], ["12345678901", "007", "-1E+5"]]
    expected = np.array(rows, dtype=np.float64).astype(np.float32)
    words = [f"w{place}" for place in range(len(rows))]
    path = tmp_path / "vectors.txt"
    for end in ("\n", " \n", "\r\n", " \r\n", "\n\n"):
        path.write_bytes("".join(f"{word} {' '.join(row)}{end}" for word, row in zip(words, rows, strict=True)).encode())
        found = read_vectors(path)
        assert found.words == words
        np.testing.assert_array_equal(found.matrix, expected)
    path.write_bytes("\n".join("\t".join([word, *row]) for word, row in zip(words, rows, strict=True)).encode())
    np.testing.assert_array_equal(read_vectors(path).matrix, expected)
    # One line has a number too few and the next one too many, so that their sum is right.
    for text in ("a 1 2 3\nb 4 5 6\nc 7 8\nd 9 10 11 12\n", "a 1 2 3\nb 4 5 6 7\nc 7 8\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="line 3: 2 numbers instead of 3"):
            read_vectors(path)
    path.write_text("3 3\na 1 2 3\nb 4 5 6 7\nc 8 9\n")
    with pytest.raises(ValueError, match="line 4: 2 numbers instead of 3"):
        read_vectors(path)


@pytest.mark.parametrize("kind", [".gz", ".bz2", ".xz", ".zip"])
@pytest.mark.parametrize("name", ["vectors.bin", "vectors.txt"])
def test_compressed_files_are_read_as_they_are(tmp_path, name, kind):
    words, matrix = draw()
    write_word2vec(tmp_path / name, words, matrix)
    packed = compress(tmp_path / name, kind)
    assert np.array_equal(read_vectors(packed).matrix, matrix)
    cut = packed.read_bytes()
    packed.write_bytes(cut[: len(cut) // 2])
    with pytest.raises(ValueError, match=r"breaks off|damaged|cannot be read"):
        read_vectors(packed)


def test_glove_words_may_hold_spaces(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 0.1 0.2 0.3\n. . 1 2 3\nat name@domain.com 4 5 6e-1\n2 7 8 9\n", encoding="utf-8")
    found = read_vectors(path)
    assert found.words == ["the", ". .", "at name@domain.com", "2"]
    np.testing.assert_allclose(found.matrix, [[0.1, 0.2, 0.3], [1, 2, 3], [4, 5, 0.6], [7, 8, 9]], rtol=1e-6)


def test_limit_dtype_and_repeated_words(tmp_path, caplog):
    path = tmp_path / "vectors.txt"
    path.write_text("4 2\na 1 2\nb 3 4\na 5 6\nc 7 8\n")
    found = read_vectors(path, dtype="float16")
    assert found.words == ["a", "b", "c"]
    assert found.matrix.dtype == np.float16
    assert found.matrix.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert "1 of 4 words come a second time" in caplog.text
    path.write_text("1 2\na 1 70000\n")
    with pytest.raises(ValueError, match="none that float16 can hold"):
        read_vectors(path, dtype="float16")
    path.write_text("4 2\na 1 2\nb 3 4\na 5 6\nc 7 8\n")
    assert read_vectors(path, limit=2).words == ["a", "b"]
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        read_vectors(path, limit=0)


def pack_fasttext(words, rows, size, buckets, *, claimed_rows=None):
    content = struct.pack("<2i", 793_712_314, 12) + struct.pack("<12i", size, 5, 5, 1, 5, 1, 1, 1, buckets, 3, 6, 100)
    content += struct.pack("<d", 1e-4) + struct.pack("<3i", len(words), len(words), 0) + struct.pack("<2q", 9, -1)
    content += b"".join(word.encode() + b"\x00" + struct.pack("<qb", 1, 0) for word in words)
    return content + struct.pack("<?2q", False, claimed_rows or len(rows), size) + np.asarray(rows, "<f4").tobytes()


def test_fasttexts_formats_and_limits_agree(tmp_path):
    words, rows = ["abc", "<été>", "b"], np.random.default_rng(0).normal(size=(3 + 7, 4)).astype(np.float32)
    content = pack_fasttext(words, rows, 4, 7)
    (tmp_path / "new.bin").write_bytes(content)
    # The first format has neither the two numbers in front, nor the count of pruned n-grams, nor a mark of quantization.
    dictionary = 8 + 48 + 8 + 12 + 8
    old = content[8:dictionary] + content[dictionary + 8 :]
    end = len(old) - rows.nbytes - 16
    (tmp_path / "old.bin").write_bytes(old[: end - 1] + old[end:])
    expected = [
        (rows[place] + rows[3:][hash_ngrams(word, 3, 6, 7)].sum(axis=0)) / (1 + len(hash_ngrams(word, 3, 6, 7)))
        for place, word in enumerate(words)
    ]
    for name in ("new.bin", "old.bin", compress(tmp_path / "new.bin", ".gz").name):
        found = read_vectors(tmp_path / name)
        assert (found.words, found.min_ngram, found.max_ngram) == (words, 3, 6)
        np.testing.assert_allclose(found.matrix, expected, atol=1e-6)
        np.testing.assert_array_equal(found.ngrams, rows[3:])
        few = read_vectors(tmp_path / name, limit=2, dtype="float16", extra_rows=2)
        assert few.words == words[:2] and few.matrix.dtype == few.ngrams.dtype == np.float16
        np.testing.assert_allclose(few.matrix, [*expected[:2], np.zeros(4), np.zeros(4)], atol=2e-3)
        space = StaticEmbeddingModel.from_vectors(tmp_path / name, limit=2)
        np.testing.assert_allclose(space["b"], rows[3:][hash_ngrams("b", 3, 6, 7)].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "complex64", "U5"])
def test_kinds_that_hold_no_vectors_and_unknown_encodings_are_refused(tmp_path, kind):
    (tmp_path / "vectors.txt").write_text("a 1 2\nb 3 4\n")
    with pytest.raises(ValueError, match=f"dtype must be a kind of real number.+got '{kind}'"):
        read_vectors(tmp_path / "vectors.txt", dtype=kind)
    with pytest.raises(ValueError, match="unknown encoding: utf-99; encoding must be one"):
        read_vectors(tmp_path / "vectors.txt", encoding="utf-99")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc", "too short"),
        (b"\x80\x04\x95\x00\x00\x00\x00", "an object of Python's, pickled, which is not read here"),
        (b"\x93NUMPY\x01\x00", "an array of NumPy"),
        (b"hello world\nnothing here\n", r"line 1|first line"),
        (b"3 2\na 1 2\nb 3 4\n", "claims 3 words"),
        (b"3 2\na 1 2.00000\nb 3 4\n", "claims 3 words, but 2 follow"),
        (b"2 2\na 1 2\nb 3\n", "line 3: 1 numbers instead of 2"),
        (b"2 2\na 1 2\nb 3 x\n", "line 3: could not convert"),
        (b"7\ta\t4\n8\tb\t5\n", r"line 1: b'7\\ta' before 1 numbers are several fields"),
        (b"2 2\na 1 2\nb 3 nan\n", "vector of 'b' holds what is no number"),
        (b"2 2\na 1 2\n\xff 3 4\n", r"'\\xff' is not utf-8"),
        (b"9000000000 300\na 1 2\n", "claims 9,000,000,000 words of 300 numbers"),
        (b"5 900000\na \x00\x01", "claims vectors of 900,000 numbers"),
        (b"0 5\n\n", "claims no words"),
        (b"2 2\na " + b"\x00" * 8 + b"b \x00\x00", "claims 2 words"),
        (b"2 1\na \x00\x00\x80?b \x00\x00\xc0\x7f\n\n\n", "vector of 'b' holds what is no number"),
        (pack_fasttext(["a"], np.zeros((3, 2)), 2, 2)[:-4], "claims a matrix of 3 rows"),
        (pack_fasttext(["a"], np.zeros((3, 2)), 2, 2, claimed_rows=2**40), "does not fit 1 words, 2 buckets"),
        (pack_fasttext(["a"], np.full((3, 2), np.nan), 2, 2), "holds what is no number"),
        (pack_fasttext(["abc"], np.full((3, 2), 3e38), 2, 2), "vector of 'abc' holds what is no number"),
    ],
)
def test_damaged_files_are_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_vectors(path)


def test_a_missing_file_and_an_archive_of_several_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_vectors(tmp_path / "none")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.txt", "1 1\na 1\n")
        archive.writestr("b.txt", "1 1\nb 1\n")
    with pytest.raises(ValueError, match=r"holds 2 files \(a.txt, b.txt\)"):
        read_vectors(tmp_path / "two.zip")


def test_ngram_hashes_are_fasttexts():
    # Of the word "ab": <a, <ab, <ab>, ab, ab>, b>, a, b, by the definition of the 32-bit FNV-1a hash.
    def fnv(text):
        state = 2_166_136_261
        for byte in text.encode():
            state = ((state ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16_777_619) % 2**32
        return state % 1000

    grams = ["<a", "<ab", "<ab>", "a", "ab", "ab>", "b", "b>"]
    assert sorted(hash_ngrams("ab", 1, 4, 1000)) == sorted(fnv(gram) for gram in grams)
    assert sorted(hash_ngrams("é", 3, 3, 1000)) == [fnv("<é>")]
