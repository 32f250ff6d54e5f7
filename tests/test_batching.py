"""Token-budget batches: every row once, within the budget, deterministic, over ranks and epochs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from specimens import PHONEMES, WORDS, build_config, build_processor, sharpen

from hf_genext import GenextForConditionalGeneration
from hf_genext.batching import ConditionalCollator, EncodedPairs, EncodedRows, TokenBudgetBatchSampler
from hf_genext.training import GenextTrainer, GenextTrainingArguments


def draw_lengths(rows=997, seed=0):
    generator = np.random.default_rng(seed)
    source = generator.geometric(0.1, rows) + 1
    return np.stack([source, np.maximum(1, source + generator.integers(-2, 3, rows))], axis=1)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_comes_once_over_all_ranks_in_equally_many_batches(replicas, shuffle):
    lengths = draw_lengths()
    ranks = [
        list(TokenBudgetBatchSampler(lengths, 200, shuffle=shuffle, num_replicas=replicas, rank=rank))
        for rank in range(replicas)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) == len(TokenBudgetBatchSampler(lengths, 200, num_replicas=replicas))
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(batch for batches in ranks for batch in batches)


def test_no_batch_exceeds_the_budget_but_one_row_that_is_longer_itself():
    lengths = np.concatenate([draw_lengths(), [[5, 300]]])
    batches = list(TokenBudgetBatchSampler(lengths, 200))
    for batch in batches:
        padded = len(batch) * lengths[batch, 1].max()
        assert padded <= 200 or len(batch) == 1
    assert [len(lengths) - 1] in batches


def test_batches_hold_little_padding():
    lengths = draw_lengths(20_000)
    padded = sum(len(batch) * lengths[batch, 1].max() for batch in TokenBudgetBatchSampler(lengths, 1000))
    shuffled = np.random.default_rng(0).permutation(len(lengths)).reshape(-1, 50)
    padded_at_random = sum(len(batch) * lengths[batch, 1].max() for batch in shuffled)
    real = lengths[:, 1].sum()
    assert padded / real < 1.05
    assert padded_at_random / real > 2


@pytest.mark.parametrize(("num_rows", "replicas"), [(5, 2), (3, 2), (7, 4), (2, 2), (9, 4)])
def test_no_rank_is_left_without_rows_where_each_fills_the_budget(num_rows, replicas):
    lengths = [(4, 10 + row) for row in range(num_rows)]
    samplers = [TokenBudgetBatchSampler(lengths, 10, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    batches = [list(sampler) for sampler in samplers]
    assert len({len(given) for given in batches}) == 1
    assert all(batch for given in batches for batch in given)
    assert sorted(row for given in batches for batch in given for row in batch) == list(range(num_rows))


def test_long_sources_are_bounded_beside_their_targets():
    lengths = [(length, 5) for length in (1000, 10, 1000, 500, 20, 990)] * 20
    free = list(TokenBudgetBatchSampler(lengths, 200))
    bounded = list(TokenBudgetBatchSampler(lengths, 200, max_source_tokens=4096))
    assert sorted(row for batch in bounded for row in batch) == list(range(len(lengths)))
    most = [max(len(batch) * max(lengths[row][0] for row in batch) for batch in plan) for plan in (free, bounded)]
    assert most[0] > 20000 and most[1] <= 4096


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    lengths = draw_lengths()

    def batches(seed, epoch):
        sampler = TokenBudgetBatchSampler(lengths, 200, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(2, 0)
    first, second = batches(1, 0), batches(1, 1)
    assert first != second
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}  # New company, too.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
        ({"max_tokens": 9, "num_replicas": 2, "rank": 2}, "rank=2 and num_replicas=2"),
        ({"max_tokens": 9, "num_replicas": 5, "rank": 0}, "5 ranks need a row each, got 3 rows"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBudgetBatchSampler([(1, 1), (2, 2), (3, 3)], **arguments)


def test_encoded_pairs_give_back_what_went_in():
    sources, targets = [[5, 6], [7], [8, 9, 10]], [[1, 2], [3, 4, 2], [2]]
    pairs = EncodedPairs(sources, targets)
    assert [row["input_ids"].tolist() for row in pairs.__getitems__([2, 0, -2])] == [[8, 9, 10], [5, 6], [7]]
    assert [pairs[index]["labels"].tolist() for index in range(3)] == targets
    with pytest.raises(IndexError, match="Row 3 of 3"):
        pairs[3]
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        EncodedPairs([[1], [2]], [[1]])


def test_the_collator_pads_and_leaves_out_a_mask_that_says_nothing():
    rows = [{"input_ids": [5, 6, 7], "labels": [8, 2]}, {"input_ids": [9], "labels": [2]}]
    batch = ConditionalCollator(0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[8, 2], [2, -100]]
    assert set(ConditionalCollator(0)([rows[0], rows[0]])) == {"input_ids", "labels"}
    shifted = ConditionalCollator(0, lambda labels: torch.full_like(labels, 3))(rows)
    assert shifted["decoder_input_ids"].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(KeyError, match="encode_pairs"):
        ConditionalCollator(0)([{"text": "a"}])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_numbers_stay_what_they_are_whatever_their_precision(kind, shape):
    numbers = np.random.default_rng(0).normal(size=shape).astype(kind)
    rows = EncodedRows({"condition_vectors": np.ones((3, 4), dtype=np.float32)}, numbers)
    labels = ConditionalCollator(0)([rows[index] for index in range(3)])["labels"]
    assert np.array_equal(labels.numpy(), numbers)


def test_the_collator_gives_every_target_in_both_directions():
    rows = [{"input_ids": [5, 6, 7], "labels": [8, 9, 2]}, {"input_ids": [9], "labels": [2]}]
    shift = sharpen(GenextForConditionalGeneration(build_config("none"))).prepare_decoder_input_ids_from_labels
    batch = ConditionalCollator(0, shift, reversed_start_token_id=3)(rows)
    assert batch["input_ids"].shape == (2, 3)
    assert batch["labels"].tolist() == [[8, 9, 2], [9, 8, 2], [2, -100, -100], [2, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[1, 8, 9], [3, 9, 8], [1, 2, 0], [3, 2, 0]]
    with pytest.raises(ValueError, match="prepare_decoder_input_ids_from_labels"):
        ConditionalCollator(0, reversed_start_token_id=3)


@pytest.mark.parametrize("container", [list, np.array, torch.tensor])
@pytest.mark.parametrize(
    ("pad", "end", "given", "expected"),
    [
        (0, 2, [[8, 9, 2, 0, 0], [2, 0, 0, 0, 0], [8, 9, 8, 9, 2]], [[8, 9, 2], [2], [8, 9, 8, 9, 2]]),
        (2, 2, [[8, 9, 2, 2, 2], [2, 2, 2, 2, 2], [8, 9, 8, 9, 2]], [[8, 9, 2], [2], [8, 9, 8, 9, 2]]),
        (0, None, [[8, 9, 0], [8, 0, 0]], [[8, 9], [8]]),
    ],
)
def test_padding_that_targets_already_have_is_no_target(container, pad, end, given, expected):
    tokenizer = SimpleNamespace(pad_token_id=pad, eos_token_id=end, sep_token_id=None)
    rows = [{"labels": container(row)} for row in given]
    labels = ConditionalCollator(0, target_tokenizer=tokenizer)(rows)["labels"]
    assert [[token for token in row if token != -100] for row in labels.tolist()] == expected
    both = ConditionalCollator(0, lambda labels: labels.clone(), reversed_start_token_id=3, target_tokenizer=tokenizer)
    if container is not torch.tensor:  # Which cannot be read backwards.
        turned = [[*row[-2::-1], *row[-1:]] for row in expected]
        assert [[token for token in row if token != -100] for row in both(rows)["labels"][1::2].tolist()] == turned


def test_rows_that_the_processor_has_padded_are_trained_on_as_others_are(tmp_path):
    processor = build_processor()
    config = build_config("none")
    config.conditioner.vocab_size, config.decoder.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    args = GenextTrainingArguments(str(tmp_path), report_to="none")
    trainer = GenextTrainer(model=GenextForConditionalGeneration(config), args=args, processing_class=processor)
    batches = []
    for padding in (False, "max_length"):
        encoded = processor(text=WORDS, text_target=PHONEMES, padding=padding, max_length=24, truncation=True)
        rows = [
            {"input_ids": source, "labels": target}
            for source, target in zip(encoded["input_ids"], encoded["labels"], strict=True)
        ]
        batches.append(trainer.data_collator(rows))
    assert batches[1]["labels"].tolist() == batches[0]["labels"].tolist()
    assert trainer._get_num_items_in_batch(batches[1:], args.device) == sum(len(text.split()) + 1 for text in PHONEMES)
