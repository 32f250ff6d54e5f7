"""Agreement of both directions, against a search and a scorer that do one thing at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from specimens import build_config, build_inputs, sharpen
from transformers import GenerationConfig

from hf_genext import (
    GenextConfig,
    GenextForConditionalGeneration,
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
)
from hf_genext.agreement import generate_by_agreement, score_targets
from hf_genext.decoding import Control, generate_with_control

START, END, REVERSED = 1, 2, 3
BEAMS = 4


def end_often(model, first=29, second=35):
    """Give the end the scores of two other tokens together, so that some outputs end and others are cut."""
    with torch.no_grad():
        vectors = model.head.projection.weight
        vectors[END] = vectors[first] + vectors[second]
    return model


@pytest.fixture(scope="module")
def model():
    config = build_config("none")
    config.reversed_start_token_id = REVERSED
    model = end_often(sharpen(GenextForConditionalGeneration(config)))
    model.generation_config.max_new_tokens = 7
    return model


@pytest.fixture(scope="module")
def conditions():
    """Each condition alone and without padding."""
    inputs = build_inputs(with_labels=False)
    return [row[:length][None] for row, length in zip(inputs["input_ids"], inputs["attention_mask"].sum(dim=1), strict=True)]


def score_alone(model, input_ids, target, **more):
    """Sum of the log-probabilities of one target's tokens in both directions, token by token, in float64."""
    total = 0.0
    for start, tokens in ((START, [*target, END]), (REVERSED, [*target[::-1], END])):
        seen = [start]
        for token in tokens:
            with torch.no_grad():
                logits = model(input_ids=input_ids, **more, decoder_input_ids=torch.tensor([seen])).logits[0, -1]
            total += logits.double().log_softmax(dim=-1)[token].item()
            seen.append(token)
    return total


def search_alone(model, input_ids):
    """The distinct whole candidates of both searches in reading order, and those of the first that are cut."""
    found, cut = [], []
    for start, step in ((START, 1), (REVERSED, -1)):
        for row in model.generate(
            input_ids=input_ids, num_beams=BEAMS, num_return_sequences=BEAMS, decoder_start_token_id=start
        ).tolist():
            if END in row:
                found.append(tuple(row[1 : row.index(END)][::step]))
            elif start == START:
                cut.append(tuple(row[1:]))
    return list(dict.fromkeys(found)), cut


def search_forwards(model, input_ids):
    return model.generate(input_ids=input_ids, num_beams=BEAMS, num_return_sequences=BEAMS).tolist()


def test_targets_are_scored_in_both_directions(model, conditions):
    targets = [[[5, 6, 7], [8]], [[9, 10], [11, 12, 13, 14]], [[], [15, 15]]]
    inputs = build_inputs(with_labels=False)
    scores = score_targets(model, inputs, targets)
    expected = [[score_alone(model, row, target) for target in some] for row, some in zip(conditions, targets, strict=True)]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_the_best_candidates_of_both_directions_are_returned(model, conditions):
    returned = 3
    ids = generate_by_agreement(model, num_beams=BEAMS, num_return_sequences=returned, **build_inputs(with_labels=False))
    assert ids.shape[0] == returned * len(conditions)
    from_the_end_only = cut_ones = 0
    for index, row in enumerate(conditions):
        whole, cut = search_alone(model, row)
        best = sorted(whole, key=lambda target: -score_alone(model, row, list(target)))[:returned]
        expected = [[*target, END] for target in best] + [[*target] for target in cut[: returned - len(best)]]
        given = [answer[1:].tolist() for answer in ids[index * returned : (index + 1) * returned]]
        assert given == [[*target, *[0] * (ids.shape[1] - 1 - len(target))] for target in expected]
        forwards = {tuple(target[1 : target.index(END)]) for target in search_forwards(model, row) if END in target}
        from_the_end_only += sum(target not in forwards for target in best)
        cut_ones += returned - len(best)
    assert from_the_end_only, "no answer came from the other direction; the specimen shows nothing"
    assert cut_ones, "no answer was cut; the specimen shows less than it should"
    assert (ids[:, 0] == START).all()


def test_it_gives_the_same_alone_and_in_a_batch(model, conditions):
    together = generate_by_agreement(model, num_beams=BEAMS, **build_inputs(with_labels=False))
    for row, expected in zip(conditions, together, strict=True):
        alone = generate_by_agreement(model, num_beams=BEAMS, input_ids=row)[0]
        assert alone.tolist() == expected[: len(alone)].tolist()
        assert (expected[len(alone) :] == 0).all()


def test_outputs_are_judged_by_all_conditions():
    text = build_config("none").conditioner
    fusion = GenextFusionConditionerConfig(
        conditioners={"text": text, "label": GenextLabelConditionerConfig(label_counts=[3], hidden_size=24)}
    )
    config = GenextConfig(conditioner=fusion, decoder=build_config("none").decoder, reversed_start_token_id=REVERSED)
    model = end_often(sharpen(GenextForConditionalGeneration(config)), 5, 28)
    model.generation_config.max_new_tokens = 7
    are_judged_alike = []
    for token, label in itertools.product(range(5, 15), range(3)):
        ids, given = torch.tensor([[token]]), {"condition_labels": torch.tensor([[label]])}
        found = generate_by_agreement(model, num_beams=BEAMS, num_return_sequences=BEAMS, input_ids=ids, **given)
        bodies = [row[1 : row.index(END, 1)] for row in found.tolist() if END in row[1:]]
        scores, without = ([score_alone(model, ids, body, **more) for body in bodies] for more in (given, {}))
        assert scores == sorted(scores, reverse=True)
        are_judged_alike.append(without == sorted(without, reverse=True))
    assert not all(are_judged_alike), "the labels make no difference; the specimen shows nothing"


def test_a_guidance_that_the_model_is_saved_with_does_not_reach_the_agreement(model):
    inputs, rerank = build_inputs(with_labels=False), Control(rerank=True)
    expected = generate_with_control(model, inputs, {}, rerank).sequences
    try:
        model.generation_config.guidance_scale = 4.0
        assert torch.equal(generate_with_control(model, inputs, {}, rerank).sequences, expected)
    finally:
        model.generation_config.guidance_scale = None


def search_both(model, **arguments):
    """Outputs of all rows without the tokens around them."""
    ids = generate_by_agreement(
        model, num_beams=BEAMS, num_return_sequences=BEAMS, **build_inputs(with_labels=False), **arguments
    )
    return [[token for token in row[1:] if token not in (0, END)] for row in ids.tolist()]


@pytest.mark.parametrize("name", ["bad_words_ids", "sequence_bias"])
def test_what_is_banned_is_banned_in_both_directions(model, name):
    plain = search_both(model)
    pairs = [pair for row in plain for pair in itertools.pairwise(row) if pair[0] != pair[1]]
    pair = max(set(pairs), key=pairs.count)
    banned = {"bad_words_ids": [list(pair)], "sequence_bias": [[list(pair), -1e9]]}[name]
    kept = search_both(model, **{name: banned})
    assert all(pair not in itertools.pairwise(row) for row in kept)
    # The same tokens in the other order are not banned.
    turned = search_both(model, **{name: {"bad_words_ids": [[*pair[::-1]]], "sequence_bias": [[[*pair[::-1]], -1e9]]}[name]})
    assert any(pair in itertools.pairwise(row) for row in turned)


def test_an_output_that_is_cut_is_never_one_without_its_beginning(model):
    inputs = build_inputs(with_labels=False)
    for limit in (1, 2, 3, 5):
        forwards = model.generate(**inputs, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=limit).tolist()
        found = generate_by_agreement(model, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=limit, **inputs)
        assert len(found) == len(forwards)
        for place, row in enumerate(found.tolist()):
            if END not in row[1:]:
                start = place // BEAMS * BEAMS
                assert row in [ids[: len(row)] for ids in forwards[start : start + BEAMS]]


def test_what_cannot_be_reranked_is_refused(model):
    with pytest.raises(ValueError, match="both ends, which forced_bos_token_id does not go with"):
        search_both(model, forced_bos_token_id=5)
    with pytest.raises(ValueError, match="which do_sample=True does not go with"):
        search_both(model, do_sample=True)
    forwards_only = sharpen(GenextForConditionalGeneration(build_config("none")))
    inputs = build_inputs(with_labels=False)
    with pytest.raises(ValueError, match=r"writes forwards only.*both_directions"):
        generate_by_agreement(forwards_only, num_beams=2, **inputs)
    with pytest.raises(ValueError, match="num_return_sequences must be 1 to num_beams=2, got 3"):
        generate_by_agreement(model, num_beams=2, num_return_sequences=3, **inputs)


def test_a_configuration_of_a_call_leaves_the_models_own_settings(model, monkeypatch):
    config = GenerationConfig(num_beams=BEAMS, max_new_tokens=7)
    monkeypatch.setattr(model.generation_config, "forced_bos_token_id", 5)
    with pytest.raises(ValueError, match="which forced_bos_token_id does not go with"):
        generate_by_agreement(model, generation_config=config, **build_inputs(with_labels=False))
    monkeypatch.setattr(model.generation_config, "forced_bos_token_id", None)
    monkeypatch.setattr(model.generation_config, "num_beams", BEAMS)
    given = {"generation_config": GenerationConfig(max_new_tokens=7), "num_return_sequences": 3}
    found = generate_by_agreement(model, **given, **build_inputs(with_labels=False))
    assert torch.equal(found, generate_by_agreement(model, num_return_sequences=3, **build_inputs(with_labels=False)))
    with pytest.raises(ValueError, match="leave out decoder_start_token_id"):
        generate_by_agreement(model, decoder_start_token_id=3, **build_inputs(with_labels=False))


def test_rows_keep_their_outputs_where_there_are_fewer_than_asked(model, conditions):
    few = {"suppress_tokens": [token for token in range(37) if token not in (END, 9, 10)], "max_new_tokens": 2}
    beams = {"num_beams": 8, "num_return_sequences": 8}
    together = generate_by_agreement(model, **beams, **few, **build_inputs(with_labels=False))
    assert len(together) == 8 * len(conditions)
    for place, row in enumerate(conditions):
        alone = generate_by_agreement(model, **beams, **few, input_ids=row)
        assert len(alone) == 8 and len(alone.unique(dim=0)) < 8
        assert torch.equal(together[8 * place : 8 * (place + 1), : alone.shape[1]], alone)
