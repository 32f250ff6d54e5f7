"""The choice among drawn outputs: against counting by hand, by every door, alone and in batches, saved and asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from composition_specimens import build_guidable_pipeline
from foreign_specimens import BART, TOKENIZER
from specimens import WORDS, sharpen
from test_latent_pipelines import build_text_pipeline
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, pipeline

from hf_genext import decoding
from hf_genext.consensus import BETA, measure_agreement
from hf_genext.decoding import generate_best

TASK = "conditional-generation"
N = 7


def agree_by_hand(rows: list[list[int]]) -> list[float]:
    """For each output the mean over all others of the F-score of its tokens."""

    def compare(own: list[int], other: list[int]) -> float:
        if not own and not other:
            return 1.0
        shared = (Counter(own) & Counter(other)).total()
        precision, recall = (shared / len(tokens) if tokens else 0.0 for tokens in (own, other))
        weight = BETA**2 * precision + recall
        return (1 + BETA**2) * precision * recall / weight if weight else 0.0

    return [sum(compare(own, other) for j, other in enumerate(rows) if j != i) / (len(rows) - 1) for i, own in enumerate(rows)]


def choose_by_hand(texts: list[str], split: Callable[[str], list[str]] = str.split) -> list[str]:
    words = sorted({word for text in texts for word in split(text)})
    found = agree_by_hand([[words.index(word) for word in split(text)] for text in texts])
    return [texts[place] for place in sorted(range(len(texts)), key=lambda place: -found[place])]


def get_texts(answers: list[dict]) -> list[str]:
    return [answer["generated_text"] for answer in answers]


def draw(pipe, condition, seed=0, count=N, **more):
    return get_texts(pipe(condition, do_sample=True, num_return_sequences=count, seed=seed, **more))


@pytest.fixture(scope="module")
def pipe():
    return build_guidable_pipeline("native")


def test_agreement_is_what_counting_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 6, (40, 5, 9), generator=generator)  # 0 and 1 do not count, wherever they stand.
    ids[0], ids[1, :4] = 0, 0
    found = measure_agreement(ids, [0, 1])
    for row, numbers in zip(ids.tolist(), found.tolist(), strict=True):
        expected = agree_by_hand([[token for token in tokens if token > 1] for tokens in row])
        assert numbers == pytest.approx(expected, abs=1e-6)
    assert found[0].tolist() == [1.0] * 5, "five times nothing"
    assert measure_agreement(ids[:, :1], [0, 1]).shape == (40, 1)


def test_the_answer_is_the_draw_that_is_most_like_the_others(pipe) -> None:
    drawn = {word: draw(pipe, word) for word in WORDS}
    assert any(choose_by_hand(texts)[0] != texts[0] for texts in drawn.values())
    for word, texts in drawn.items():
        assert get_texts(pipe(word, num_candidates=N)) == choose_by_hand(texts)[:1]
    several = get_texts(pipe("violin", num_candidates=N, num_return_sequences=3, seed=5))
    assert several == choose_by_hand(draw(pipe, "violin", seed=5))[:3]
    cool = get_texts(pipe("violin", num_candidates=N, temperature=0.3, guidance_scale=1.5))
    assert cool == choose_by_hand(draw(pipe, "violin", temperature=0.3, guidance_scale=1.5))[:1]


def test_a_row_has_the_same_answer_alone_and_among_others(pipe) -> None:
    alone = [pipe(word, num_candidates=N) for word in WORDS]
    assert pipe(WORDS, num_candidates=N) == alone
    assert pipe(WORDS, num_candidates=N, batch_size=3) == alone
    assert list(pipe((word for word in WORDS), num_candidates=N)) == alone
    seeded = pipe(WORDS, num_candidates=N, seed=3)
    assert seeded == pipe(WORDS, num_candidates=N, seed=3, batch_size=1)
    assert seeded != alone


def test_scores_are_those_of_the_answer(pipe) -> None:
    answers = pipe(WORDS, num_candidates=N, num_return_sequences=2, return_scores=True, return_alignments=True)
    texts = [get_texts(row) for row in pipe(WORDS, num_candidates=N, num_return_sequences=2)]
    assert [get_texts(row) for row in answers] == texts
    scored = pipe.score(WORDS, texts)
    for row, expected in zip(answers, scored, strict=True):
        for answer, score in zip(row, expected, strict=True):
            if len(answer["token_scores"]) < pipe.model.generation_config.max_new_tokens:  # Else it was cut.
                assert answer["score"] == pytest.approx(score["score"], abs=1e-4)
            assert len(answer["alignment"]["weights"]) == len(answer["token_scores"])


def test_saved_settings_count_until_a_call_asks_for_another_way(pipe, tmp_path) -> None:
    asked = pipe(WORDS, num_candidates=N)
    greedy, drawn = pipe(WORDS, num_beams=1), pipe("cat", do_sample=True, seed=1)
    pipe.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | {"num_candidates": N}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    saved = pipeline(TASK, model=str(tmp_path))
    assert saved(WORDS) == asked != greedy
    saved.model.generation_config.candidate_temperature = 0.4
    cool = pipe(WORDS, num_candidates=N, temperature=0.4)
    assert saved(WORDS) == cool == saved(WORDS, num_candidates=N) != asked
    assert saved(WORDS, temperature=1.0) == asked
    saved.model.generation_config.candidate_temperature = None
    assert saved(WORDS, num_candidates=1) == greedy == saved(WORDS, num_beams=1)
    assert saved("cat", do_sample=True, seed=1) == drawn
    assert saved(WORDS, num_candidates=2) == pipe(WORDS, num_candidates=2)
    streamed = [list(stream)[-1]["generated_text"] for stream in saved.stream(WORDS)]
    assert streamed == [row[0]["generated_text"] for row in greedy]
    saved.save_pretrained(tmp_path / "again")
    assert pipeline(TASK, model=str(tmp_path / "again"))(WORDS) == asked


def test_the_call_counts_before_what_a_pipeline_was_opened_with(pipe) -> None:
    model, processor = pipe.model, pipe.processor
    asked, beams = pipe(WORDS, num_candidates=N), pipe(WORDS, num_beams=4)
    with_beams = pipeline(TASK, model=model, processor=processor, num_beams=4)
    assert with_beams(WORDS) == beams != asked
    assert with_beams(WORDS, num_candidates=N) == asked
    with_candidates = pipeline(TASK, model=model, processor=processor, num_candidates=N)
    assert with_candidates(WORDS) == asked
    assert with_candidates(WORDS, num_beams=4) == beams
    assert list(with_candidates.stream("cat"))[-1]["generated_text"] == pipe("cat", num_beams=1)[0]["generated_text"]


def test_a_configuration_of_the_call_counts_before_that_of_the_model(pipe) -> None:
    room = {"max_new_tokens": 6}
    beams = pipe("violin", num_beams=4)
    cool = pipe("violin", num_candidates=N, temperature=0.4)
    pipe.model.generation_config.num_candidates = N
    pipe.model.generation_config.candidate_temperature = 0.4
    try:
        assert pipe("violin") == cool
        assert pipe("violin", generation_config=GenerationConfig(num_beams=4, **room)) == beams
        assert pipe("violin", generation_config=GenerationConfig(**room)) == cool
        asked = {"num_candidates": 3, "do_sample": True, "temperature": 1.0}
        three = pipe("violin", generation_config=GenerationConfig(**asked, **room))
    finally:
        del pipe.model.generation_config.num_candidates, pipe.model.generation_config.candidate_temperature
    assert three == pipe("violin", num_candidates=3)


def test_samples_out_of_nothing_are_not_one_and_the_same() -> None:
    latent = build_text_pipeline()
    assert len({row[0]["generated_text"] for row in latent(num_samples=8, num_candidates=3)}) > 1
    drawn = latent(num_samples=6, seed=7)
    assert latent(num_samples=4, num_candidates=3, seed=7) == latent(num_samples=4, num_candidates=3, seed=7, batch_size=1)
    latent.model.generation_config.num_candidates = 3
    assert latent(num_samples=6, seed=7) == drawn


def test_latent_numbers_are_drawn_as_warm_as_the_candidates_and_by_the_trainer_alike() -> None:
    latent = build_text_pipeline()
    warm = latent({}, num_candidates=N, temperature=1.7)
    assert warm != latent({}, num_candidates=N, temperature=0.2)
    latent.model.generation_config.num_candidates = N
    latent.model.generation_config.candidate_temperature = 1.7
    assert latent({}) == warm
    inputs = {"condition_mask": torch.zeros(2, latent.model.encoder.num_conditions, dtype=torch.long)}
    tokenizer = latent.target_tokenizer
    best = generate_best(latent.model, inputs, {}, tokenizer.all_special_ids)
    assert tokenizer.batch_decode(best, skip_special_tokens=True) == [warm[0]["generated_text"]] * 2


def test_a_batch_of_empty_outputs_is_an_answer(pipe, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "generate_fast_if_possible", lambda model, **kwargs: torch.zeros(2, 0))
    assert pipe(["cat", "at"], batch_size=2) == [[{"generated_text": ""}]] * 2


def test_a_model_saved_with_guidance_answers_lists_in_batches(pipe) -> None:
    assert pipe._choose_batch_size(guidance_scale=1.5) == 0
    pipe.model.generation_config.guidance_scale = 1.5
    try:
        assert pipe._choose_batch_size() == 0
        assert pipe(WORDS) == [pipe(word) for word in WORDS]
    finally:
        pipe.model.generation_config.guidance_scale = None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 4}, "num_candidates=7 draws outputs and compares them, which num_beams=4 does not go with"),
        ({"do_sample": False}, "which do_sample=False does not go with"),
        ({"rerank": True}, "which rerank does not go with"),
        ({"num_return_sequences": 8}, "num_return_sequences=8 is more than num_candidates=7"),
    ],
)
def test_what_does_not_go_together_is_refused(pipe, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        pipe("cat", num_candidates=N, **arguments)


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "7"])
def test_no_number_of_candidates(pipe, number) -> None:
    with pytest.raises(ValueError, match="num_candidates must be a whole number of 1 or more"):
        pipe("cat", num_candidates=number)


def test_a_stream_cannot_choose_at_the_end(pipe) -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        list(pipe.stream("cat", num_candidates=N))


def test_other_peoples_models_choose_as_well() -> None:
    torch.manual_seed(0)
    foreign = pipeline(TASK, model=sharpen(BartForConditionalGeneration(BartConfig(**BART))), tokenizer=TOKENIZER)
    texts = ["cat", "violin a"]
    how = {"temperature": 2.0, "max_new_tokens": 5}
    expected = [choose_by_hand(draw(foreign, text, **how), list)[0] for text in texts]
    assert [row[0]["generated_text"] for row in foreign(texts, num_candidates=N, **how)] == expected


def test_each_draw_of_a_latent_model_has_latents_of_its_own() -> None:
    latent = build_text_pipeline()
    texts = draw(latent, {}, seed=2)
    assert len(set(texts)) > 1
    assert get_texts(latent({}, num_candidates=N, seed=2)) == choose_by_hand(texts, list)[:1]
