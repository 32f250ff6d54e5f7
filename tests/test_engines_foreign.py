"""Other people's models in CTranslate2: the outputs that PyTorch gives."""

from __future__ import annotations

import pytest
import torch
from foreign_specimens import BART as SIZES_OF_BART
from foreign_specimens import ENDS, SIZE, TOKENIZER
from specimens import WORDS, sharpen
from test_engines import assert_equal_answers, open_pipeline
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_genext import ConditionalGenerationPipeline
from hf_genext.export import export_model

BART = {**SIZES_OF_BART, "vocab_size": SIZE + 1}
T5 = {
    "vocab_size": SIZE,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": TOKENIZER.pad_token_id,
    **ENDS,
}


def build_marian():
    last = {"pad_token_id": SIZE, "decoder_start_token_id": SIZE}
    model = sharpen(MarianMTModel(MarianConfig(**{**BART, **last})))
    with torch.no_grad():
        model.model.shared.weight[-1] = 0.0
    return model


FOREIGN = {
    "bart": lambda: sharpen(BartForConditionalGeneration(BartConfig(**BART))),
    "m2m100": lambda: sharpen(M2M100ForConditionalGeneration(M2M100Config(**BART))),
    "marian": build_marian,
    "mbart": lambda: sharpen(MBartForConditionalGeneration(MBartConfig(**BART))),
    "t5": lambda: sharpen(T5ForConditionalGeneration(T5Config(**T5))),
    "t5-gated": lambda: sharpen(
        T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_ctranslate2_runs_other_peoples_models(tmp_path, name):
    model = FOREIGN[name]()
    model.generation_config.max_new_tokens = 9
    tokenizer: PreTrainedTokenizerFast = TOKENIZER
    ConditionalGenerationPipeline(model=model, tokenizer=tokenizer).save_pretrained(tmp_path)
    pipe = open_pipeline(tmp_path, engine="torch")
    # The forced end is what BART and Marian come with.
    call = {"forced_eos_token_id": TOKENIZER.eos_token_id} if name in ("bart", "marian") else {}
    export_model(pipe, tmp_path, engine="ctranslate2")
    fast = open_pipeline(tmp_path, engine="ctranslate2")
    for more in ({}, {"batch_size": 8}, {"return_scores": True, "forced_bos_token_id": 9}, {"max_new_tokens": 1}):
        assert_equal_answers(fast(WORDS, **call, **more), pipe(WORDS, **call, **more))
    assert fast.engine_model.obstacle is None
    assert "normalize_before" not in pipe.model.config.to_dict() or name in ("bart", "mbart")


@pytest.mark.slow
def test_whisper_transcribes_the_same_by_ctranslate2(tmp_path):
    from whisper_tiny import BECKETT, build_whisper, find_recording

    recording = {"audio": str(find_recording())}
    model, processor = build_whisper()
    pipe = ConditionalGenerationPipeline(model=model, processor=processor)
    export_model(pipe, tmp_path, engine="ctranslate2")
    fast = open_pipeline(tmp_path, engine="ctranslate2")
    answers = fast([recording, recording], batch_size=2)
    assert answers == [pipe(recording)] * 2
    assert answers[0][0]["generated_text"].strip() == BECKETT
    assert fast.engine_model.obstacle is None
