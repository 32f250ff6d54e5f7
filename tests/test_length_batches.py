"""Many inputs in batches of like length: the answers of each alone, in their order, without reading all of them at once."""

from __future__ import annotations

import itertools

import datasets
import pytest
import torch
from specimens import PHONEMES, WORDS, build_pipeline
from test_fast_decoding import build_bart
from transformers.pipelines.pt_utils import KeyDataset

from hf_genext import length_batches
from hf_genext.length_batches import RowPadding, batch_by_length, plan_batches

MANY = [*WORDS, "vat", "ta", "act", "clinic", "vivat", "on", "lav", "cat"] * 2


@pytest.fixture(scope="module")
def pipe():
    return build_pipeline()


@pytest.fixture
def sizes(pipe, monkeypatch):
    """The rows of each batch that the model is run on."""
    seen = []
    forward = type(pipe)._forward

    def record(self, inputs, **arguments):
        seen.append(len(inputs["input_ids"]))
        return forward(self, inputs, **arguments)

    monkeypatch.setattr(type(pipe), "_forward", record)
    return seen


# The pipeline

CALLS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    "prefix": {"target_prefix": "V AY"},
    "allowed": {"allowed_outputs": PHONEMES, "num_beams": 2},
}


@pytest.mark.parametrize("name", CALLS)
def test_many_inputs_have_the_answers_of_each_alone(pipe, sizes, name):
    arguments = {"max_new_tokens": 9, **CALLS[name]}
    alone = pipe(MANY, batch_size=1, **arguments)
    assert set(sizes) == {1}
    sizes.clear()
    assert pipe(MANY, **arguments) == alone
    assert max(sizes) > 8
    assert sum(sizes) == len(MANY)
    rows = KeyDataset(datasets.Dataset.from_dict({"word": MANY}), "word")
    assert list(pipe(rows, **arguments)) == alone
    assert list(pipe((word for word in MANY), **arguments)) == alone


def test_scores_are_those_of_each_alone(pipe):
    together, alone = (pipe(MANY, return_scores=True, max_new_tokens=9, **how) for how in ({}, {"batch_size": 1}))
    for (answer,), (expected,) in zip(together, alone, strict=True):
        assert answer["generated_text"] == expected["generated_text"]
        assert answer["token_scores"] == pytest.approx(expected["token_scores"], abs=1e-4)
    scores = pipe.score(MANY, ["K AE T"] * len(MANY))
    for word, found in zip(MANY, scores, strict=True):
        assert found["score"] == pytest.approx(pipe.score(word, "K AE T")["score"], abs=1e-4)


def test_a_chosen_batch_size_is_kept(pipe, sizes):
    expected = pipe(MANY, max_new_tokens=4)
    sizes.clear()
    assert pipe(MANY, max_new_tokens=4, batch_size=5) == expected
    assert set(sizes) == {5, len(MANY) % 5}
    sizes.clear()
    assert build_pipeline(batch_size=7)(MANY, max_new_tokens=4) == expected
    assert set(sizes) == {7, len(MANY) % 7}
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got 0"):
        pipe(MANY, batch_size=0)


def test_samples_without_seeds_are_drawn_one_by_one(pipe, sizes):
    torch.manual_seed(3)
    expected = pipe(MANY, do_sample=True, max_new_tokens=9, batch_size=1)
    torch.manual_seed(3)
    assert pipe(MANY, do_sample=True, max_new_tokens=9) == expected
    assert set(sizes) == {1}


def test_streams_are_read_by_windows(pipe, monkeypatch):
    monkeypatch.setattr(length_batches, "MAX_ROWS_OF_WINDOW", 16)
    read = []

    def words():
        for word in itertools.cycle(MANY):  # No end: reading all would never come back.
            read.append(word)
            yield word

    expected = pipe(MANY, max_new_tokens=5)
    for answered, answer in enumerate(itertools.islice(pipe(words(), max_new_tokens=5), 200), start=1):
        assert answer == expected[(answered - 1) % len(MANY)]
        # A window begins with one row, and none has more rows than those before it and one.
        assert len(read) <= min(2 * answered, answered + 16)


def test_the_bytes_of_a_window_are_bounded(monkeypatch):
    monkeypatch.setattr(length_batches, "MAX_BYTES_OF_WINDOW", 1000)
    rows = [{"pixel_values": torch.zeros(1, 10, 10)}] * 7
    assert [len(window) for window, _ in length_batches.read_windows(rows)] == [3, 3, 1]


def test_progress_can_be_shown(pipe):
    rows = KeyDataset(datasets.Dataset.from_dict({"word": MANY}), "word")
    assert len(pipe(rows)) == len(MANY)


def test_a_bad_row_is_named_after_those_before_it_are_answered(pipe):
    inputs = [*MANY[:11], "  ", "cat"]
    expected = pipe(MANY[:11], max_new_tokens=5)
    answers = iter(pipe((word for word in inputs), max_new_tokens=5))
    for answer in expected:
        assert next(answers) == answer
    with pytest.raises(ValueError, match="must have some content, got '  '") as caught:
        next(answers)
    assert caught.value.__notes__ == ["This was input 11, counted from 0."]
    with pytest.raises(ValueError, match="must have some content"):
        pipe(inputs)


# The model


def test_batches_keep_their_budget():
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = batch_by_length(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= 100
    assert len(batches) < sum(lengths) / 100 * 1.4
    assert batch_by_length([], 5) == []


def test_only_ids_with_a_mask_are_padded():
    def row(length, **others):
        ids = torch.ones(1, length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": ids, **others}

    picture, wide = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 6)
    rows = [row(3), row(5, pixel_values=picture), row(2), row(4, pixel_values=picture), row(4, pixel_values=wide)]
    batches = plan_batches(rows, max_tokens=100, max_rows=100)
    assert sorted(map(sorted, batches)) == [[0, 2], [1, 3], [4]]
    model = build_bart()
    batch = RowPadding(model)([{**rows[0], "rows": ["a"]}, {**rows[2], "rows": ["b"]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["input_ids"].tolist() == [[1, 1, 1], [1, 1, model.config.pad_token_id]]
    assert batch["rows"] == ["a", "b"]
    unmasked = [{"input_ids": torch.ones(1, length, dtype=torch.long)} for length in (3, 5, 3)]
    assert sorted(map(sorted, plan_batches(unmasked, max_tokens=100, max_rows=100))) == [[0, 2], [1]]


def test_rows_that_fail_leave_the_others_alone():
    rows = [{"input_ids": torch.full((1, 1 + number % 3), number)} for number in range(40)]
    sizes = []

    def double(batch):
        sizes.append(len(batch["input_ids"]))
        for bad in (7, 20, 21):
            if bool((batch["input_ids"] == bad).any()):
                raise ArithmeticError(f"{bad} is bad")
        return {
            "doubled": 2 * batch["input_ids"][:, :1],
            "names": [str(number) for number in batch["input_ids"][:, 0].tolist()],
        }

    answers = length_batches.run_each(rows, double, RowPadding(build_bart()), max_rows=16)
    for number, answer in enumerate(answers):
        if number in (7, 20, 21):
            assert isinstance(answer, ArithmeticError)
            assert str(answer) == f"{number} is bad"
        else:
            assert answer["doubled"].tolist() == [[2 * number]]
            assert answer["names"] == str(number)
    # A row that fails is found by halves, not by running each of its batch alone.
    assert len(sizes) < 40


def test_batches_keep_their_rows():
    assert [len(batch) for batch in batch_by_length([1] * 10, max_tokens=100, max_rows=4)] == [4, 4, 2]
