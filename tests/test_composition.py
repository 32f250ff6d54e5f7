"""Joining parts that exist already: what is kept of each, what is trained, what may be missing, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from composition_specimens import (
    CONDITIONS,
    DECODERS,
    TARGET_VOCAB,
    TOKENS,
    Cell,
    build_bert,
    build_labels,
    build_numbers,
)
from contracts import assert_near
from huggingface_hub.errors import StrictDataclassError
from specimens import sharpen
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartForConditionalGeneration,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    DPRConfig,
    GPT2LMHeadModel,
    GPT2Model,
    GPTBigCodeConfig,
    LlamaForCausalLM,
    MambaConfig,
    MixtralConfig,
    OPTForCausalLM,
    T5ForConditionalGeneration,
    ViTConfig,
    WhisperForConditionalGeneration,
)

from hf_genext import (
    GenextConfig,
    GenextDecoderConfig,
    GenextForConditionalGeneration,
    GenextModel,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    StaticEmbeddingModel,
)
from hf_genext.genext.field_conditioners_genext import GenextVectorConditioner

compose = GenextForConditionalGeneration.from_encoder_decoder_pretrained
GENERATION = {"max_new_tokens": 6, "min_new_tokens": 6, "no_repeat_ngram_size": 1}


def save(model, folder):
    sharpen(model).save_pretrained(folder)
    return str(folder)


def compute_loss_alone(language_model, labels):
    """The loss of a language model on the tokens behind its start token, by its own forward."""
    tokens = torch.cat([torch.ones(3, 1, dtype=torch.long), labels], dim=1)
    ids = tokens.masked_fill(tokens == -100, 0)
    with torch.no_grad():
        return language_model(input_ids=ids, labels=tokens.masked_fill(tokens == 1, -100)).loss.item()


@pytest.mark.parametrize("given", ["folder", "instance"])
@pytest.mark.parametrize("num_latents", [None, 3])
def test_a_language_model_with_fresh_cross_attention_starts_undisturbed(given, num_latents, tmp_path):
    alone = GPT2LMHeadModel(DECODERS["gpt2"]())
    folder = save(alone, tmp_path / "gpt2")
    decoder = folder if given == "folder" else alone
    model = compose(encoder=build_bert(), decoder=decoder, num_latents=num_latents)
    labels = build_labels()
    with torch.no_grad():
        assert abs(model(**TOKENS, labels=labels).loss.item() - compute_loss_alone(alone, labels)) < 1e-4
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for _ in range(2):
        memory = model.encoder(**TOKENS)
        memory.last_hidden_state.retain_grad()
        model(encoder_outputs=memory, labels=labels).loss.backward()
        norms.append(memory.last_hidden_state.grad.norm().item())
        optimizer.step()
        optimizer.zero_grad()
    assert norms[0] == 0 < norms[1]
    weights = alone.state_dict()
    assert model.decoder.language_model.lm_head.weight is model.decoder.language_model.transformer.wte.weight
    if given == "instance":
        assert "crossattention" not in " ".join(weights), "the model that was given has been changed"


def test_a_decoder_that_reads_a_prefix_gives_its_own_numbers_for_the_embeddings_before_the_tokens(tmp_path):
    alone = sharpen(LlamaForCausalLM(DECODERS["llama"]()))
    model = compose(encoder=GenextVectorConditionerConfig(vector_size=32), decoder=alone)
    vectors, ids = build_numbers(3, 2, 32), build_labels().clamp(min=3)
    with torch.no_grad():
        logits = model(condition_vectors=vectors, decoder_input_ids=ids).logits
        embeddings = torch.cat([vectors, alone.get_input_embeddings()(ids)], dim=1)
        assert_near(logits, alone(inputs_embeds=embeddings).logits[:, 2:])
    assert isinstance(model.decoder.memory_projection, torch.nn.Identity), "the widths agree, yet something is projected"
    assert model.decoder.language_model is alone


def test_a_vector_becomes_several_states_by_a_projection_for_each():
    conditioner = GenextVectorConditioner(GenextVectorConditionerConfig(vector_size=4, hidden_size=4, num_states=3))
    vectors, mask = build_numbers(2, 5, 4), torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]])
    outputs = conditioner(condition_vectors=vectors, condition_vectors_mask=mask)
    assert outputs.states.shape == (2, 15, 4)
    weights, biases = conditioner.projection.weight.reshape(3, 4, 4), conditioner.projection.bias.reshape(3, 4)
    for vector in range(5):
        for state in range(3):
            expected = vectors[:, vector] @ weights[state].T + biases[state]
            torch.testing.assert_close(outputs.states[:, 3 * vector + state], expected)
            assert outputs.mask[:, 3 * vector + state].tolist() == mask[:, vector].tolist()
    assert conditioner(condition_vectors=vectors[:, 0]).mask is None
    with pytest.raises(StrictDataclassError, match="num_states must be 1 or more, got 0"):
        GenextVectorConditionerConfig(num_states=0)


def test_a_mixture_of_experts_decodes(tmp_path):
    config = MixtralConfig(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    model = sharpen(compose(encoder=build_bert(), decoder=config, num_latents=2))
    model.save_pretrained(tmp_path)
    expected = model.generate(**TOKENS, **GENERATION)
    assert torch.equal(GenextForConditionalGeneration.from_pretrained(tmp_path).generate(**TOKENS, **GENERATION), expected)
    assert torch.equal(model.generate(**TOKENS, **GENERATION, use_cache=False), expected)


def test_cross_attention_that_a_language_model_cannot_have_is_not_asked_for():
    config = GPTBigCodeConfig(vocab_size=TARGET_VOCAB, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    assert compose(encoder=build_bert(), decoder=config).decoder.style == "prefix"
    config.multi_query = False  # It has a cross-attention then, which does not run.
    model = compose(encoder=build_bert(), decoder=config)
    assert model.decoder.style == "prefix"
    assert model(**TOKENS, labels=TOKENS["input_ids"].clamp(min=1)).loss.isfinite()
    assert compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), cross_attention=False).decoder.style == "prefix"


def test_opt_reads_a_prefix_as_wide_as_its_embeddings():
    model = compose(encoder=build_bert(), decoder=OPTForCausalLM(DECODERS["opt"]()))
    assert model.decoder.memory_projection.out_features == 16


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_halves_of_a_sequence_to_sequence_model_are_the_whole_again(name, tmp_path):
    config = DECODERS[name]()
    model_class = {"bart": BartForConditionalGeneration, "t5": T5ForConditionalGeneration}[name]
    whole = model_class(config)
    folder = save(whole, tmp_path / name)
    tokens = {name: tensor for name, tensor in TOKENS.items()}
    ids = build_labels().clamp(min=3)
    with torch.no_grad():
        expected = whole(**tokens, decoder_input_ids=ids).logits
    for encoder, decoder in ((folder, folder), (whole, whole)):
        halves = compose(encoder=encoder, decoder=decoder)
        with torch.no_grad():
            logits = halves(**tokens, decoder_input_ids=ids).logits
        assert_near(logits, expected)
        names = [name for name, _ in halves.named_parameters()]
        assert not any("decoder.language_model" in name and "encoder.b" in name for name in names), "both encoders are there"
        halves.save_pretrained(tmp_path / "halves")
        opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "halves")
        with torch.no_grad():
            torch.testing.assert_close(opened(**tokens, decoder_input_ids=ids).logits, logits)
    with torch.no_grad():
        torch.testing.assert_close(whole(**tokens, decoder_input_ids=ids).logits, expected)


def test_one_model_is_both_sides_and_each_side_learns_for_itself(tmp_path):
    both = sharpen(LlamaForCausalLM(DECODERS["llama"]()))
    model = compose(encoder=both, decoder=both, num_latents=2)
    encoder = {parameter.data_ptr() for parameter in model.encoder.parameters()}
    assert not encoder & {parameter.data_ptr() for parameter in model.decoder.parameters()}
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(opened.generate(**TOKENS, **GENERATION), model.generate(**TOKENS, **GENERATION))


def test_an_encoder_gives_its_own_states_whatever_it_is_given_as(tmp_path):
    bert = sharpen(BertModel(build_bert()))
    masked = BertForMaskedLM(build_bert())
    folder = save(bert, tmp_path / "bert")
    with torch.no_grad():
        expected = bert(**TOKENS).last_hidden_state
    for encoder in (folder, bert):
        memory, mask = compose(encoder=encoder, decoder=DECODERS["native"]()).encode(**TOKENS, return_mask=True)
        torch.testing.assert_close(memory, expected)
        assert torch.equal(mask, TOKENS["attention_mask"])
    assert bert.pooler is not None, "the model that was given has been changed"
    with torch.no_grad():
        expected = masked.eval().bert(**TOKENS).last_hidden_state
    memory = compose(encoder=masked, decoder=DECODERS["native"]()).encode(**TOKENS)
    torch.testing.assert_close(memory, expected)


def test_a_space_of_word_vectors_is_an_encoder(tmp_path):
    space = StaticEmbeddingModel.from_words(["sun", "moon", "violin"], np.arange(12.0).reshape(3, 4))
    space.save_pretrained(tmp_path / "space")
    model = compose(encoder=tmp_path / "space", decoder=DECODERS["gpt2"](), freeze_encoder=True)
    memory = model.encode(input_ids=torch.tensor([[2, 0]]))
    torch.testing.assert_close(memory, torch.tensor([[[8.0, 9, 10, 11], [0, 1, 2, 3]]]))
    assert not model.encoder.conditioner.model.embeddings.requires_grad


def test_the_encoder_of_a_speech_model_ignores_padding_and_wav2vec2_follows_it():
    whisper = WhisperForConditionalGeneration(CONDITIONS["whisper"].config())
    model = compose(encoder=whisper, decoder=DECODERS["llama"]())
    memory, mask = model.encode(**CONDITIONS["whisper"].inputs, return_mask=True)
    assert memory.shape == (3, 10, 24)
    assert mask.all()
    with torch.no_grad():
        expected = whisper.eval().get_encoder()(CONDITIONS["whisper"].inputs["input_features"]).last_hidden_state
    torch.testing.assert_close(memory, expected)
    wav2vec2 = Cell("wav2vec2", "native", None).build()
    _, mask = wav2vec2.encode(**CONDITIONS["wav2vec2"].inputs, return_mask=True)
    assert mask.sum(dim=1).tolist() == [18, 8, 13]
    features = {"input_values": CONDITIONS["wav2vec2"].inputs["input_values"]}
    features["feature_attention_mask"] = CONDITIONS["wav2vec2"].inputs["attention_mask"]
    assert torch.equal(wav2vec2.encode(**features, return_mask=True)[1], mask)


def test_a_feature_map_is_read_place_by_place():
    model = Cell("resnet", "native", None).build()
    images = CONDITIONS["resnet"].inputs["pixel_values"]
    with torch.no_grad():
        grid = model.encoder.conditioner.model(images).last_hidden_state
    memory = model.encode(pixel_values=images)
    assert memory.shape == (3, grid.shape[2] * grid.shape[3], 18)
    torch.testing.assert_close(memory[1, 2], grid[1, :, 2 // grid.shape[3], 2 % grid.shape[3]])


def test_a_composition_opens_when_the_sources_of_its_parts_are_gone(tmp_path):
    encoder = save(BertModel(build_bert()), tmp_path / "bert")
    decoder = save(LlamaForCausalLM(DECODERS["llama"]()), tmp_path / "llama")
    model = sharpen(compose(encoder=encoder, decoder=decoder, num_latents=2, freeze_encoder=True))
    model.save_pretrained(tmp_path / "whole")
    shutil.rmtree(encoder)
    shutil.rmtree(decoder)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(opened.generate(**TOKENS, **GENERATION), model.generate(**TOKENS, **GENERATION))
    assert not any(parameter.requires_grad for parameter in opened.encoder.conditioner.model.parameters())
    features = AutoModel.from_pretrained(tmp_path / "whole")
    assert type(features) is GenextModel
    torch.testing.assert_close(features.encode(**TOKENS), model.encode(**TOKENS))
    again = compose(encoder=tmp_path / "whole", decoder=DECODERS["gpt2"]())
    torch.testing.assert_close(again.encode(**TOKENS), model.encode(**TOKENS))


def test_a_frozen_encoder_stays_as_it_is_and_the_rest_learns():
    config = build_bert()
    config.hidden_dropout_prob = 0.5
    model = compose(encoder=config, decoder=DECODERS["gpt2"](), num_latents=2, freeze_encoder=True).train()
    assert torch.equal(model.encode(**TOKENS), model.encode(**TOKENS)), "dropout is on in a frozen encoder"
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("encoder.conditioner.model.") for name in trained)
    assert any(name.startswith("encoder.bottleneck.") for name in trained)
    assert any(name.startswith("decoder.") for name in trained)


def test_an_encoder_is_tuned_from_a_layer_on():
    model = compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), tune_encoder_from_layer=1)
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".layer.1." in name for name in trained)
    model = compose(encoder=DECODERS["llama"](), decoder=DECODERS["gpt2"](), tune_encoder_from_layer=1)
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert "conditioner.model.norm.weight" in trained
    assert all(".layers.1." in name or name.endswith("model.norm.weight") for name in trained)
    model = compose(encoder=DECODERS["bart"](), decoder=DECODERS["gpt2"](), tune_encoder_from_layer=0)
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".layers.0." in name for name in trained), "the norm of BART's embeddings stands before its layers"


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "qwen3", "opt", "bart", "t5", "native"])
def test_either_vocabulary_is_resized(decoder, tmp_path):
    model = Cell("bert", decoder, 2).build()
    labels = build_labels()
    with torch.no_grad():
        before = model(**TOKENS, labels=labels).logits
    model.resize_token_embeddings(41)
    model.resize_token_embeddings(33, side="source")
    assert model.config.vocab_size == 41
    assert model.config.conditioner.vocab_size == 33
    with torch.no_grad():
        after = model(**TOKENS, labels=labels).logits
    assert after.shape[-1] == 41
    assert_near(after[..., :TARGET_VOCAB], before)
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(opened(**TOKENS, labels=labels).logits, after)
    images = Cell("vit", decoder, None).build()
    with pytest.raises(ValueError, match="reads no tokens"):
        images.resize_token_embeddings(33, side="source")


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "native"])
def test_the_kind_of_number_reaches_every_part(decoder, tmp_path):
    given = DECODERS[decoder]()
    if decoder != "native":
        given = save(AutoModelForCausalLM.from_config(given), tmp_path / "decoder")
    encoder = save(BertModel(build_bert()), tmp_path / "bert")
    model = compose(encoder=encoder, decoder=given, num_latents=2, dtype=torch.bfloat16, device_map="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.generate(**TOKENS, **GENERATION).shape == (3, 7)
    model.save_pretrained(tmp_path / "whole")
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole")
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.bfloat16}
    wide = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    mixed = compose(encoder=encoder, decoder=AutoModelForCausalLM.from_config(DECODERS["gpt2"]()).to(torch.bfloat16))
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}


@pytest.mark.parametrize("decoder", ["native", "llama", "a model"])
def test_half_precision_of_a_composition_is_that_of_its_folder(decoder, tmp_path):
    """What half precision would spoil stays in float32: angles of positions, and the running means of a codebook."""
    encoder = GenextTextConditionerConfig(vocab_size=30, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    given = LlamaForCausalLM(DECODERS["llama"]()) if decoder == "a model" else DECODERS[decoder]()
    quantized = {"kind": "quantized", "num_latents": 2, "latent_size": 4, "num_codes": 8}
    model = compose(encoder=encoder, decoder=given, bottleneck=quantized, dtype=torch.bfloat16)
    sharpen(model)
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path)
    kinds = {name: buffer.dtype for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    assert {torch.float32} == set(kinds.values())
    assert kinds.keys() >= {"encoder.conditioner.rotary_emb.inv_freq", "encoder.bottleneck.codebook.vectors"}
    for name, buffer in opened.named_buffers():
        torch.testing.assert_close(buffer.float(), model.get_buffer(name).float(), atol=0, rtol=0)
    with torch.no_grad():
        expected, found = (either(**TOKENS, labels=build_labels()).logits for either in (model, opened))
    assert torch.equal(expected, found)
    opened.train()
    optimizer = torch.optim.SGD(opened.parameters(), lr=0.1)
    for _ in range(2):
        opened(**TOKENS, labels=build_labels()).loss.backward()
        optimizer.step()
    opened(**TOKENS, labels=build_labels())
    assert opened.encoder.bottleneck.codebook.num_moves == 2


def test_a_quantization_reaches_the_decoder(tmp_path):
    from transformers import BitsAndBytesConfig

    decoder = save(LlamaForCausalLM(DECODERS["llama"]()), tmp_path / "llama")
    with pytest.raises(ImportError, match=r"(?i)bitsandbytes"):
        compose(encoder=build_bert(), decoder=decoder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def test_memories_are_opened_mixed_and_decoded():
    model = Cell("bert", "llama", 5).build()
    memory = model.encode(**TOKENS)
    between = model.interpolate(memory[0], memory[2], [0.0, 0.25, 1.0])
    assert between.shape == (3, 5, 32)
    torch.testing.assert_close(between[1], 0.75 * memory[0] + 0.25 * memory[2])
    ids = model.decode(between, **GENERATION)
    expected = model.generate(**TOKENS, **GENERATION)
    assert torch.equal(ids[0], expected[0])
    assert torch.equal(ids[2], expected[2])
    vectors = model.embed(**TOKENS, normalize=True)
    assert vectors.shape == (3, 32)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    plain = Cell("bert", "llama", None).build()
    alone = plain.embed(input_ids=TOKENS["input_ids"][1:2, :3])
    torch.testing.assert_close(plain.embed(**TOKENS)[1:2], alone)


def test_a_text_is_reconstructed_where_both_sides_have_one_vocabulary():
    config = build_bert()
    config.vocab_size = TARGET_VOCAB
    for num_latents in (None, 2):
        model = sharpen(compose(encoder=config, decoder=DECODERS["gpt2"](), num_latents=num_latents))
        ids = model.reconstruct(**TOKENS, **GENERATION)
        assert torch.equal(ids, model.generate(**TOKENS, **GENERATION))
    with pytest.raises(ValueError, match=r"source has 31 tokens and the target 37.*decode\(encode"):
        Cell("bert", "gpt2", 1).build().reconstruct(**TOKENS)
    with pytest.raises(ValueError, match="source has no tokens"):
        Cell("vit", "gpt2", 1).build().reconstruct(**CONDITIONS["vit"].inputs)


def build_plain(condition="bert", num_latents=None):
    return Cell(condition, "gpt2", num_latents).build()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: compose(encoder=build_bert(), decoder=ViTConfig()),
            ValueError,
            r"ViTConfig .*no causal language model.*GPT-2",
        ),
        (lambda: compose(encoder=build_bert(), decoder=MambaConfig(num_hidden_layers=1)), ValueError, "cannot read a memory"),
        (
            lambda: compose(encoder=build_bert(), decoder=GPT2Model(DECODERS["gpt2"]())),
            ValueError,
            r"GPT2Model has no head over tokens.*AutoModelForCausalLM",
        ),
        (lambda: compose(encoder=build_bert(), decoder=3), TypeError, "decoder must be a Hub id, a folder, .* got int"),
        (lambda: compose(encoder=3.5, decoder=DECODERS["gpt2"]()), TypeError, "encoder must be .* got float"),
        (
            lambda: compose(encoder=CLIPConfig(), decoder=DECODERS["gpt2"]()),
            ValueError,
            r"'clip' has no hidden states of one width.*model\.vision_model",
        ),
        (
            lambda: compose(encoder=DPRConfig(num_hidden_layers=1), decoder=DECODERS["gpt2"]()),
            ValueError,
            r"DPRQuestionEncoder gives no hidden states \(it gives pooler_output.*the encoder inside it",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), num_latents=0),
            StrictDataclassError,
            "num_latents must be 1",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), bottleneck="none", num_latents=2),
            ValueError,
            'Choose "pooled"',
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["llama"](), cross_attention=True),
            ValueError,
            "LlamaForCausalLM has no cross-attention",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), tune_encoder_from_layer=2),
            ValueError,
            "tune_encoder_from_layer is 2, but BertModel has the layers 0 to 1",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), tune_encoder_from_layer=1, freeze_encoder=True),
            StrictDataclassError,
            "give one of them",
        ),
        (
            lambda: compose(encoder={"text": build_bert(), "title": build_bert()}, decoder=DECODERS["gpt2"]()),
            ValueError,
            "'text' and 'title' both read input_ids",
        ),
        (
            lambda: build_plain("vectors").encode(condition_vectors=torch.zeros(3, 7)),
            ValueError,
            r"vectors of 9 numbers.*have 7 numbers",
        ),
        (
            lambda: build_plain("labels").encode(condition_labels=torch.tensor([[0, 5]])),
            ValueError,
            r"condition_labels\[0, 1\] is 5; field 1 has the labels 0 to 4",
        ),
        (lambda: build_plain("labels").encode(condition_labels=torch.zeros(2, 3).long()), ValueError, "labels of 2 fields"),
        (
            lambda: build_plain("vectors").encode(condition_vectors=[0.0] * 9),
            TypeError,
            "condition_vectors must be a tensor, got list",
        ),
        (
            lambda: build_plain("vectors").encode(condition_vectors=torch.full((1, 9), torch.nan)),
            ValueError,
            r"must be there in every row \(one that begins with NaN is not\)",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), num_latent=2),
            TypeError,
            "takes no 'num_latent'. Did you mean 'num_latents'",
        ),
        (
            lambda: build_plain().encode(pixel_values=torch.zeros(1, 3, 8, 8)),
            ValueError,
            "not conditioned on pixel_values; it takes input_ids",
        ),
        (lambda: build_plain().encode(), ValueError, "takes input_ids"),
        (lambda: build_plain().generate(), ValueError, "Give a condition: input_ids"),
        (lambda: build_plain("nothing").encode(), ValueError, "num_samples="),
        (
            lambda: build_plain().decode(build_plain().encode(**TOKENS)),
            ValueError,
            r"needs memory_mask=.*encode\(\.\.\., return_mask=True\)",
        ),
        (lambda: build_plain("bert", 2).decode(torch.zeros(1, 3, 32)), ValueError, "has 2 slots, got 3"),
        (lambda: build_plain("bert", 2).decode(torch.zeros(1, 2, 5)), ValueError, r"\(batch, slots, 32\), got the shape"),
        (
            lambda: GenextModel.interpolate(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3)),
            ValueError,
            'bottleneck="pooled"',
        ),
        (
            lambda: GenextConfig(decoder={"vocab_size": 9}, freeze_encodr=True),
            ValueError,
            "Did you mean 'freeze_encoder'",
        ),
        (
            lambda: compose(encoder=build_bert(), decoder=GenextDecoderConfig(bos_token_id=None, eos_token_id=None)),
            ValueError,
            "decoder_start_token_id=",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused_with_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_model_without_hidden_states_is_refused_when_it_runs_at_the_latest():
    class Silent(BertModel):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            states = super().forward(input_ids, attention_mask).last_hidden_state
            return {"pooler_output": states[:, 0]}

    model = compose(encoder=Silent(build_bert()), decoder=DECODERS["gpt2"]())
    with pytest.raises(ValueError, match=r"gives no hidden states \(it gives pooler_output\)"):
        model.encode(**TOKENS)


def test_a_model_that_was_refused_stays_as_it_was():
    bert = sharpen(BertModel(build_bert()))
    with torch.no_grad():
        expected = bert(**TOKENS).last_hidden_state
    with pytest.raises(StrictDataclassError):
        compose(encoder=bert, decoder=DECODERS["gpt2"](), num_latents=0)
    with torch.no_grad():
        torch.testing.assert_close(bert(**TOKENS).last_hidden_state, expected)


@pytest.mark.parametrize("num_latents", [None, 3])
def test_a_prefix_enters_at_the_scale_of_the_embeddings(num_latents):
    language_model = LlamaForCausalLM(DECODERS["llama"]())
    scale = language_model.get_input_embeddings().weight.square().mean().sqrt()
    model = compose(encoder=build_bert(), decoder=language_model, num_latents=num_latents)
    with torch.no_grad():
        prefix = model.decoder.memory_projection(model.encode(**TOKENS))
    assert 0.5 < prefix.square().mean().sqrt() / scale < 2


def test_a_condition_is_given_by_name_or_as_the_first_argument_and_only_once():
    model = Cell("vit", "llama", 1).build()
    images = CONDITIONS["vit"].inputs["pixel_values"]
    assert torch.equal(model.generate(images, **GENERATION), model.generate(pixel_values=images, **GENERATION))
    with pytest.raises(ValueError, match="given twice"):
        model.generate(images, pixel_values=images)
    with pytest.raises(ValueError, match="not conditioned on input_ids; it takes pixel_values"):
        model.generate(**TOKENS)
    with pytest.raises(ValueError, match="pixel_vals"):
        model.generate(pixel_vals=images)


@pytest.mark.parametrize("condition", ["bert", "text_and_labels"])
@pytest.mark.parametrize("search", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_states_of_a_condition_are_generated_from_as_the_condition_is(condition, search):
    model = Cell(condition, "native", None).build()
    conditioner = model.encoder.conditioner
    with torch.no_grad():
        states = getattr(conditioner, "conditioners", {"text": conditioner})["text"](**TOKENS)
    given = {"condition_states": states.states, "condition_states_mask": states.mask}
    if condition == "text_and_labels":
        given = {name: {"text": value} for name, value in given.items()}
    expected = model.generate(**TOKENS, **GENERATION, **search)
    assert torch.equal(model.generate(**given, **GENERATION, **search), expected)
    assert not torch.equal(expected[0], expected[-1]), "the condition changes nothing"
