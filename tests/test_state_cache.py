"""States of a frozen encoder on disk: the same training, the encoder asked once, and whatever changes is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessor, ViTModel
from transformers.trainer_utils import set_seed

from hf_genext import GenextForConditionalGeneration, GenextProcessor, GenextTrainer, GenextTrainingArguments, train_tokenizer
from hf_genext.batching import ConditionalCollator, EncodedPairs
from hf_genext.conditions import encode_rows, parse_condition_columns, read_rows
from hf_genext.state_cache import cache_states
from recipes.train_conditional import main as train

LETTERS = "abcdefgh"
DECODER = {
    "model_type": "genext_decoder",
    "vocab_size": 20,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


def build_rows(count=60):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, count)
    sources = [generator.integers(4, 20, length).tolist() for length in lengths]
    return EncodedPairs(sources, [[*source[::-1], 2] for source in sources])


def build_model(*, frozen=True, **arguments):
    set_seed(0)
    encoder = BertModel(
        BertConfig(vocab_size=20, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2)
    )
    return GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder, dict(DECODER), freeze_encoder=frozen, **arguments
    )


def run_training(model, rows, folder):
    set_seed(1)
    arguments = GenextTrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        max_tokens_per_batch=60,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GenextTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=ConditionalCollator(0)
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("num_latents", [None, 3])
def test_losses_are_those_without_the_cache_and_the_encoder_runs_once(tmp_path, num_latents, monkeypatch):
    rows = build_rows()
    expected, expected_evaluation = run_training(build_model(num_latents=num_latents), rows, tmp_path / "plain")
    model = build_model(num_latents=num_latents)
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path / "states", batch_size=7)
    assert len(cached) == len(rows)
    monkeypatch.setattr(BertModel, "forward", lambda *args, **kwargs: pytest.fail("the encoder ran again"))
    losses, evaluation = run_training(model, cached, tmp_path / "cached")
    assert losses[0] - losses[-1] > 0.1, "nothing was learned"
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    assert evaluation == pytest.approx(expected_evaluation, rel=2e-5)


def test_states_are_those_of_each_row_alone_and_are_not_in_memory(tmp_path):
    rows, model = build_rows(), build_model()
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path, batch_size=16)
    for index in (0, 17, 59):
        with torch.no_grad():
            alone = model.encode(input_ids=torch.tensor(rows[index]["input_ids"][None].astype(np.int64)))[0]
        row = cached[index]
        np.testing.assert_allclose(row["condition_states"], alone.numpy(), atol=1e-5)
        assert row["condition_states_mask"].tolist() == [1] * len(alone)
        assert row["labels"].tolist() == rows[index]["labels"].tolist()
        assert not row["condition_states"].flags.owndata
    assert sum(len(values) for values in cached._values) == 16 * rows.lengths[:, 0].sum()


def test_a_changed_encoder_and_changed_rows_are_noticed_and_unchanged_ones_found(tmp_path, monkeypatch):
    rows, model = build_rows(), build_model()
    first = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(BertModel, "forward", lambda *args, **kwargs: pytest.fail("the encoder ran again"))
        again = cache_states(build_model(), build_rows(), ConditionalCollator(0), folder=tmp_path)
    assert again.path == first.path
    with torch.no_grad():
        model.encoder.conditioner.model.encoder.layer[1].output.dense.bias[3] += 1e-3
    changed = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    assert changed.path != first.path
    assert np.abs(changed[5]["condition_states"] - first[5]["condition_states"]).max() > 1e-5
    other = cache_states(build_model(), build_rows(59), ConditionalCollator(0), folder=tmp_path)
    assert other.path not in (first.path, changed.path)
    assert len(list(tmp_path.glob("*"))) == 3, "nothing unfinished is left"


def test_pictures_are_read_once_and_a_changed_one_is_noticed(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"p": f"{i}.png", "t": "x"}) + "\n" for i in range(3)))
    processor = GenextProcessor(
        target_tokenizer=train_tokenizer(["x"], unit="word"), image_processor=ViTImageProcessor(size={"height": 8, "width": 8})
    )
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)), dict(DECODER), freeze_encoder=True
    )

    def read():
        rows, _ = read_rows(tmp_path / "rows.jsonl", parse_condition_columns({"image": "p"}), target_columns=["t"])
        return encode_rows(rows, processor, max_source_length=9, max_target_length=9)[0]

    cached = cache_states(model, read(), ConditionalCollator(0), processor=processor, folder=tmp_path / "states")
    batch = ConditionalCollator(0)([read()[index] for index in range(3)])
    with torch.no_grad():
        plain = model(**batch).loss
        (tmp_path / "1.png").rename(tmp_path / "gone.png")
        kept = model(**ConditionalCollator(0)([cached[index] for index in range(3)])).loss
    assert kept.item() == pytest.approx(plain.item(), rel=1e-5)
    (tmp_path / "2.png").rename(tmp_path / "1.png")
    (tmp_path / "gone.png").rename(tmp_path / "2.png")
    assert (
        cache_states(model, read(), ConditionalCollator(0), processor=processor, folder=tmp_path / "states").path != cached.path
    )


def test_what_cannot_be_kept_is_refused(tmp_path):
    for model in (build_model(frozen=False), build_model(condition_dropout=0.1)):
        with pytest.raises(ValueError, match="one frozen pretrained encoder"):
            cache_states(model, build_rows(), ConditionalCollator(0), folder=tmp_path)
    model = build_model()
    with pytest.raises(ValueError, match=r"\(batch, length, 16\), got the shape \(1, 2, 3\)"):
        model(condition_states=torch.zeros(1, 2, 3), labels=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="given twice, as condition_states and as input_ids"):
        model(
            condition_states=torch.zeros(1, 2, 16),
            input_ids=torch.ones(1, 2, dtype=torch.long),
            labels=torch.ones(1, 2, dtype=torch.long),
        )


def test_a_recipe_gives_the_same_losses_with_and_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    set_seed(0)
    tokenizer = train_tokenizer(LETTERS, unit="character")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list(LETTERS), generator.integers(2, 7))) for _ in range(120)]
    (tmp_path / "rows.tsv").write_text("source\ttarget\n" + "".join(f"{w}\t{' '.join(w[::-1])}\n" for w in words))
    losses = {}
    for cached in ("false", "true"):
        settings = {
            "train_file": [str(tmp_path / "rows.tsv")],
            "validation_size": 10,
            "encoder": str(tmp_path / "bert"),
            "freeze_encoder": True,
            "decoder": sizes,
            "output_dir": str(tmp_path / cached),
            "max_steps": 12,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 6,
            "metrics": ["exact_match"],
            "max_tokens_per_batch": 80,
            "learning_rate": 0.01,
            "report_to": "none",
            "num_threads": 1,
        }
        path = tmp_path / f"{cached}.json"
        path.write_text(json.dumps(settings))
        train([str(path), "--cache_states", cached])
        history = json.loads((tmp_path / cached / "trainer_state.json").read_text())["log_history"]
        losses[cached] = [
            entry[name] for entry in history for name in ("loss", "eval_loss", "eval_exact_match") if name in entry
        ]
    assert len(losses["true"]) == 16
    np.testing.assert_allclose(losses["true"], losses["false"], rtol=2e-5)
    assert len(list((tmp_path / "cache" / "genext_states").glob("*.arrow"))) == 2
