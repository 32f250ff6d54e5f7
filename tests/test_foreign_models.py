"""Other people's encoder-decoders through the task: tiny T5, BART, Marian, mBART, T5Gemma, Whisper, pictures and speech."""

from __future__ import annotations

import base64
import copy
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from foreign_specimens import BART as SIZES_OF_BART
from foreign_specimens import ENDS, IDS, SIZE, TOKENIZER
from PIL import Image
from scipy.io import wavfile
from scipy.signal import resample_poly
from specimens import WORDS, build_processor, sharpen
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    OPTConfig,
    SpeechEncoderDecoderConfig,
    SpeechEncoderDecoderModel,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    pipeline,
)

from hf_genext import GenextForConditionalGeneration, GenextTextConditionerConfig

TASK = "conditional-generation"
PICTURES = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
SOUNDS = [np.random.default_rng(seed).normal(size=1600 * seed).astype(np.float32).cumsum() % 1 for seed in (1, 2, 3)]
RECORDINGS = [{"array": sound, "sampling_rate": 16_000} for sound in SOUNDS]
ALLOWED = ["K AE T", "AH", "AE"]
BART = {**SIZES_OF_BART, "forced_eos_token_id": None}
GEMMA = {
    "vocab_size": SIZE,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    **IDS,
}


def join(config_class, model_class, encoder):
    decoder = GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=64, add_cross_attention=True, **IDS)
    model = model_class(config_class.from_encoder_decoder_configs(encoder, decoder))
    model.config.decoder_start_token_id, model.config.pad_token_id = TOKENIZER.bos_token_id, TOKENIZER.pad_token_id
    model.generation_config = GenerationConfig(decoder_start_token_id=TOKENIZER.bos_token_id, **IDS)
    return model


def build_vision():
    vit = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    return join(VisionEncoderDecoderConfig, VisionEncoderDecoderModel, vit)


def build_speech():
    encoder = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 4),
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    return join(SpeechEncoderDecoderConfig, SpeechEncoderDecoderModel, encoder)


def build_whisper():
    config = WhisperConfig(
        vocab_size=SIZE + 1,
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=28,
        decoder_ffn_dim=28,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=40,
        decoder_start_token_id=TOKENIZER.bos_token_id,
        **IDS,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(decoder_start_token_id=TOKENIZER.bos_token_id, suppress_tokens=[SIZE], **IDS)
    model.generation_config.no_timestamps_token_id = SIZE
    model.generation_config.is_multilingual = False
    return model


def build_t5():
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=SIZE,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=TOKENIZER.pad_token_id,
            **ENDS,
        )
    )


TEXT = {"tokenizer": TOKENIZER}
MODELS = {
    "t5": (build_t5, TEXT, WORDS),
    "bart": (lambda: BartForConditionalGeneration(BartConfig(**BART)), TEXT, WORDS),
    "mbart": (lambda: MBartForConditionalGeneration(MBartConfig(**BART)), TEXT, WORDS),
    "m2m100": (lambda: M2M100ForConditionalGeneration(M2M100Config(**BART)), TEXT, WORDS),
    "marian": (lambda: MarianMTModel(MarianConfig(**{**BART, "decoder_start_token_id": 0})), TEXT, WORDS),
    "t5gemma": (lambda: T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=GEMMA, decoder=GEMMA)), TEXT, WORDS),
    "vision": (build_vision, {**TEXT, "image_processor": ViTImageProcessor(size={"height": 8, "width": 8})}, PICTURES),
    "speech": (build_speech, {**TEXT, "feature_extractor": Wav2Vec2FeatureExtractor()}, RECORDINGS),
    "whisper": (
        build_whisper,
        {**TEXT, "feature_extractor": WhisperFeatureExtractor(feature_size=8, chunk_length=1)},
        RECORDINGS,
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def part(request):
    """A pipeline, its inputs, and their tensors, each in a batch of one."""
    build, parts, inputs = MODELS[request.param]
    torch.manual_seed(0)
    pipe = pipeline(TASK, model=sharpen(build()), **parts)
    tensors = []
    for given in inputs:
        if isinstance(given, str):
            batch = TOKENIZER(given, return_tensors="pt")
        elif isinstance(given, dict):
            masks = {} if request.param == "whisper" else {"return_attention_mask": True}
            batch = parts["feature_extractor"](given["array"], sampling_rate=16_000, return_tensors="pt", **masks)
        else:
            batch = parts["image_processor"](images=given, return_tensors="pt")
        tensors.append({name: value for name, value in batch.items() if name != "token_type_ids"})
    return request.param, pipe, inputs, tensors


@pytest.mark.parametrize("name", ["speech", "whisper"])
def test_silence_is_a_recording_like_any_other(name):
    build, parts, recordings = MODELS[name]
    torch.manual_seed(0)
    pipe = pipeline(TASK, model=sharpen(build()), **parts)
    silence = {"array": np.zeros(len(recordings[0]["array"]), dtype=np.float32), "sampling_rate": 16_000}
    alone = pipe(silence, max_new_tokens=8)
    assert isinstance(alone[0]["generated_text"], str)
    assert pipe([recordings[0], silence], batch_size=2, max_new_tokens=8)[1] == alone
    scored = pipe(silence, max_new_tokens=8, return_scores=True)[0]
    assert np.isfinite(scored["token_scores"]).all()


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_the_pipeline_gives_what_generate_gives(part, arguments):
    _, pipe, inputs, tensors = part
    expected = [
        [
            {"generated_text": text}
            for text in TOKENIZER.batch_decode(
                pipe.model.generate(**batch, max_new_tokens=8, **arguments), skip_special_tokens=True
            )
        ]
        for batch in tensors
    ]
    assert len({answer["generated_text"] for row in expected for answer in row}) > 1
    for batch_size in (1, 2):
        assert pipe(inputs, batch_size=batch_size, max_new_tokens=8, **arguments) == expected
    assert pipe(inputs[0], max_new_tokens=8, **arguments) == expected[0]


def test_scores_seeds_streams_and_allowed_outputs(part):
    name, pipe, inputs, tensors = part
    plain = pipe(inputs, batch_size=2, max_new_tokens=8)
    scored = pipe(inputs, batch_size=2, max_new_tokens=8, return_scores=True)
    assert [row[0]["generated_text"] for row in scored] == [row[0]["generated_text"] for row in plain]
    for allowed in ({}, {"num_beams": 4}, {"do_sample": True, "seed": 1}):
        answers = pipe(inputs, batch_size=2, allowed_outputs=ALLOWED, return_scores=True, **allowed)
        for given, batch, answer in zip(inputs, tensors, answers, strict=True):
            assert answer[0]["generated_text"] in ALLOWED
            ids = [*TOKENIZER(answer[0]["generated_text"], add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
            prompt = [pipe._writer.start_id, SIZE] if name == "whisper" else [pipe._writer.start_id]
            with torch.no_grad():
                logits = pipe.model(**batch, decoder_input_ids=torch.tensor([prompt + ids[:-1]])).logits[0]
            expected = logits[len(prompt) - 1 :].log_softmax(dim=-1)[torch.arange(len(ids)), ids].tolist()
            assert answer[0]["token_scores"] == pytest.approx(expected, abs=1e-4)
            if name != "whisper":  # Its real tokenizer names the tokens before an output, this one does not.
                assert pipe.score(given, answer[0]["generated_text"])["token_scores"] == pytest.approx(expected, abs=1e-4)
    if name != "whisper":
        answers = pipe(inputs, target_prefix="AH", batch_size=2, max_new_tokens=4)
        assert all(answer[0]["generated_text"].startswith("AH") for answer in answers)
    sampling = {"do_sample": True, "max_new_tokens": 8}
    alone = [pipe(given, seed=place, **sampling) for place, given in enumerate(inputs)]
    assert pipe(inputs, seed=list(range(len(inputs))), batch_size=2, **sampling) == alone
    streams = pipe.stream(inputs, batch_size=2, max_new_tokens=8)
    assert [list(stream)[-1]["generated_text"] for stream in streams] == [row[0]["generated_text"] for row in plain]


def test_a_folder_of_each_opens_through_the_task(part, tmp_path):
    name, pipe, inputs, _ = part
    pipe.save_pretrained(tmp_path / "first")
    opened = pipeline(TASK, model=str(tmp_path / "first"))
    expected = opened(inputs, max_new_tokens=8)
    if name not in ("marian", "m2m100"):  # Positions of sines are not saved, and the specimen has others.
        assert expected == pipe(inputs, max_new_tokens=8)
    opened.save_pretrained(tmp_path / "again")
    assert pipeline(TASK, model=str(tmp_path / "again"))(inputs, max_new_tokens=8) == expected
    with pytest.raises(ValueError, match="This pipeline reads no vector"):
        pipe({"vector": [1.0]})
    with pytest.raises(TypeError, match="A condition must be a string, or a dictionary"):
        pipe({"sound": [1.0]})


def build_mbart():
    """A model of mBART-50's architecture with its languages, and a vocabulary of letters."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = MBart50Tokenizer(vocab=[(letter, -1.0) for letter in letters], src_lang="en_XX", tgt_lang="de_DE")
    torch.manual_seed(0)
    config = MBartConfig(**{**BART, "vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2})
    return sharpen(MBartForConditionalGeneration(config)), tokenizer


@pytest.mark.parametrize("limit", [None, 10_000])
def test_texts_and_targets_beyond_a_table_of_positions_are_refused_or_cut(limit):
    """Of a tokenizer that sets no limit, or one that is too high."""
    torch.manual_seed(0)
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.model_max_length = limit or int(1e30)
    model = sharpen(BartForConditionalGeneration(BartConfig(**{**SIZES_OF_BART, "max_position_embeddings": 24})))
    pipe = pipeline(TASK, model=model, tokenizer=tokenizer, max_new_tokens=5)
    longest = "a" * (24 - len(tokenizer("").input_ids))
    assert pipe(longest)[0].get("truncated") is None
    with pytest.raises(ValueError, match=r"has 25 tokens; the model takes 24\. Shorten it"):
        pipe(["cat", longest + "a"])
    cut = pipe(["cat", longest + "aaa"], truncation="truncate", batch_size=2)
    assert cut == [pipe("cat"), [{**pipe(longest)[0], "truncated": True}]]
    with pytest.raises(ValueError, match="has 200,000 characters; the model takes 24 tokens"):
        pipe("a" * 200_000)
    scored = pipe.score([longest + "aaa", "cat"], ["K", "K"], truncation="truncate")
    assert [row.get("truncated") for row in scored] == [True, None]
    # What is written has as many places.
    unending = {"eos_token_id": [], "forced_eos_token_id": None}
    with pytest.raises(ValueError, match="max_new_tokens=40 is more than the decoder has positions for, 24; lower it"):
        pipe("cat", max_new_tokens=40)
    wide = pipeline(TASK, model=model, tokenizer=tokenizer)
    assert len(wide("cat", return_scores=True, **unending)[0]["token_scores"]) == 24
    for asked in ({"target_prefix": "K" * 30}, {"allowed_outputs": ["K" * 30]}, {"min_new_tokens": 30}):
        with pytest.raises(ValueError, match=r"positions for \d+ tokens more, too few for what is asked"):
            wide("cat", **asked)
    with pytest.raises(ValueError, match=r"The target 'K K .* takes \d+ positions; the model's decoder has 24"):
        pipe.score("cat", "K " * 60)


def test_a_memory_before_the_tokens_takes_positions_too():
    processor = build_processor()
    ids = {name: getattr(processor.target_tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    decoder = OPTConfig(
        vocab_size=len(processor.target_tokenizer),
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
        word_embed_proj_dim=16,
        **ids,
    )
    conditioner = {"vocab_size": len(processor.tokenizer), "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder=GenextTextConditionerConfig(**conditioner), decoder=decoder, num_latents=4
    )
    pipe = pipeline(TASK, model=model, processor=processor)
    assert pipe.score("cat", "AH " * 15)["score"] < 0
    for count in (16, 19):
        with pytest.raises(ValueError, match=r"and the memory before it 4; the model's decoder has 20"):
            pipe.score("cat", "AH " * count)


def test_prefixes_and_languages():
    torch.manual_seed(0)
    t5 = pipeline(TASK, model=sharpen(build_t5()), tokenizer=TOKENIZER, max_new_tokens=8)
    assert t5("cat", prefix="vital: ") == t5("vital: cat")
    assert t5(WORDS, prefix="vital: ") != t5(WORDS)
    for name in ("src_lang", "tgt_lang"):
        with pytest.raises(ValueError, match=r"knows no languages.*take prefix="):
            t5("cat", **{name: "en_XX"})
    model, tokenizer = build_mbart()
    pipe = pipeline(TASK, model=model, tokenizer=tokenizer, max_new_tokens=8)
    for source, target in (("en_XX", "de_DE"), ("fr_XX", "en_XX")):
        tokenizer.src_lang = source
        language = tokenizer.convert_tokens_to_ids(target)
        ids = model.generate(**tokenizer("a cat", return_tensors="pt"), forced_bos_token_id=language, max_new_tokens=8)
        assert ids[0, 1] == language
        expected = tokenizer.batch_decode(ids, skip_special_tokens=True)
        tokenizer.src_lang = "en_XX"
        answer = pipe("a cat", src_lang=source, tgt_lang=target, output_key="translation_text")
        assert answer == [{"translation_text": expected[0]}]
        assert tokenizer.src_lang == "en_XX", "a call changed the next one"
    with pytest.raises(ValueError, match="no language 'xx_YY'"):
        pipe("a cat", src_lang="xx_YY")


def build_nllb():
    """A model of NLLB's architecture with its 200 languages, and a vocabulary of letters."""
    vocab = {token: place for place, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = NllbTokenizer(vocab=vocab, merges=[], src_lang="eng_Latn", tgt_lang="fra_Latn")
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    config = M2M100Config(**{**BART, "vocab_size": len(tokenizer), "tie_word_embeddings": False, **ids})
    model = sharpen(M2M100ForConditionalGeneration(config))
    with torch.no_grad():
        model.lm_head.weight[len(vocab) :] = 0  # There are more languages than letters; it shall write letters.
    return model, tokenizer


@pytest.mark.parametrize("target", ["de_DE", "fr_XX"])
def test_given_outputs_are_in_the_language_that_is_asked_for(target):
    """The tokenizer's own target language is the first of these."""
    model, tokenizer = build_mbart()
    pipe = pipeline(TASK, model=model, tokenizer=tokenizer, max_new_tokens=8)
    batch, start = tokenizer("a cat", return_tensors="pt"), model.config.decoder_start_token_id
    prompt = [start, tokenizer.convert_tokens_to_ids(target)]
    ids = [*prompt[1:], *tokenizer("abc", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(**batch, decoder_input_ids=torch.tensor([[start, *ids[:-1]]])).logits[0].log_softmax(dim=-1)
    expected = pytest.approx(logits[torch.arange(len(ids)), ids].tolist(), abs=1e-4)
    assert pipe.score("a cat", "abc", tgt_lang=target)["token_scores"] == expected
    answers = pipe(["a cat", "b"], tgt_lang=target, allowed_outputs=["abc"], return_scores=True, batch_size=2)
    assert answers[0][0]["generated_text"] == "abc"
    assert answers[0][0]["token_scores"] == expected
    begun = model.generate(**batch, decoder_input_ids=torch.tensor([[*prompt, *ids[1:3]]]), max_new_tokens=5)
    answer = pipe("a cat", tgt_lang=target, target_prefix="a", max_new_tokens=5)[0]["generated_text"]
    assert answer == tokenizer.decode(begun[0], skip_special_tokens=True)
    assert tokenizer.tgt_lang == "de_DE", "a call changed the next one"


def test_the_languages_of_nllb(tmp_path):
    model, tokenizer = build_nllb()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline(TASK, model=str(tmp_path), max_new_tokens=8)
    assert type(pipe.tokenizer).__name__ == "NllbTokenizer"
    answers = set()
    for source, target in (("eng_Latn", "deu_Latn"), ("fra_Latn", "eng_Latn"), ("zho_Hans", "fra_Latn")):
        batch = tokenizer("a cat", return_tensors="pt")
        batch["input_ids"][0, 0] = tokenizer.convert_tokens_to_ids(source)  # The language stands before the text.
        language = tokenizer.convert_tokens_to_ids(target)
        ids = pipe.model.generate(**batch, forced_bos_token_id=language, max_new_tokens=8)
        assert ids[0, :2].tolist() == [2, language]
        expected = tokenizer.decode(ids[0], skip_special_tokens=True)
        languages = {"src_lang": source, "tgt_lang": target}
        assert pipe("a cat", **languages, output_key="translation_text") == [{"translation_text": expected}]
        assert pipe(["a", "a cat"], **languages, batch_size=2)[1] == [{"generated_text": expected}]
        answers.add(expected)
    assert len(answers) == 3
    # A token of the vocabulary is no language for that.
    for wrong in ("en", "a"):
        with pytest.raises(ValueError, match=f"no language {wrong!r}; it has ace_Arab, ace_Latn"):
            pipe("a cat", src_lang=wrong)


class Decoder:
    """What torchcodec's `AudioDecoder` has: samples (channels, samples) as a tensor, and their rate."""

    def __init__(self, samples, rate):
        data = torch.from_numpy(np.stack([samples + 0.125, samples - 0.125]).astype(np.float32))
        self.get_all_samples = lambda: SimpleNamespace(data=data, sample_rate=rate)


def test_pictures_and_recordings_come_in_many_forms(tmp_path):
    torch.manual_seed(0)
    vision, parts, _ = MODELS["vision"]
    pipe = pipeline(TASK, model=sharpen(vision()), max_new_tokens=8, **parts)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, size=(12, 9, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    expected = pipe(picture)
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), content, url, np.asarray(picture), {"bytes": content}):
        assert pipe({"image": given}) == expected
    assert pipe(str(tmp_path / "a.png")) == pipe(bytearray(content)) == expected
    assert pipe([url, str(tmp_path / "a.png")], batch_size=2) == [expected] * 2
    with pytest.raises(ValueError, match="on the network"):
        pipe("https://example.org/a.png")
    with pytest.raises(FileNotFoundError, match=r"no picture .*b\.png"):
        pipe(str(tmp_path / "b.png"))
    (tmp_path / "c.png").write_bytes(content[:40])
    with pytest.raises(ValueError, match=r"c\.png' is no picture that can be read"):
        pipe(str(tmp_path / "c.png"))
    with pytest.raises(ValueError, match="This pipeline reads no audio; it has what reads image"):
        pipe({"audio": SOUNDS[0], "sampling_rate": 16_000})
    for condition in ({"text": "cat"}, {"text": "cat", "image": picture}):
        with pytest.raises(
            ValueError, match=r"reads no text; it has what reads image\. What outputs begin with is target_prefix="
        ):
            pipe(condition)

    build, parts, _ = MODELS["speech"]
    pipe = pipeline(TASK, model=sharpen(build()), max_new_tokens=8, **parts)
    expected = pipe(RECORDINGS[2])
    samples = (SOUNDS[2] * 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 16_000, samples)
    buffer = io.BytesIO((tmp_path / "a.wav").read_bytes()).getvalue()
    as_read = pipe({"array": samples / 32768.0, "sampling_rate": 16_000})
    for given in (str(tmp_path / "a.wav"), {"audio": buffer}, {"audio": {"path": str(tmp_path / "a.wav")}}):
        assert pipe(given) == as_read
    assert pipe({"audio": SOUNDS[2], "sampling_rate": 16_000}) == expected
    # As columns of `datasets` have them, of its third version and of those since.
    assert pipe({"path": "a.wav", "array": samples / 32768.0, "sampling_rate": 16_000}) == as_read
    assert pipe({"audio": Decoder(samples / 32768.0, 16_000)}) == pipe([Decoder(samples / 32768.0, 16_000)])[0] == as_read
    with pytest.raises(TypeError, match="a dictionary with 'array'"):
        pipe({"array": samples, "text": "cat"})
    # At another rate it is brought to the model's own.
    slow = np.random.default_rng(0).normal(size=1200).astype(np.float32)
    resampled = resample_poly(slow, 2, 1).astype(np.float32)
    assert pipe({"array": slow, "sampling_rate": 8_000}) == pipe({"array": resampled, "sampling_rate": 16_000})
    wavfile.write(tmp_path / "slow.wav", 8_000, slow)
    assert pipe(str(tmp_path / "slow.wav")) == pipe({"array": resampled, "sampling_rate": 16_000})
    with pytest.raises(ValueError, match="Say how many samples a second"):
        pipe({"audio": SOUNDS[0]})


def test_a_recording_longer_than_whispers_window_is_not_cut_in_silence():
    build, parts, _ = MODELS["whisper"]
    torch.manual_seed(0)
    pipe = pipeline(TASK, model=sharpen(build()), max_new_tokens=8, **parts)
    noise = np.random.default_rng(0).normal(size=24_000).astype(np.float32)
    long, short = ({"array": noise[:count], "sampling_rate": 16_000} for count in (24_000, 16_000))
    with pytest.raises(ValueError, match=r"24,000 samples \(1\.5 seconds\); the model takes 16,000 \(1\.0\)\. Cut it"):
        pipe(long)
    answers = pipe([long, short], truncation="truncate")
    assert [answer.get("truncated") for (answer,) in answers] == [True, None]
    assert answers[0][0]["generated_text"] == answers[1][0]["generated_text"]
    assert pipe(short) == answers[1]
    with pytest.raises(ValueError, match=r"WhisperForConditionalGeneration begin with its language .*leave out target_prefix="):
        pipe(short, target_prefix="AH")


def test_a_model_without_an_encoder_is_refused():
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="has no encoder"):
        pipeline(TASK, model=decoder, tokenizer=TOKENIZER)
