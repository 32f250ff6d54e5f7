"""Settings of generation that are worked out once for calls that ask alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from specimens import WORDS, build_native_model, build_pipeline, build_processor
from transformers import GenerationConfig

from hf_genext.call_settings import LastAnswer, resolve_generation


@pytest.fixture
def model():
    return build_native_model(build_processor(), tie_word_embeddings=True)


def _resolve_anew(model, arguments):
    others = {name: value for name, value in arguments.items() if name != "generation_config"}
    return model._prepare_generation_config(arguments.get("generation_config"), **others)


def test_it_is_what_transformers_resolves(model):
    """Calls that are alike and unlike, one after the other; what they are made of is written to between them."""
    banned = [[1, 2]]
    config = GenerationConfig(num_beams=2, max_length=9)
    calls = [{"num_beams": 3}, {"num_beams": 3}, {"num_beams": True}, {"num_beams": 1}, {"generation_config": config}]
    calls += [{"bad_words_ids": banned}, {"bad_words_ids": banned}, {}, {"unknown": torch.ones(2)}, {"unknown": torch.zeros(2)}]
    changes = [
        lambda: None,
        lambda: None,
        lambda: banned.append([3]),
        lambda: setattr(config, "num_beams", 4),
        lambda: setattr(model.generation_config, "max_new_tokens", 5),
        lambda: setattr(model.generation_config, "suppress_tokens", torch.tensor([1, 2])),
        lambda: setattr(model.generation_config, "suppress_tokens", np.array([1, 3])),
        lambda: setattr(model.generation_config, "suppress_tokens", [4]),
    ]
    for change in changes:
        change()
        for call in calls:
            for found, true in zip(resolve_generation(model, call), _resolve_anew(model, call), strict=True):
                given = [
                    repr(vars(settings) if isinstance(settings, GenerationConfig) else settings) for settings in (found, true)
                ]
                assert given[0] == given[1]


def test_it_is_worked_out_once(model, monkeypatch):
    count = 0
    own = model._prepare_generation_config

    def prepare(*args, **kwargs):
        nonlocal count
        count += 1
        return own(*args, **kwargs)

    monkeypatch.setattr(model, "_prepare_generation_config", prepare)
    for _ in range(3):
        resolve_generation(model, {"num_beams": 2, "generation_config": GenerationConfig(max_length=7)})
    assert count == 1


def test_what_fails_is_tried_again():
    last = LastAnswer()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            last.get({"a": 1}, (), lambda: 1 // 0)
    assert last.get({"a": 1}, (), lambda: "found") == "found"


def test_a_pipeline_notices_what_is_changed_between_calls():
    pipe = build_pipeline()

    def count(given, **settings):
        return len(pipe(given, return_scores=True, **settings)[0]["token_scores"])

    assert [count(WORDS[0], min_new_tokens=length, max_new_tokens=length) for length in (6, 6, 2)] == [6, 6, 2]
    for length in (3, 5):
        pipe.model.generation_config.update(min_new_tokens=length, max_new_tokens=length)
        assert count(WORDS[0]) == length
        assert {len(answer["token_scores"]) for (answer,) in pipe(WORDS, return_scores=True)} == {length}
