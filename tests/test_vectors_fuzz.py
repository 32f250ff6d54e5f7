"""Damaged files of vectors and damaged folders, made by seeded mutations: vectors or a clear error, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import resource
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from hf_genext import StaticEmbeddingModel
from hf_genext.static_embedding.vectors_static_embedding import read_vectors, write_word2vec

MEMORY = 2**28
"""Bytes that a file of some KiB may take while it is read; buffers and threads included."""


@contextmanager
def bounded_memory():
    """The system gives this process no more than `MEMORY` on top of what it has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def zip_up(content, **settings):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vectors", content)
    return file.getvalue()


def pack_fasttext(words, rows, *, size, buckets, labels=0, has_magic=True):
    """A file as fastText writes it: 12 numbers of settings, the dictionary, the matrix."""
    content = struct.pack("<2i", 793_712_314, 12) if has_magic else b""
    content += struct.pack("<12i", size, 5, 5, 1, 5, 1, 1, 1, buckets, 3, 6, 100) + struct.pack("<d", 1e-4)
    content += struct.pack("<3i", len(words), len(words) - labels, labels) + struct.pack("<q", 9)
    content += struct.pack("<q", -1) if has_magic else b""
    for place, word in enumerate(words):
        content += word.encode() + b"\x00" + struct.pack("<qb", 1, int(place >= len(words) - labels))
    return content + (b"\x00" if has_magic else b"") + struct.pack("<2q", *rows.shape) + rows.astype("<f4").tobytes()


def build_originals(folder):
    """A small file of each format."""
    generator = np.random.default_rng(0)
    words = [f"w{index}" for index in range(16)] + ["été", "日本", "don't", "new york"]
    matrix = generator.normal(size=(20, 5)).astype(np.float32)
    originals = {}
    for name in ("word2vec.bin", "word2vec.txt"):
        write_word2vec(folder / name, words[:-1], matrix[:-1])
        originals[name] = (folder / name).read_bytes()
    lines = [f"{word} {' '.join(f'{number:.5g}' for number in row)}" for word, row in zip(words, matrix.tolist(), strict=True)]
    originals["glove.txt"] = "\n".join(lines).encode()
    originals["fasttext.vec"] = ("20 5\n" + " \n".join(lines) + " \n").encode()
    originals["tabs.txt"] = "\r\n".join(line.replace(" ", "\t") for line in lines[:-1]).encode()
    rows = generator.normal(size=(27, 5))
    originals["fasttext.bin"] = pack_fasttext(words, rows, size=5, buckets=7)
    originals["supervised.bin"] = pack_fasttext(words, rows[:-2], size=5, buckets=7, labels=2)
    originals["first_fasttext.bin"] = pack_fasttext(words, rows, size=5, buckets=7, has_magic=False)
    for name in ("word2vec.bin", "glove.txt", "fasttext.bin"):
        for kind, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zip_up}.items():
            originals[f"{name}.{kind}"] = pack(originals[name])
    return originals


SIZES = [-(2**31), -1, 0, 1, 255, 2**16, 2**20, 2**31 - 1]
SNIPPETS = [
    b"nan",
    b"inf",
    b"-1e999",
    b"1e39",
    b"\xff\xfe\xfd",
    b"\xe6\x97",
    b"   ",
    b"\n\n\n",
    b"\t",
    b"\r",
    b"\x00",
    b"9" * 30,
]


def mutate(content, generator):
    """One to three mutations of a file."""
    content = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        place = int(generator.integers(len(content) + 1))
        kind = generator.integers(11)
        if kind == 0:  # Cut.
            del content[place:]
        elif kind <= 2 and place < len(content):  # A bit flipped.
            content[place] ^= 1 << int(generator.integers(8))
        elif kind == 3:  # A size that lies, in bytes of 4 or 8.
            layout = str(generator.choice(["<i", "<q"]))
            content[place : place + struct.calcsize(layout)] = struct.pack(layout, int(generator.choice(SIZES)))
        elif kind == 4:  # A header that lies, in letters.
            first, newline, rest = content.partition(b"\n")
            numbers = generator.choice([0, 1, 4, 6, 19, 21, 65_536, 10**6, 2**40, 10**18], size=2)
            content = bytearray(b"%d %d" % tuple(numbers)) + newline + (rest if len(first) < 9 else content)
        elif kind == 5:  # No number, in bytes.
            content[place : place + 4] = struct.pack("<f", float(generator.choice([np.nan, np.inf, -np.inf])))
        elif kind == 6:  # Something doubled, such as a word.
            content[place:place] = content[place : place + int(generator.integers(60))]
        elif kind == 7:  # Wrong widths.
            fields = content.split(b" ")
            del fields[int(generator.integers(len(fields)))]
            content = bytearray(b" ".join(fields))
        elif kind == 8:  # Lines in another order, some of them twice.
            lines = content.split(b"\n")
            content = bytearray(b"\n".join(lines[int(place)] for place in generator.integers(len(lines), size=len(lines))))
        elif kind == 9 and generator.integers(4) == 0:  # Packed once more, or said to be packed.
            pack = [gzip.compress, bz2.compress, zlib.compress, zip_up, lambda data: b"\x1f\x8b\x08\x00" + data]
            pack += [lambda data: b"BZh9" + data, lambda data: b"PK\x03\x04" + data, lambda data: b"\xfd7zXZ\x00" + data]
            content = bytearray(pack[int(generator.integers(len(pack)))](bytes(content)))
        else:
            content[place : place + 3] = SNIPPETS[int(generator.integers(len(SNIPPETS)))]
    return bytes(content)


def fuzz_files(folder, rounds, seed):
    """Read mutated files; how many of each were read and refused."""
    generator = np.random.default_rng(seed)
    originals = list(build_originals(folder).items())
    outcomes = Counter()
    with bounded_memory():
        for round_ in range(rounds):
            path = folder / f"mutated-{round_}"  # Each a new one: writing over a file waits for the disk.
            name, content = originals[int(generator.integers(len(originals)))]
            content = mutate(content, generator)
            path.write_bytes(content)
            try:
                found = read_vectors(path)
                path.unlink()
            except ValueError as error:
                assert str(path) in str(error), f"{error} of {content!r}"
                outcomes[name, "refused"] += 1
                path.unlink()
                continue
            except Exception as error:
                raise AssertionError(f"{type(error).__name__} {error} of {name}: {content!r}") from error
            assert len(found.words) == len(found.matrix) == len(set(found.words)) > 0, content
            assert np.isfinite(found.matrix).all(), content
            assert found.ngrams is None or np.isfinite(found.ngrams).all(), content
            outcomes[name, "read"] += 1
    return outcomes


def check_outcomes(outcomes, originals, rounds):
    """Every format was both read and refused, often enough for the run to mean something."""
    for name in originals:
        assert outcomes[name, "refused"] > rounds / len(originals) / 10, outcomes
        # A packed file has a sum of its own, so that nearly every mutation is noticed.
        assert outcomes[name, "read"] >= (rounds / len(originals) / 20 if name.count(".") == 1 else 0), outcomes
    assert sum(outcomes.values()) == rounds


@pytest.mark.timeout(120)
def test_mutated_files_give_vectors_or_a_clear_error(tmp_path):
    check_outcomes(fuzz_files(tmp_path, 4000, seed=0), build_originals(tmp_path), 4000)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_mutated_files_give_vectors_or_a_clear_error(tmp_path, seed):
    check_outcomes(fuzz_files(tmp_path, 10_000, seed), build_originals(tmp_path), 10_000)


@pytest.mark.timeout(120)
def test_the_originals_are_read_whole(tmp_path):
    for name, content in build_originals(tmp_path).items():
        (tmp_path / "original").write_bytes(content)
        expected = 19 if name.startswith(("word2vec", "tabs")) else 18 if name == "supervised.bin" else 20
        assert len(read_vectors(tmp_path / "original").words) == expected, name


def repeat(start, part, megabytes):
    """A file that begins so and goes on with one part over and over, packed by gzip, whose files may follow each other."""
    return gzip.compress(start) + gzip.compress(part * (2**20 // len(part))) * megabytes


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("start", "part", "message"),
    [
        (b"", b"\x00", "its header claims vectors of 0 numbers"),
        (b"", b" ", "its first lines are not each"),
        (b"", b"9", "its first lines are not each|line 1: it is longer than"),
        (b"a 1 2\n", b"b 3 ", "line 2: it is longer than"),
        (b"1000000000 300\nword ", b"\x01", "its header claims|the vector of|word 2 of 1,000,000,000"),
        (b"1000000000 65536\n", b"w", "word 1 of 1,000,000,000|of numbers|line 2"),
        (struct.pack("<3i", 793_712_314, 12, 300) + struct.pack("<11i", *[2_000_000_000] * 11), b"\x01", "its header claims"),
        (
            struct.pack("<14i", 793_712_314, 12, 300, 5, 5, 1, 5, 1, 1, 1, 2_000_000_000, 3, 6, 100)
            + struct.pack("<d3i2q", 1e-4, 2_000_000_000, 2_000_000_000, 0, 9, -1),
            b"w" * 64,
            "entry 1 of 2,000,000,000 is longer",
        ),
    ],
)
def test_what_unpacks_to_much_more_is_refused_in_bounded_memory(tmp_path, start, part, message):
    (tmp_path / "bomb.gz").write_bytes(repeat(start, part, 400))
    with bounded_memory(), pytest.raises(ValueError, match=message):
        read_vectors(tmp_path / "bomb.gz")


def test_blank_lines_hold_nothing_however_many(tmp_path):
    (tmp_path / "blank.gz").write_bytes(repeat(b"a 1 2\nb 3 4\n", b"\n", 100))
    with bounded_memory():
        assert read_vectors(tmp_path / "blank.gz").words == ["a", "b"]


def test_archives_that_hold_no_vectors_are_refused(tmp_path):
    with tarfile.open(tmp_path / "vectors.tar.gz", "w:gz") as archive:
        (tmp_path / "vectors.txt").write_text("a 1 2\nb 3 4\n")
        archive.add(tmp_path / "vectors.txt", "vectors.txt")
    with pytest.raises(ValueError, match="is damaged or no file of word vectors"):
        read_vectors(tmp_path / "vectors.tar.gz")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"empty\.zip"):
        read_vectors(tmp_path / "empty.zip")


def fuzz_folders(folder, rounds, seed):
    """Open folders of which one file is mutated; how often that went."""
    generator = np.random.default_rng(seed)
    words = [f"w{index}" for index in range(20)]
    space = StaticEmbeddingModel.from_words(
        words, generator.normal(size=(20, 5)), counts=range(20, 0, -1), pooling="sif", ngrams=np.ones((3, 5)), min_ngram=3
    )
    space.save_pretrained(folder)
    originals = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "vocabulary.safetensors")}
    outcomes = Counter()
    with bounded_memory():
        for _ in range(rounds):
            name = list(originals)[int(generator.integers(3))]
            content = mutate(originals[name], generator)
            (folder / name).write_bytes(content)
            try:
                opened = AutoModel.from_pretrained(folder)
                assert opened["w3"].shape == (opened.config.hidden_size,)
                assert len(list(opened.words)) == len(opened)
                opened.most_similar("w3", topn=2)
                outcomes[name, "opened"] += 1
            except (ValueError, OSError, KeyError, StrictDataclassError) as error:
                assert str(error)
                outcomes[name, "refused"] += 1
            except Exception as error:
                raise AssertionError(f"{type(error).__name__} {error} of {name}: {content!r}") from error
            finally:
                (folder / name).write_bytes(originals[name])
    return outcomes


@pytest.mark.timeout(300)
def test_mutated_folders_open_or_give_a_clear_error(tmp_path):
    outcomes = fuzz_folders(tmp_path, 200, seed=0)
    assert len(outcomes) == 6 and min(outcomes.values()) > 3, outcomes
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "genext_static_embedding"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_mutated_folders_open_or_give_a_clear_error(tmp_path):
    outcomes = fuzz_folders(tmp_path, 3000, seed=1)
    assert len(outcomes) == 6 and min(outcomes.values()) > 15, outcomes
