"""Reading pairs from every kind of source, what is refused, and what is counted."""

from __future__ import annotations

import csv
import gzip
import json

import datasets
import pyarrow as pa
import pytest
from specimens import build_processor

from hf_genext.data import encode_pairs, group_references, read_pairs, split_by_source
from hf_genext.row_sources import open_source
from hf_genext.tables import read_table, to_string, to_strings

COLUMNS = {"source_column": "word", "target_column": "phones"}
ROWS = [("cat", "K AE T"), ("violin", "V AY AH L IH N"), ("at", "AE T")]


def write_rows(folder, kind):
    """The three rows as a file of a kind; returns what `read_pairs` takes."""
    columns = {"word": [word for word, _ in ROWS], "phones": [phones for _, phones in ROWS]}
    if kind == "dataset":
        return datasets.Dataset.from_dict(columns)
    if kind == "folder that datasets opens":
        (folder / "data").mkdir()
        datasets.Dataset.from_dict(columns).to_csv(folder / "data" / "train.csv")
        return str(folder / "data")
    if kind == "text pair":
        for name, values in columns.items():
            (folder / name).write_text("\n".join(values) + "\n", encoding="utf-8")
        return [folder / "word", folder / "phones"]
    if kind == "saved dataset":
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(folder / "saved")
        return folder / "saved"
    path = folder / f"rows{kind}"
    if kind == ".parquet":
        datasets.Dataset.from_dict(columns).to_parquet(path)
    elif kind in (".jsonl", ".json"):
        path.write_text("".join(json.dumps({"word": w, "phones": p}) + "\n" for w, p in ROWS), encoding="utf-8")
    else:
        separator = "," if ".csv" in kind else "\t"
        text = "".join(separator.join(row) + "\n" for row in [("word", "phones"), *ROWS])
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    "kind",
    [
        ".tsv",
        ".csv",
        ".tsv.gz",
        ".jsonl",
        ".json",
        ".parquet",
        "text pair",
        "dataset",
        "saved dataset",
        "folder that datasets opens",
    ],
)
def test_every_kind_of_source_gives_the_same_rows(tmp_path, kind):
    pairs, report = read_pairs(write_rows(tmp_path, kind), **COLUMNS)
    assert list(zip(pairs["source"], pairs["target"], strict=True)) == ROWS
    assert (report.read, report.kept) == (3, 3)


def test_words_that_look_like_numbers_nulls_or_quotes_stay_as_they_are(tmp_path):
    path = tmp_path / "rows.tsv"
    words = ["1984", "null", "NA", 'say "x', "007", "true", "1e5", "été", "日本"]
    path.write_text("".join(f"{word}\tAH\n" for word in words), encoding="utf-8")
    pairs, _ = read_pairs(path, column_names=["word", "phones"], **COLUMNS)
    assert list(pairs["source"]) == words


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"\xef\xbb\xbfword\tphones\r\ncat\tK AE T\r\n")
    pairs, _ = read_pairs(path, **COLUMNS)
    assert pairs[:] == {"source": ["cat"], "target": ["K AE T"], "row": [1]}


def test_windows_line_ends_are_no_part_of_two_text_files(tmp_path):
    for name, content in (("word", b"cat\r\nat\r\n"), ("phones", b"K AE T\r\nAE T\r\n")):
        (tmp_path / name).write_bytes(content)
    pairs, _ = read_pairs([tmp_path / "word", tmp_path / "phones"], **COLUMNS)
    assert pairs[:] == {"source": ["cat", "at"], "target": ["K AE T", "AE T"], "row": [1, 2]}


def test_several_tables_are_read_one_after_the_other(tmp_path):
    (tmp_path / "a.tsv").write_text("word\tphones\ncat\tK AE T\n")
    (tmp_path / "b.csv").write_text("phones,word\nAE T,at\n")
    pairs, _ = read_pairs([tmp_path / "a.tsv", tmp_path / "b.csv"], **COLUMNS)
    assert pairs[:] == {"source": ["cat", "at"], "target": ["K AE T", "AE T"], "row": [1, 2]}
    (tmp_path / "c.csv").write_text("phones,letters\nAE T,at\n")
    with pytest.raises(ValueError, match="files that are read together need the same"):
        read_pairs([tmp_path / "a.tsv", tmp_path / "c.csv"], **COLUMNS)
    (tmp_path / "text").write_text("AE T\nAE T\n")
    with pytest.raises(ValueError, match="are a table and a text"):
        read_pairs([tmp_path / "a.tsv", tmp_path / "text"], **COLUMNS)


def test_dates_in_json_stay_as_they_are_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    dates = ["2020-05-03", "1999-12-31T23:59:59Z", "2001-01-01 10:00", None]
    rows = [{"word": "cat", "phones": date, "parts": [{"when": date, "size": 1}]} for date in dates]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert list(read_pairs(path, **COLUMNS)[0]["target"]) == dates[:3]
    assert read_table(path)[0].to_pylist() == rows


@pytest.mark.parametrize("values", [[True, False], [1.0, 2.5, 1e20], [3, -4], ["a", "1.0"]])
def test_a_value_alone_is_written_as_in_its_column(values):
    table = pa.table({"word": values})
    assert list(map(to_string, values)) == to_strings(table, "word", "the table").to_pylist()


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_row_may_be_longer_than_what_is_read_at_once(tmp_path, kind):
    path, long = tmp_path / f"rows{kind}", "a" * (3 << 20)
    rows = [("cat", "K AE T"), (long, "AH"), ("at", "AE T")]
    if kind == ".csv":
        path.write_text("word,phones\n" + "".join(f"{word},{phones}\n" for word, phones in rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps({"word": w, "phones": p}) + "\n" for w, p in rows), encoding="utf-8")
    pairs, _ = read_pairs(path, **COLUMNS)
    assert list(zip(pairs["source"], pairs["target"], strict=True)) == rows


def test_quoted_fields_may_hold_line_feeds_and_commas_anywhere(tmp_path):
    path = tmp_path / "rows.csv"
    columns = {"source_column": "word, written", "target_column": "007"}
    rows = [(f"one, {number}\n\n\n\n\n\ntwo", f"0{number}") for number in range(200_000)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("word, written", "007"), *rows])
    pairs, _ = read_pairs(path, **columns)
    assert list(zip(pairs["source"], pairs["target"], strict=True)) == rows


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (datasets.Dataset.from_dict({"word": ["cat"]}).to_iterable_dataset(), "IterableDataset"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"word": ["cat"]})}), "DatasetDict"),
        ({"word": ["cat"], "phones": ["K AE T"]}, "dict"),
    ],
)
def test_what_is_no_whole_data_set_is_refused(source, kind):
    with pytest.raises(
        TypeError, match=rf'datasets.Dataset, got {kind}\. Of several splits give one, such as dataset\["train"\]'
    ):
        read_pairs(source, **COLUMNS)


def test_rows_with_an_empty_side_are_counted_and_named(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("word\tphones\ncat\tK\n\tB\n dog \t \nat\tAE T\n  \t  \n", encoding="utf-8")
    pairs, report = read_pairs(path, **COLUMNS)
    assert list(pairs["source"]) == ["cat", "at"]
    assert str(report) == ("5 rows read, 2 kept; 2 dropped: empty source (rows 2, 5); 1 dropped: empty target (rows 3)")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.tsv", b"", "is empty"),
        ("rows.tsv", b"  \n\n", "is empty"),
        ("rows.tsv", b"word\tphones\n", "no rows"),
        ("rows.tsv", b"word\tphones\n\t\n \t \n", "No row has both sides"),
        ("rows.tsv", b"word\tphones\ncat\tK\xe9 T\n", r"not UTF-8: byte 0xe9 at offset 17, line 2.*iconv"),
        ("rows.tsv", b"spelling\tsounds\ncat\tK AE T\n", "no column 'word' in .*it has 'spelling', 'sounds'"),
        ("rows.tsv", b"word\tphones\ncat\n", "cannot be read as tsv.*columns"),
        ("rows.jsonl", b'{"word": "cat", "phones": \n', "cannot be read as jsonl"),
        ("rows.jsonl", b'{"word": "cat", "phones": ["K", "T"]}\n', "'phones' of .* holds list"),
        ("rows.json", b'[{"word": "cat", "phones": "K AE T"}]', "cannot be read as json.*Write a row a line"),
        ("rows.csv", b"word,phones,phones\ncat,K,K\n", "2 columns 'phones' in .*Rename them"),
        ("rows.csv", "word,phones\ncat,K\n".encode("utf-16"), "not UTF-8: byte 0xff .*iconv -f utf-16"),
        (
            "rows.tsv.gz",
            gzip.compress(b"word\tphones\ncat\tK AE T\n", mtime=0)[:30],
            "cannot be unpacked with gzip: .*Is it whole",
        ),
        ("rows.tsv.gz", b"word\tphones\ncat\tK AE T\n", r"rows\.tsv\.gz' cannot be unpacked with gzip"),
        ("rows.parquet", b"PAR1 no", "not a parquet file"),
        ("rows.xlsx", b"PK", "known are .tsv, .csv"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(path, **COLUMNS)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.tsv"):
        read_pairs(tmp_path / "none.tsv", **COLUMNS)


def test_text_files_of_unequal_length_are_refused(tmp_path):
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\n")
    with pytest.raises(ValueError, match=r"has 2 lines.*has 1"):
        read_pairs([tmp_path / "a", tmp_path / "b"], **COLUMNS)


def test_classes_of_datasets_are_read_by_their_names(tmp_path):
    classes = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"class": classes, "several": datasets.List(classes), "number": datasets.Value("int64")})
    columns = {"class": [1, 0, -1, None], "several": [[1, 0], [], None, [-1, 1]], "number": [1, 0, -1, 2]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "parquet" / "train.parquet")
    named = {"class": ["dog", "cat", None, None], "several": [["dog", "cat"], [], None, ["dog"]], "number": [1, 0, -1, 2]}
    for source in (rows, tmp_path / "saved", tmp_path / "parquet"):
        table, _ = read_table(source)
        assert table.to_pydict() == named
    # As batch jobs read them.
    opened = open_source(str(tmp_path / "saved"))
    found = [row for _, read in opened.pieces(3) for row in read()]
    schema = opened.scan_schema()
    assert pa.Table.from_pylist(found, schema).to_pydict() == named
    assert (schema.field("class").type, schema.field("several").type) == (pa.string(), pa.list_(pa.string()))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("kind", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_blank_lines_change_neither_types_nor_numbers(tmp_path, kind, separator, end):
    path = tmp_path / f"rows{kind}"
    lines = ["", "word,phones", "a,007", "", "", "c,NA", "d,", "", 'e"f,1', ""]
    path.write_bytes(end.join(lines).replace(",", separator).encode())
    pairs, report = read_pairs(path, **COLUMNS)
    assert pairs[:] == {"source": ["a", "c", 'e"f'], "target": ["007", "NA", "1"], "row": [1, 4, 7]}
    assert str(report) == "7 rows read, 3 kept; 3 dropped: empty source (rows 2, 3, 6); 1 dropped: empty target (rows 5)"


def test_blank_lines_of_a_quoted_cell_are_its_own(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [('5" disk', 'one\n\n"two"\n\n'), ("\n\nthree, four", "AH")]
    path.write_text('word,phones\n5" disk,"one\n\n""two""\n\n"\n\n"\n\nthree, four",AH\n', encoding="utf-8")
    pairs, report = read_pairs(path, **COLUMNS)
    assert list(zip(pairs["source"], pairs["target"], strict=True)) == rows
    assert list(pairs["row"]) == [1, 3] and report.dropped == {"empty source": 1}


def test_no_source_stands_on_both_sides_of_a_split():
    rows = datasets.Dataset.from_dict(
        {"source": [f"{'Ww'[row % 2]}ord{row // 3}" for row in range(300)], "target": [str(row) for row in range(300)]}
    )
    train, validation = split_by_source(rows, 20, seed=4)
    train_words, validation_words = ({word.casefold() for word in part["source"]} for part in (train, validation))
    assert len(validation_words) == 20
    assert not train_words & validation_words
    assert sorted([*train["target"], *validation["target"]]) == sorted(rows["target"])
    # The order of the rows does not matter, the seed does.
    shuffled = split_by_source(rows.shuffle(seed=1), 20, seed=4)[1]
    assert {word.casefold() for word in shuffled["source"]} == validation_words
    assert {word.casefold() for word in split_by_source(rows, 20, seed=5)[1]["source"]} != validation_words


def test_a_source_written_in_two_ways_is_one():
    ways = ["caf\u00e9", "cafe\u0301", "CAFE\u0301"]
    rows = datasets.Dataset.from_dict({"source": [*ways, "a", "b"], "target": ["1", "2", "3", "4", "5"]})
    for seed in range(10):
        train, validation = (set(part["source"]) for part in split_by_source(rows, 1, seed=seed))
        assert len(train & set(ways)) in (0, 3) and len(validation & set(ways)) in (0, 3)
    grouped = group_references(rows)
    assert list(grouped["references"]) == [["1", "2", "3"], ["4"], ["5"]]


@pytest.mark.parametrize("size", [0, 3, 7, 0.0, 1.0])
def test_a_split_that_leaves_a_side_empty_is_refused(size):
    rows = datasets.Dataset.from_dict({"source": ["a", "b", "c"], "target": ["x", "y", "z"]})
    with pytest.raises(ValueError, match="both sides need some"):
        split_by_source(rows, size, seed=0)


def test_several_targets_of_a_source_are_its_references():
    rows = datasets.Dataset.from_dict({"source": ["Read", "a", "read", "READ"], "target": ["R IY D", "AH", "R EH D", "R IY D"]})
    grouped = group_references(rows)
    assert grouped[:] == {"source": ["Read", "a"], "references": [["R IY D", "R EH D"], ["AH"]]}


def encode(sources, targets, **rules):
    rows = datasets.Dataset.from_dict({"source": sources, "target": targets})
    return encode_pairs(rows, build_processor(), **{"max_source_length": 24, "max_target_length": 24, **rules})


def test_rows_are_encoded_as_the_processor_does():
    processor = build_processor()
    encoded, report = encode([word for word, _ in ROWS], [phones for _, phones in ROWS])
    assert (report.read, report.kept, len(encoded)) == (3, 3, 3)
    for row, (word, phones) in zip(encoded, ROWS, strict=False):
        assert row["input_ids"].tolist() == processor(text=word)["input_ids"]
        assert row["labels"].tolist() == processor(text_target=phones)["labels"]
    assert encoded.lengths.tolist() == [[4, 4], [7, 7], [3, 3]]


def test_rows_longer_than_the_model_are_refused_cut_or_dropped_as_told():
    rows = (["cat", "violins"], ["K AE T", "AE"])
    with pytest.raises(ValueError, match=r"Row 2 has a source of 8 tokens \('violins'\); the model takes 5"):
        encode(*rows, max_source_length=5)
    encoded, report = encode(*rows, max_source_length=5, too_long="truncate")
    assert encoded[1]["input_ids"].tolist() == [*build_processor()(text="viol")["input_ids"]]
    assert str(report) == "2 rows read, 2 kept; 1 changed: source longer than 5 tokens (rows 2)"
    encoded, report = encode(*rows, max_source_length=5, too_long="drop")
    assert len(encoded) == 1
    assert str(report) == "2 rows read, 1 kept; 1 dropped: source longer than 5 tokens (rows 2)"
    with pytest.raises(ValueError, match="No row is left"):
        encode(["violins"], ["AE"], max_source_length=5, too_long="drop")


def test_rows_are_numbered_as_in_their_file_whatever_was_left_out_and_held_out(tmp_path):
    path = tmp_path / "rows.tsv"
    words = ["", "cat", "", *(f"{letters}" for letters in ("at", "ca", "ta", "ac", "c~t", "a"))]
    path.write_text("word\tphones\n" + "".join(f"{word}\tK AE T\n" for word in words) + "violins\tK QQ\n", encoding="utf-8")
    pairs, _ = read_pairs(path, **COLUMNS)
    assert pairs["row"][:] == [2, 4, 5, 6, 7, 8, 9, 10]
    train, held_out = split_by_source(pairs, 2, seed=1)
    assert sorted(train["row"][:] + held_out["row"][:]) == pairs["row"][:]
    processor, limits = build_processor(), {"max_source_length": 24, "max_target_length": 24}
    with pytest.raises(ValueError, match="Row 10: the target vocabulary lacks 'QQ'"):
        encode_pairs(pairs, processor, **limits)
    with pytest.raises(ValueError, match="Row 10 has a source of 8 tokens"):
        encode_pairs(pairs, processor, max_source_length=5, max_target_length=24)
    _, report = encode_pairs(pairs, processor, **limits, unknown_target="drop")
    assert "1 dropped: unknown token in the target (rows 10)" in str(report)
    assert "1 changed: unknown token in the source (rows 8)" in str(report)


def test_targets_that_the_vocabulary_lacks_are_refused_kept_or_dropped_as_told():
    rows = (["cat", "at"], ["K QQ T", "AE T"])
    with pytest.raises(ValueError, match="Row 1: the target vocabulary lacks 'QQ' "):
        encode(*rows)
    encoded, report = encode(*rows, unknown_target="drop")
    assert len(encoded) == 1
    assert "1 dropped: unknown token in the target (rows 1)" in str(report)
    encoded, report = encode(*rows, unknown_target="keep")
    assert build_processor().target_tokenizer.unk_token_id in encoded[0]["labels"]
    assert "1 changed: unknown token in the target (rows 1)" in str(report)
    with pytest.raises(ValueError, match="unknown_target must be one of 'error', 'keep', 'drop'"):
        encode(*rows, unknown_target="guess")


@pytest.mark.parametrize("line", ["Word,ARPABET", "word,pronunciation"])
def test_a_header_that_becomes_a_row_is_warned_of(tmp_path, caplog, line):
    path = tmp_path / "rows.csv"
    path.write_text(f"{line}\ncat,K AE T\n", encoding="utf-8")
    how = {"source_column": "word", "target_column": "pronunciation", "column_names": ["word", "pronunciation"]}
    pairs, _ = read_pairs(path, **how)
    assert len(pairs) == 2
    assert "its first line is a row; but that holds" in caplog.text
    assert "--column_names null" in caplog.text
    caplog.clear()
    assert open_source(str(path), column_names=["word", "pronunciation"]).count() == 2
    assert "its first line is a row" in caplog.text
    caplog.clear()
    path.write_text("cat,K AE T\nword,W ER D\n", encoding="utf-8")
    read_pairs(path, **how)
    open_source(str(path), column_names=["word", "pronunciation"])
    assert not caplog.text
