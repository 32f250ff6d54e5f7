"""What can be asked of a generation: scores, seeds, allowed outputs, banned words, prefixes, streams."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from composition_specimens import build_bert
from scipy import stats
from specimens import PHONEMES, WORDS, build_native_model, build_pipeline, build_processor, sharpen
from transformers import GenerationConfig, LogitsProcessorList, pipeline

from hf_genext import GenextForPrediction, GenextHeadConfig, length_batches, pipelines
from hf_genext.constraints import OutputTrie
from hf_genext.genext.seeding_genext import KeyedSampling, build_warpers, draw_gumbel, make_keys

TASK = "conditional-generation"
SOUNDS = sorted({sound for word in PHONEMES for sound in word.split()})


def build_pipe():
    """A pipeline over a native model with random weights that answers differently to each word, and ends some outputs."""
    processor = build_processor()
    model = build_native_model(processor, tie_word_embeddings=False)
    model.generation_config = GenerationConfig(
        max_new_tokens=9,
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
        # What an answer would not show.
        suppress_tokens=[0, 1, 3],
        forced_eos_token_id=model.config.eos_token_id,
    )
    return pipeline(TASK, model=model, processor=processor)


@pytest.fixture(scope="module")
def pipe():
    return build_pipe()


def score_by_hand(pipe, word, ids):
    """Log-probabilities of ids behind the start token, one forward pass for each, without a cache, in float64."""
    model = pipe.model.double()
    inputs = pipe.processor(text=word, return_tensors="pt")
    prefix, scores = [model.config.decoder_start_token_id], []
    with torch.no_grad():
        for token in ids:
            logits = model(**inputs, decoder_input_ids=torch.tensor([prefix])).logits[0, -1]
            scores.append(logits.log_softmax(dim=-1)[token].item())
            prefix.append(token)
    model.float()
    return scores


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.3},
        {"do_sample": True, "num_return_sequences": 2, "temperature": 2.0, "top_k": 4, "seed": 1},
        {"repetition_penalty": 1.7},
    ],
    ids=["greedy", "beams", "sampling", "penalty"],
)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_scores_are_those_of_a_teacher_forced_pass(pipe, arguments, batch_size):
    answers = pipe(WORDS, batch_size=batch_size, return_scores=True, **arguments)
    without = pipe(WORDS, batch_size=batch_size, **arguments)
    end, ended = pipe.model.config.eos_token_id, 0
    for word, found, plain in zip(WORDS, answers, without, strict=True):
        assert [answer["generated_text"] for answer in found] == [answer["generated_text"] for answer in plain]
        for answer in found:
            ids = pipe.processor(text_target=answer["generated_text"])["labels"]
            ids = ids if len(answer["token_scores"]) == len(ids) else ids[:-1]
            ended += ids[-1] == end
            assert answer["token_scores"] == pytest.approx(score_by_hand(pipe, word, ids), abs=1e-4)
            assert answer["score"] == pytest.approx(sum(answer["token_scores"]), abs=1e-6)
    assert ended, "no specimen ends, so the closing token was not tested"


def test_scores_end_where_a_call_says_that_outputs_end(pipe):
    plain = pipe(WORDS[0], return_scores=True)[0]
    first = plain["generated_text"].split()[0]
    end = pipe.target_tokenizer.convert_tokens_to_ids(first)
    ended = pipe(WORDS[0], return_scores=True, eos_token_id=end, forced_eos_token_id=None)[0]
    assert ended["token_scores"] == pytest.approx(plain["token_scores"][:1], abs=1e-5)


def test_given_outputs_are_scored_alone_and_in_batches(pipe):
    targets = [PHONEMES[(place + 1) % len(PHONEMES)] for place in range(len(WORDS))]
    end = pipe.model.config.eos_token_id
    scores = pipe.score(WORDS, targets, batch_size=3)
    for word, target, found, alone in zip(WORDS, targets, scores, pipe.score(WORDS, targets), strict=True):
        ids = pipe.processor(text_target=target)["labels"]
        assert ids[-1] == end
        assert found["token_scores"] == pytest.approx(score_by_hand(pipe, word, ids), abs=1e-4)
        assert alone["token_scores"] == pytest.approx(found["token_scores"], abs=1e-4)
    assert pipe.score(WORDS[0], targets[0])["score"] == pytest.approx(scores[0]["score"], abs=1e-4)
    several = pipe.score(WORDS[:2], [[targets[0], "K"], [targets[1]]], batch_size=2)
    assert [len(found) for found in several] == [2, 1]
    assert several[0][0]["score"] == pytest.approx(scores[0]["score"], abs=1e-4)
    assert several[0][1]["score"] == pytest.approx(pipe.score(WORDS[0], "K")["score"], abs=1e-4)
    assert pipe.score([], []) == []
    with pytest.raises(ValueError, match="a target for each of the 8 inputs; got 1"):
        pipe.score(WORDS, targets[:1])
    with pytest.raises(TypeError, match="score takes no 'num_beams'"):
        pipe.score(WORDS, targets, num_beams=3)
    with pytest.raises(TypeError, match="An output must be a text"):
        pipe.score(WORDS[0], 7)


def test_single_outputs_are_scored(tmp_path):
    processor = build_processor()
    text = build_bert()
    text.vocab_size = len(processor.tokenizer)
    for fields, target, other in (
        ({"kind": "class", "output_names": ["n", "v", "a"]}, "v", "x"),
        ({"kind": "labels", "output_names": ["n", "v", "a"]}, ["n", "a"], ["x"]),
        ({"kind": "regression", "num_outputs": 1}, 0.25, None),
    ):
        model = sharpen(GenextForPrediction.from_encoder_pretrained(text, GenextHeadConfig(**fields)))
        pipe = pipeline(TASK, model=model, processor=processor)
        scores = pipe.score(WORDS, [target] * len(WORDS), batch_size=3)
        answers = pipe(WORDS, **({"top_k": 3} if fields["kind"] == "class" else {}))
        for found, answer in zip(scores, answers, strict=True):
            if fields["kind"] == "class":
                expected = np.log(next(row["score"] for row in answer if row["label"] == target))
            elif fields["kind"] == "labels":
                shares = answer[0]["scores"]
                expected = sum(np.log(share if name in target else 1 - share) for name, share in shares.items())
            else:
                expected = stats.norm(answer[0]["value"], answer[0]["uncertainty"]).logpdf(target)
            assert found["score"] == pytest.approx(expected, abs=1e-4)
        if other is not None:
            with pytest.raises(ValueError, match="no output 'x'; known are 'n', 'v', 'a'"):
                pipe.score(WORDS[0], other)
        if fields["kind"] == "labels":
            assert pipe.score(WORDS[0], ("n", "a")) == pipe.score(WORDS[0], target)
            for wrong in ("n", None, 3):
                with pytest.raises(ValueError, match=f"list of their names, such as .*'n'.*; got {wrong!r}"):
                    pipe.score(WORDS[0], wrong)
        if fields["kind"] == "class":
            assert len(pipe(WORDS[0], top_k=np.int64(2))) == 2
            for wrong in (0, -1, "2", 1.5):
                with pytest.raises(ValueError, match="top_k must be a whole number of 1 or more"):
                    pipe(WORDS[0], top_k=wrong)


# Seeds


def test_a_row_draws_the_same_alone_and_in_any_batch(pipe):
    sampling = {"do_sample": True, "temperature": 1.5, "top_p": 0.95}
    seeds = list(range(len(WORDS)))
    alone = [pipe(word, seed=seed, **sampling) for word, seed in zip(WORDS, seeds, strict=True)]
    for batch_size in (1, 3, 8):
        assert pipe(WORDS, seed=seeds, batch_size=batch_size, **sampling) == alone
    backwards = pipe(WORDS[::-1], seed=seeds[::-1], batch_size=3, **sampling)
    assert backwards[::-1] == alone
    assert list(pipe((word for word in WORDS), seed=seeds, **sampling)) == alone
    # One seed for a list is the pair of it and the place.
    listed = pipe(WORDS, seed=5, batch_size=3, **sampling)
    assert listed == pipe(WORDS, seed=5, **sampling)
    assert listed[0] == pipe(WORDS[0], seed=5, **sampling)
    assert len({answer[0]["generated_text"] for answer in pipe([WORDS[0]] * 12, seed=5, **sampling)}) > 3
    # A row's samples differ, and the first ones stay when more are drawn.
    three = pipe(WORDS[0], seed=5, num_return_sequences=3, **sampling)
    assert three[:1] == listed[0]
    assert three == pipe(WORDS[0], seed=5, num_return_sequences=5, **sampling)[:3]
    assert len({answer["generated_text"] for answer in three}) > 1
    # The process's own randomness plays no part.
    torch.manual_seed(1)
    assert pipe(WORDS, seed=5, batch_size=3, **sampling) == listed
    # Without sampling a seed changes nothing.
    assert pipe(WORDS, seed=5) == pipe(WORDS)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**63])
def test_what_is_no_seed_is_refused(pipe, seed):
    with pytest.raises(ValueError, match=r"A seed is a whole number|takes one seed"):
        pipe(WORDS[0], seed=seed)
    with pytest.raises(ValueError, match="A seed is a whole number"):
        pipe(WORDS, seed=[seed] * len(WORDS))


def test_seeds_and_numbers_of_numpy_and_torch_are_taken(pipe):
    one, several = pipe(WORDS[:2], do_sample=True, seed=7), pipe(WORDS[:2], do_sample=True, seed=[0, 1])
    assert pipe(WORDS[:2], do_sample=True, seed=np.int64(7)) == one
    assert pipe(WORDS[0], do_sample=True, seed=np.int64(7)) == one[0]
    for seeds in (np.arange(2), torch.arange(2), (0, 1), range(2), list(np.arange(2))):
        assert pipe(WORDS[:2], do_sample=True, seed=seeds) == several
    with pytest.raises(ValueError, match=r"num_samples must be a whole number of 0 or more, got 2\.0"):
        pipe(num_samples=2.0)
    assert pipe(num_samples=np.int64(0)) == []
    for seed in (7.0, np.float64(7), np.bool_(True), "7", None):
        with pytest.raises(ValueError, match="A seed is a whole number"):
            pipe(WORDS[:2], do_sample=True, seed=seed if seed is not None else [None, 1])


@pytest.mark.parametrize("batch_size", [0, "2", 2.5, True])
def test_what_is_no_batch_size_or_prefix_is_refused(pipe, batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more"):
        pipe(WORDS, batch_size=batch_size)
    for prefix in (3, ["a", "b"]):
        with pytest.raises(TypeError, match="prefix must be a string, which is put before every text"):
            pipe(WORDS, prefix=prefix)
    assert pipe(WORDS, batch_size=np.int64(2)) == pipe(WORDS)


def test_a_seed_for_each_row_must_be_there(pipe):
    with pytest.raises(ValueError, match="There are 8 inputs, but 2 seeds"):
        pipe(WORDS, seed=[1, 2], do_sample=True)
    with pytest.raises(ValueError, match="more inputs than the 2 seeds"):
        list(pipe((word for word in WORDS), seed=[1, 2], do_sample=True))
    with pytest.raises(ValueError, match="not with beams that are sampled"):
        pipe(WORDS[0], seed=1, do_sample=True, num_beams=2)


@pytest.mark.parametrize("seed", range(10))
def test_keyed_noise_draws_from_the_distribution(seed):
    logits = torch.tensor([2.0, 0.5, -1.0, -4.0, 1.0, -torch.inf])
    keys = make_keys([(seed, place) for place in range(20_000)], 1)
    sampling = KeyedSampling(keys, GenerationConfig(temperature=1.3, top_k=0))
    counts = [torch.zeros(6)] * 2
    for step in range(2):
        chosen = sampling(torch.zeros(len(keys), 1 + step, dtype=torch.long), logits.repeat(len(keys), 1)).argmax(dim=-1)
        counts[step] = torch.bincount(chosen, minlength=6)
    expected = (logits / 1.3).softmax(dim=-1).double() * len(keys)
    for found in counts:
        assert found[-1] == 0
        assert stats.chisquare(found[:5], expected[:5] * (found[:5].sum() / expected[:5].sum())).pvalue > 1e-4
    # Two steps are independent.
    first = sampling._keys  # The same keys throughout; steps make the difference.
    assert torch.equal(first, keys)
    assert not torch.equal(counts[0], counts[1])


def test_the_noise_has_the_gumbel_distribution():
    noise = draw_gumbel(make_keys([(seed, 0) for seed in range(200)], 1), 500)
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 1e-4
    assert abs(np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1]) < 0.015
    assert abs(np.corrcoef(noise[:, :-1].flatten(), noise[:, 1:].flatten())[0, 1]) < 0.015


def test_the_distribution_is_shaped_as_generate_shapes_it(pipe):
    arguments = {
        "temperature": 0.7,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.02,
        "typical_p": 0.95,
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.01,
    }
    config, _ = pipe.model._prepare_generation_config(
        None, do_sample=True, suppress_tokens=None, forced_eos_token_id=None, **arguments
    )
    config._eos_token_tensor = None
    theirs = pipe.model._get_logits_processor(config, input_ids_seq_length=1, device="cpu", model_kwargs={})
    assert [type(one) for one in build_warpers(config)] == [type(one) for one in theirs]
    scores, ids = torch.randn(6, 40), torch.zeros(6, 1, dtype=torch.long)
    assert torch.equal(build_warpers(config)(ids, scores.clone()), LogitsProcessorList(theirs)(ids, scores.clone()))


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3"])
def test_what_is_no_number_of_beams_or_outputs_is_refused(pipe, name, count):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of 1 or more, got {count!r}"):
        pipe(WORDS[0], **{name: count})
    with pytest.raises(ValueError, match=f"{name} must be"):
        pipe(WORDS, **{name: count})


# Allowed outputs


def test_the_tree_holds_what_it_was_given_and_nothing_else():
    chooser = random.Random(3)
    outputs = {(*chooser.choices(range(3, 9), k=chooser.randint(1, 5)), 2) for _ in range(300)}
    shuffled = chooser.sample(sorted(outputs), len(outputs))
    trie = OutputTrie([list(output) for output in [*shuffled, *shuffled[:9]]])
    assert [trie.find(output) for output in shuffled] == list(range(len(shuffled)))
    assert len(trie) == len(outputs)
    assert trie.depth == max(map(len, outputs))
    following = {}
    for output in outputs:
        for place in range(len(output)):
            following.setdefault(output[:place], set()).add(output[place])
    for prefix, tokens in following.items():
        node = trie.walk(torch.tensor([prefix], dtype=torch.long).view(1, -1))
        assert set(trie.allow(node, 12)[0].nonzero()[:, 0].tolist()) == tokens
    for other in itertools.product(range(2, 9), repeat=3):
        assert (trie.find(other) is not None) == (other in outputs)
    assert not trie.allow(trie.walk(torch.tensor([[11, 11]])), 12).any()
    with pytest.raises(ValueError, match="needs one at least"):
        OutputTrie([])


def test_two_hundred_thousand_outputs():
    digits = np.random.default_rng(0).integers(3, 40, size=(200_000, 8))
    digits[:, -1] = 2
    trie = OutputTrie(digits.tolist())
    assert len(trie) == len(np.unique(digits, axis=0))
    rows = torch.from_numpy(digits[:64])
    allowed = trie.allow(trie.walk(rows[:, :4]), 50)
    assert bool(allowed[torch.arange(64), rows[:, 4]].all())
    assert digits[trie.find(digits[77].tolist())].tolist() == digits[77].tolist()


def test_a_search_stays_among_two_hundred_thousand_outputs(pipe):
    allowed = [" ".join(sounds) for sounds in itertools.islice(itertools.product(SOUNDS, repeat=6), 0, 1_000_000, 5)]
    assert len(allowed) == 200_000
    for arguments in ({}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True, "seed": 1}):
        answers = pipe(WORDS, allowed_outputs=allowed, batch_size=4, **arguments)
        found = {answer["generated_text"] for row in answers for answer in row}
        assert found <= set(allowed) and len(found) > 1
    assert {row[0]["generated_text"] for row in pipe(WORDS)}.isdisjoint(allowed)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_search_stays_among_the_allowed_outputs(pipe, batch_size):
    allowed = [*PHONEMES[:5], "K AE", "K"]
    for arguments in (
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 4},
        {"do_sample": True, "seed": 3, "top_k": 3},
    ):
        answers = pipe(WORDS, allowed_outputs=allowed, batch_size=batch_size, **arguments)
        assert {answer["generated_text"] for row in answers for answer in row} <= set(allowed)
        assert len({row[0]["generated_text"] for row in answers}) > 1
    # With room for all of them beams find the likeliest, which scoring each finds too.
    best = pipe(
        WORDS, allowed_outputs=allowed, batch_size=batch_size, num_beams=12, num_return_sequences=12, length_penalty=0.0
    )
    for word, answers in zip(WORDS, best, strict=True):
        scores = {output: pipe.score(word, output)["score"] for output in allowed}
        assert [answer["generated_text"] for answer in answers] == sorted(allowed, key=scores.get, reverse=True)


def test_sampling_among_allowed_outputs_draws_from_what_is_left():
    pipe = build_pipe()
    allowed = ["K", "AE", "T"]
    answers = pipe([WORDS[0]] * 4000, allowed_outputs=allowed, do_sample=True, seed=2, top_k=0, batch_size=500)
    counts = [sum(row[0]["generated_text"] == output for row in answers) for output in allowed]
    # The first tokens decide, for an end must follow: their probabilities, renormalised.
    first = np.exp([pipe.score(WORDS[0], output)["token_scores"][0] for output in allowed])
    assert stats.chisquare(counts, first / first.sum() * len(answers)).pvalue > 1e-4


def test_allowed_outputs_are_saved_with_the_pipeline(tmp_path):
    pipe = build_pipe()
    pipe = pipeline(TASK, model=pipe.model, processor=pipe.processor, allowed_outputs=PHONEMES[:3])
    expected = pipe(WORDS)
    assert {row[0]["generated_text"] for row in expected} <= set(PHONEMES[:3])
    pipe.save_pretrained(tmp_path)
    opened = pipeline(TASK, model=str(tmp_path))
    assert opened.allowed_outputs == PHONEMES[:3]
    assert opened(WORDS) == expected
    assert {row[0]["generated_text"] for row in opened(WORDS, allowed_outputs=["K AE"])} == {"K AE"}
    with pytest.raises(ValueError, match="which allowed_outputs does not go with"):
        opened(WORDS[0], rerank=True)
    # A pipeline without a limit takes away that of an earlier one.
    pipe.allowed_outputs = None
    pipe.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path)).allowed_outputs is None


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_an_allowed_output_is_answered_as_it_was_given(arguments):
    """Whatever the tokenizer makes of it: this one writes small letters, and one space for several."""
    pipe = build_pipe()
    normalizers = tokenizers.normalizers
    pipe.target_tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(tokenizers.Regex(" +"), " "), normalizers.Replace("Ə", "AH")]
    )
    given = ["Ə  T", "K  AE", "AH L", "AH T"]
    answers = pipe(WORDS, allowed_outputs=given, return_scores=True, **arguments)
    # The first of two that are written alike.
    assert {answer["generated_text"] for row in answers for answer in row} <= set(given[:3])
    for row, word in zip(answers, WORDS, strict=True):
        again = pipe.score([word] * len(row), [answer["generated_text"] for answer in row])
        assert [found["score"] for found in again] == pytest.approx([answer["score"] for answer in row], abs=1e-4)


def test_allowed_outputs_that_cannot_be_are_refused(pipe):
    with pytest.raises(ValueError, match="cannot write the allowed output 'K QQ'"):
        pipe(WORDS[0], allowed_outputs=["K", "K QQ"])
    with pytest.raises(ValueError, match="must have some content"):
        pipe(WORDS[0], allowed_outputs=["K", " "])
    with pytest.raises(ValueError, match="needs one at least"):
        pipe(WORDS[0], allowed_outputs=[])
    with pytest.raises(TypeError, match="must be a list of texts"):
        pipe(WORDS[0], allowed_outputs="K")
    with pytest.raises(TypeError, match="must be a list of texts"):
        pipeline(TASK, model=pipe.model, processor=pipe.processor, allowed_outputs="K")
    with pytest.raises(TypeError, match="got a generator, which is read but once"):
        pipe(WORDS, allowed_outputs=(output for output in PHONEMES))
    with pytest.raises(ValueError, match="None of the allowed outputs begins with the target_prefix 'AH L'"):
        pipe(WORDS, allowed_outputs=["K", "AH T"], target_prefix="AH L")
    with pytest.raises(ValueError, match="has 7 tokens, more than the 3"):
        pipe(WORDS[0], allowed_outputs=PHONEMES[:2], max_new_tokens=3)
    with pytest.raises(ValueError, match="without any token"):
        pipe(WORDS[0], allowed_outputs=["K"], banned_words=["K"])
    with pytest.raises(ValueError, match="not with beams that are sampled"):
        pipe(WORDS[0], allowed_outputs=["K", "T"], do_sample=True, num_beams=2)
    # The saved limit is raised for longer ones, for a call has not said otherwise.
    long = " ".join(["K"] * 20)
    assert pipe(WORDS[0], allowed_outputs=[long])[0]["generated_text"] == long


def test_banned_words_and_prefixes(pipe):
    plain = pipe(WORDS, batch_size=3)
    banned = plain[0][0]["generated_text"].split()[:1]
    assert all(banned[0] not in row[0]["generated_text"].split() for row in pipe(WORDS, banned_words=banned, batch_size=3))
    with pytest.raises(TypeError, match="must be a list of words"):
        pipe(WORDS[0], banned_words="K")
    assert pipe(WORDS, banned_words=["Ω", ""]) == plain, "what cannot be written need not be banned"
    with pytest.raises(ValueError, match="cannot write the target_prefix 'K Ω'"):
        pipe(WORDS[0], target_prefix="K Ω")
    for arguments in ({}, {"num_beams": 2}, {"do_sample": True, "seed": 1}):
        answers = pipe(WORDS, target_prefix="AH L", batch_size=3, return_scores=True, **arguments)
        assert all(row[0]["generated_text"].split()[:2] == ["AH", "L"] for row in answers)
    # What follows the prefix is what follows it in a whole output.
    answer = pipe(WORDS[1], target_prefix="AH L", max_new_tokens=2, return_scores=True)[0]
    whole = pipe.score(WORDS[1], answer["generated_text"])["token_scores"]
    assert answer["token_scores"] == pytest.approx(whole[2 : 2 + len(answer["token_scores"])], abs=1e-4)
    # It may lead into a tree.
    allowed = ["AH L K", "AH T", "L K"]
    assert {row[0]["generated_text"] for row in pipe(WORDS, target_prefix="AH", allowed_outputs=allowed)} <= set(allowed[:2])


def test_constraints_are_written_where_the_end_is_called_unknown_too():
    # GPT-2's tokenizers know every text, and name their end as what they do not know.
    pipe = build_pipeline()
    pipe.target_tokenizer.unk_token = pipe.target_tokenizer.eos_token
    answer = pipe("cat", target_prefix="AH L", max_new_tokens=5)[0]
    assert answer["generated_text"].split()[:2] == ["AH", "L"]
    assert pipe("cat", allowed_outputs=["AH L K"])[0]["generated_text"] == "AH L K"


def test_a_seed_of_nothing_that_is_drawn_is_told_once(pipe, monkeypatch):
    told = []
    monkeypatch.setattr(pipelines, "logger", SimpleNamespace(warning_once=told.append))
    assert pipe(WORDS, seed=3, do_sample=True) and pipe(WORDS, seed=3, num_candidates=3)
    assert told == []
    assert pipe(WORDS, seed=3) == pipe(WORDS, batch_size=8)
    assert told == ["seed= is of what is drawn, and this call draws nothing; pass do_sample=True as well."]


def test_what_is_banned_for_good_stays_banned_beside_more(monkeypatch):
    pipe = build_pipe()
    plain = pipe("violin", num_beams=4, num_return_sequences=4)
    first = plain[0]["generated_text"].split()[0]
    banned = pipe.target_tokenizer(first, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(pipe.model.generation_config, "bad_words_ids", [banned])
    for asked in ({}, {"banned_words": [next(sound for sound in SOUNDS if sound != first)]}):
        answers = pipe("violin", num_beams=4, num_return_sequences=4, **asked)
        assert all(first not in answer["generated_text"].split() for answer in answers)
    for wrong in ([3], [None]):
        with pytest.raises(TypeError, match="banned_words must be words"):
            pipe("violin", banned_words=wrong)


# Streams


@pytest.mark.parametrize(
    "arguments", [{}, {"do_sample": True, "seed": 4}, {"num_beams": 3}], ids=["greedy", "sampling", "beams"]
)
def test_streams_grow_into_what_a_call_gives(pipe, arguments):
    expected = pipe(WORDS, batch_size=8, **arguments)
    streams = pipe.stream(WORDS, **arguments)
    for stream, answer in zip(streams, expected, strict=True):
        seen = list(stream)
        assert [part["is_final"] for part in seen] == [False] * (len(seen) - 1) + [True]
        assert seen[-1]["generated_text"] == answer[0]["generated_text"]
        if "num_beams" not in arguments:
            assert all(seen[-1]["generated_text"].startswith(part["generated_text"]) for part in seen)
    longest = list(pipe.stream(WORDS[0], min_new_tokens=8, **arguments))
    assert len(longest) > 3
    assert pipe.stream([]) == []


def test_a_stream_raises_what_went_wrong_and_stops_when_it_is_closed(pipe):
    good, bad = pipe.stream([WORDS[0], "a" * 90], batch_size=1)
    assert list(good)[-1]["is_final"]
    with pytest.raises(ValueError, match="has 91 tokens"):
        list(bad)
    with pipe.stream(WORDS[0], max_new_tokens=10_000, eos_token_id=[]) as stream:
        assert next(stream)["is_final"] is False
    assert list(stream) == []
    with pytest.raises(ValueError, match="one output of each condition"):
        pipe.stream(WORDS, num_return_sequences=2)
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got 0"):
        pipe.stream(WORDS, batch_size=0)


def test_a_stream_is_one_of_its_own_where_the_defaults_give_several(pipe):
    arguments = {"do_sample": True, "seed": 4}
    several = pipeline(TASK, model=pipe.model, processor=pipe.processor, num_return_sequences=3)
    assert {len(row) for row in several(WORDS, **arguments)} == {3}
    for stream, answer in zip(several.stream(WORDS, **arguments), pipe(WORDS, **arguments), strict=True):
        seen = [part["generated_text"] for part in stream]
        assert seen[-1] == answer[0]["generated_text"]
        assert all(seen[-1].startswith(part) for part in seen)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_of_streams_that_is_closed_or_fails_leaves_the_others_alone(pipe, batch_size):
    expected = [row[0]["generated_text"] for row in pipe(WORDS)]
    streams = pipe.stream([WORDS[0], WORDS[1], "a" * 90, "a" * 90, *WORDS[4:]], batch_size=batch_size)
    for stream in streams[:2]:
        stream.close()
    for stream in streams[2:4]:
        with pytest.raises(ValueError, match="has 91 tokens"):
            list(stream)
    assert [list(stream)[-1]["generated_text"] for stream in streams[4:]] == expected[4:]


def test_rows_of_a_window_that_do_not_run_together_do_not_end_together(pipe, monkeypatch):
    expected = [row[0]["generated_text"] for row in pipe(WORDS)]
    monkeypatch.setattr(length_batches, "_describe", lambda row: (row["input_ids"].shape[1] % 2,))
    parts = {len(word) % 2 for word in WORDS}
    assert len(parts) == 2, "all words run together; the test shows nothing"
    for closed in parts:
        streams = pipe.stream(WORDS)
        for word, stream in zip(WORDS, streams, strict=True):
            if len(word) % 2 == closed:
                stream.close()
        for word, stream, answer in zip(WORDS, streams, expected, strict=True):
            seen = list(stream)
            assert (not seen) if len(word) % 2 == closed else seen[-1] == {"generated_text": answer, "is_final": True}


def test_what_was_cut_says_so(pipe):
    long = "a" * 40
    answers = pipe(["cat", long, "at"], truncation="truncate", batch_size=3)
    assert [row[0].get("truncated") for row in answers] == [None, True, None]
    assert pipe("a" * 23, truncation="truncate")[0].get("truncated") is None
    with pytest.raises(ValueError, match="has 41 tokens"):
        pipe(long, truncation="error")
    with pytest.raises(ValueError, match='truncation must be "error"'):
        pipe(long, truncation="middle")


def test_answers_can_have_the_keys_of_old(pipe):
    assert set(pipe(WORDS[0], output_key="translation_text")[0]) == {"translation_text"}
    assert list(pipe.stream(WORDS[0], output_key="summary_text"))[-1] == {
        "summary_text": pipe(WORDS[0])[0]["generated_text"],
        "is_final": True,
    }
