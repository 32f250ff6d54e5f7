"""Where a model looks while it writes, beside a pass over the whole output that gives its attention."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from composition_specimens import DECODERS, build_bert
from specimens import WORDS, build_native_model, build_pipeline, build_prediction, build_processor, sharpen
from test_foreign_models import MODELS, TOKENIZER

from hf_genext import (
    GenextForConditionalGeneration,
    GenextLabelConditionerConfig,
    GenextProcessor,
    GenextVectorConditionerConfig,
    draw_alignment,
    pipeline,
    train_tokenizer,
)
from hf_genext.fast_decoding import find_obstacle

TASK = "conditional-generation"
FOREIGN = ["t5", "bart", "marian", "t5gemma", "vision", "speech", "whisper"]


def look(pipe, condition, text_ids, prompt, layer):
    """The cross-attention of a layer for given target ids, by Transformers' own forward."""
    inputs = pipe.preprocess(condition)
    inputs.pop("rows")
    decoder_input_ids = torch.tensor([[*prompt, *text_ids[:-1]]])
    model = copy.deepcopy(pipe.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, decoder_input_ids=decoder_input_ids, output_attentions=True)
    return outputs.cross_attentions[layer][0].mean(dim=0)[len(prompt) - 1 :]


def check_answers(pipe, inputs, prompt, **search):
    """Alone, in batches and beside other requests the alignments are those of the output that was returned."""
    layer = -1
    asked = {"return_alignments": True, "alignment_layer": layer, "max_new_tokens": 7, **search}
    alone = [pipe(condition, **asked) for condition in inputs]
    plain = pipe(inputs, batch_size=1, max_new_tokens=7, **search)
    checked = 0
    for condition, answers, bare in zip(inputs, alone, plain, strict=True):
        assert [answer["generated_text"] for answer in answers] == [answer["generated_text"] for answer in bare]
        for answer in answers:
            alignment = answer["alignment"]
            ids = pipe.target_tokenizer.convert_tokens_to_ids(alignment["target_tokens"])
            assert pipe.target_tokenizer.decode(ids, skip_special_tokens=True) == answer["generated_text"]
            expected = look(pipe, condition, ids, prompt, layer)
            np.testing.assert_allclose(alignment["weights"], expected, atol=2e-5)
            np.testing.assert_allclose(np.sum(alignment["weights"], axis=1), 1.0, atol=1e-5)
            assert len(alignment["source_tokens"]) == expected.shape[1]
            checked += np.std(alignment["weights"]) > 1e-3
    assert checked > 1, "the specimen looks everywhere alike"
    for batch_size in (2, 3):
        together = pipe(inputs, batch_size=batch_size, return_scores=True, **asked)
        for one, many in zip(alone, together, strict=True):
            for left, right in zip(one, many, strict=True):
                assert left["generated_text"] == right["generated_text"]
                assert len(right["token_scores"]) == len(right["alignment"]["target_tokens"])
                for name in ("target_tokens", "source_tokens"):
                    assert left["alignment"][name] == right["alignment"][name]
                np.testing.assert_allclose(left["alignment"]["weights"], right["alignment"]["weights"], atol=2e-5)
    return alone


@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_native_models(search):
    pipe = build_pipeline()
    assert pipe.model.config._attn_implementation == "sdpa"
    answers = check_answers(pipe, WORDS[:3], [pipe.model.config.decoder_start_token_id], **search)
    assert answers[1][0]["alignment"]["source_tokens"] == ["v", "i", "o", "l", "i", "n", "</s>"]
    assert answers[1][0]["alignment"]["target_tokens"][0] in pipe.target_tokenizer.get_vocab()
    # Nothing of it stays behind: the attention is as before, and the faster loop goes on.
    assert pipe.model.decoder.config._attn_implementation == "sdpa"
    assert find_obstacle(pipe.model) is None


@pytest.mark.parametrize("name", FOREIGN)
def test_other_peoples_models(name):
    build, parts, inputs = MODELS[name]
    torch.manual_seed(0)
    pipe = pipeline(TASK, model=sharpen(build()), **parts)
    prompt = [pipe._writer.start_id, *([len(TOKENIZER)] if name == "whisper" else [])]
    for search in ({}, {"num_beams": 3}):
        answers = check_answers(pipe, inputs[:3], prompt, **search)
    sources = answers[0][0]["alignment"]["source_tokens"]
    if isinstance(inputs[0], str):
        assert sources == TOKENIZER.convert_ids_to_tokens(TOKENIZER(inputs[0])["input_ids"])
    else:
        assert sources == [str(place) for place in range(len(sources))]


@pytest.mark.parametrize("decoder", ["gpt2", "bart"])
def test_joined_decoders_with_cross_attention(decoder):
    processor = build_processor()
    model = compose(build_letters(processor), decoder, processor, num_latents=3)
    pipe = pipeline(TASK, model=model, processor=processor)
    answers = check_answers(pipe, WORDS[:3], [pipe._writer.start_id])
    assert answers[0][0]["alignment"]["source_tokens"] == ["0", "1", "2"]  # A bottleneck mixes all that was read.


def build_letters(processor):
    config = build_bert()
    config.vocab_size = len(processor.tokenizer)
    return config


def compose(encoder, decoder, processor, **settings):
    config = DECODERS[decoder]()
    config.vocab_size = len(processor.target_tokenizer)
    torch.manual_seed(0)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=encoder, decoder=config, **settings)
    model.generation_config.suppress_tokens = [config.pad_token_id]  # What is trained writes no padding.
    return sharpen(model)


def test_slots_of_several_conditions_have_names():
    letters = train_tokenizer(WORDS, unit="character", model_max_length=24)
    processor = GenextProcessor(
        tokenizer=letters,
        target_tokenizer=build_processor().target_tokenizer,
        label_names={"accent": ["us", "uk", "in"], "speed": ["slow", "fast"]},
        vector_size=9,
    )
    encoder = {
        "text": build_letters(processor),
        "tags": GenextLabelConditionerConfig(label_counts=[3, 2], hidden_size=8),
        "meaning": GenextVectorConditionerConfig(vector_size=9, hidden_size=12, num_states=2),
    }
    pipe = pipeline(TASK, model=compose(encoder, "gpt2", processor), processor=processor)
    vector = np.linspace(-1, 1, 9)
    inputs = [
        {"text": "cat", "label": {"accent": "uk", "speed": "fast"}, "vector": vector},
        {"text": "violin", "label": {"accent": "us", "speed": "slow"}, "vector": -vector},
    ]
    answers = check_answers(pipe, inputs, [pipe._writer.start_id])
    names = ["c", "a", "t", "</s>", "accent", "speed", "meaning 0", "meaning 1"]
    assert answers[0][0]["alignment"]["source_tokens"] == names


def test_what_goes_together():
    processor = build_processor()
    pipe = pipeline(TASK, model=build_native_model(processor, tie_word_embeddings=True), processor=processor)
    whole = pipe("zebra", return_alignments=True, max_new_tokens=7)[0]
    assert whole["alignment"] == pipe("zebra", return_alignments=True, alignment_layer=0, max_new_tokens=7)[0]["alignment"]
    assert whole["alignment"] != pipe("zebra", return_alignments=True, alignment_layer=1, max_new_tokens=7)[0]["alignment"]
    # Behind a prefix it is that of what follows; of outputs that a list allows, of those.
    first = whole["alignment"]["target_tokens"][0]
    rest = pipe("zebra", return_alignments=True, target_prefix=first, max_new_tokens=6)[0]["alignment"]
    assert rest["target_tokens"] == whole["alignment"]["target_tokens"][1:]
    np.testing.assert_allclose(rest["weights"], whole["alignment"]["weights"][1:], atol=2e-5)
    for answer in pipe("cat", allowed_outputs=["K AE T", "AE T"], num_beams=4, num_return_sequences=4, return_alignments=True):
        assert answer["alignment"]["target_tokens"] == [*answer["generated_text"].split(), "</s>"]
    streamed = list(pipe.stream("zebra", return_alignments=True, max_new_tokens=7))
    assert streamed[-1]["alignment"] == whole["alignment"]


def test_what_is_refused():
    pipe = build_pipeline()
    with pytest.raises(ValueError, match="alignment_layer must be a whole number of -3 to 2"):
        pipe("cat", return_alignments=True, alignment_layer=3)
    with pytest.raises(ValueError, match="ask for them with return_alignments=True"):
        pipe("cat", alignment_layer=1)
    processor = build_processor()
    prefix = pipeline(TASK, model=compose(build_letters(processor), "llama", processor), processor=processor)
    with pytest.raises(ValueError, match="has no cross-attention: its decoder reads the memory in another way"):
        prefix("cat", return_alignments=True, max_new_tokens=4)
    assert prefix.model.decoder.language_model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="predicts a single output, so it takes no return_alignments"):
        pipeline(TASK, model=build_prediction("class"), processor=build_processor())("cat", return_alignments=True)


def test_a_picture(tmp_path):
    pipe = build_pipeline()
    answer = pipe("violin", return_alignments=True)[0]
    figure = draw_alignment(answer, tmp_path / "violin.png", title="$violin")
    assert (tmp_path / "violin.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == answer["alignment"]["source_tokens"]
    assert [text.get_text() for text in axes.get_yticklabels()] == answer["alignment"]["target_tokens"]
    np.testing.assert_allclose(axes.images[0].get_array(), answer["alignment"]["weights"])
    # Tokens of any kind, none at all, and as many slots as a recording has.
    for targets, sources in ((["$", "</s>"], ["$x", "_", "^"]), ([], ["a"]), (["a"], [str(place) for place in range(1500)])):
        alignment = {
            "target_tokens": targets,
            "source_tokens": sources,
            "weights": np.ones((len(targets), len(sources))).tolist(),
        }
        draw_alignment(alignment, tmp_path / "other.png")
    with pytest.raises(ValueError, match="ask the pipeline with return_alignments=True"):
        draw_alignment(pipe("violin")[0])
