"""The decoder of a model that was trained before, as the start of another's."""

from __future__ import annotations

import pytest
import torch
from composition_specimens import Cell, build_bert, build_labels, build_numbers
from peft import LoraConfig

from hf_genext import GenextForConditionalGeneration, GenextVectorConditionerConfig

compose = GenextForConditionalGeneration.from_encoder_decoder_pretrained
GENERATION = {"max_new_tokens": 6, "min_new_tokens": 6, "no_repeat_ngram_size": 1}


def build_source(**arguments):
    """A model whose memory is 24 wide."""
    return Cell("bert", "native", 2).build(**arguments)


@pytest.mark.parametrize("given", ["folder", "instance"])
def test_a_native_decoder_goes_on_under_another_encoder(given, tmp_path):
    source = build_source(tie_word_embeddings=True)
    source.generation_config.max_new_tokens = 11
    source.save_pretrained(tmp_path / "source")
    width = source.config.hidden_size
    before = {name: value.clone() for name, value in source.state_dict().items()}
    encoder = GenextVectorConditionerConfig(vector_size=5, hidden_size=width, num_states=2)
    model = compose(encoder, tmp_path / "source" if given == "folder" else source)
    memory = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decode(memory, torch.ones(3, 2), **GENERATION), source.decode(memory, **GENERATION))
    assert model.generation_config.max_new_tokens == 11
    assert model.head.projection.weight is model.decoder.embed_tokens.weight
    # What was given stays as it was, also when the new model is trained.
    labels = build_labels()
    model.train()(condition_vectors=build_numbers(3, 5), labels=labels).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    model.eval().save_pretrained(tmp_path / "model")
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path / "model")
    vectors = {"condition_vectors": build_numbers(3, 5)}
    assert torch.equal(opened.generate(**vectors, **GENERATION), model.generate(**vectors, **GENERATION))


def test_what_reads_a_memory_of_another_width_starts_anew_and_the_rest_goes_on():
    source = build_source()
    width = source.config.hidden_size + 8
    model = compose(GenextVectorConditionerConfig(vector_size=5, hidden_size=width), source)
    theirs = source.state_dict()
    fresh = {name for name, value in model.named_parameters() if name not in theirs or theirs[name].shape != value.shape}
    decoder = {name for name in fresh if name.startswith(("decoder.", "head."))}
    assert decoder and all(name.endswith("cross_attn.kv_proj.weight") for name in decoder)
    for name, value in model.named_parameters():
        if name.startswith(("decoder.", "head.")) and name not in fresh:
            assert torch.equal(value, theirs[name]), name
    model.generate(condition_vectors=build_numbers(3, 5), **GENERATION)


def test_the_kind_of_number_is_that_of_the_decoder_unless_another_is_asked_for(tmp_path):
    source = build_source()
    source.to(torch.bfloat16).save_pretrained(tmp_path)
    encoder = GenextVectorConditionerConfig(vector_size=5, hidden_size=source.config.hidden_size)
    assert compose(encoder, tmp_path, dtype="auto").dtype == torch.bfloat16
    assert compose(encoder, tmp_path, dtype=torch.float32).dtype == torch.float32
    assert compose(encoder, source).dtype == torch.bfloat16
    assert compose(encoder, source, dtype=torch.float32).dtype == torch.float32
    assert source.dtype == torch.bfloat16


def test_the_language_model_of_a_composition_goes_on_under_another_encoder(tmp_path):
    source = Cell("bert", "gpt2", 2).build()
    source.save_pretrained(tmp_path)
    encoder = GenextVectorConditionerConfig(vector_size=5, hidden_size=source.config.hidden_size, num_states=2)
    for given in (tmp_path, source):
        model = compose(encoder, given)
        memory = torch.randn(3, 2, source.config.hidden_size, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.decode(memory, torch.ones(3, 2), **GENERATION), source.decode(memory, **GENERATION))


def test_an_embedding_that_was_not_shared_with_the_head_stays_so():
    source = build_source(tie_word_embeddings=False)
    encoder = GenextVectorConditionerConfig(vector_size=5, hidden_size=source.config.hidden_size)
    model = compose(encoder, source)
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.head.projection.weight, source.head.projection.weight)
    with pytest.raises(ValueError, match="trained with tie_word_embeddings=False, got True"):
        compose(encoder, source, tie_word_embeddings=True)


def test_what_a_model_is_saved_with_belongs_to_its_own_task():
    source = build_source(decoder_start_token_id=2, condition_dropout=0.1)
    source.generation_config.update(guidance_scale=4.0, num_beams=3, max_new_tokens=7)
    model = compose(GenextVectorConditionerConfig(vector_size=5, hidden_size=source.config.hidden_size), source)
    assert model.generation_config.num_beams in (None, 1) and model.generation_config.guidance_scale is None
    assert model.generation_config.max_new_tokens == 7
    assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id == 2
    assert model.generate(condition_vectors=build_numbers(3, 5)).shape[0] == 3


def test_a_decoder_with_an_adapter_is_refused():
    source = build_source()
    source.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="has an adapter"):
        compose(GenextVectorConditionerConfig(vector_size=5), source)


def test_a_native_decoder_has_no_choice_of_how_it_reads():
    with pytest.raises(ValueError, match="leave cross_attention out"):
        compose(build_bert(), build_source(), cross_attention=False)


def test_a_quantization_is_for_language_models():
    with pytest.raises(ValueError, match="this one is native"):
        compose(build_bert(), build_source(), quantization_config=object())
