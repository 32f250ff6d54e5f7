"""States of a frozen encoder on disk: the same training, the encoder asked once, and whatever changes is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessor, ViTModel
from transformers.trainer_utils import set_seed

from hf_genext import (
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextProcessor,
    GenextTrainer,
    GenextTrainingArguments,
    train_tokenizer,
)
from hf_genext.batching import ConditionalCollator, EncodedPairs, EncodedRows
from hf_genext.conditions import parse_condition_columns, read_rows
from hf_genext.encoding import encode_rows
from hf_genext.state_cache import cache_states, refuse_trained_encoders
from recipes.train_conditional import main as train

LETTERS = "abcdefgh"
DECODER = {
    "model_type": "genext_decoder",
    "vocab_size": 20,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


def build_rows(count=60, longest=8):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, count)
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
    """The losses of the steps, and of the evaluation after them."""
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
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [*losses, trainer.evaluate()["eval_loss"]]


@pytest.mark.parametrize("num_latents", [None, 3])
def test_losses_are_those_without_the_cache_and_the_encoder_runs_once(tmp_path, num_latents, monkeypatch):
    rows = build_rows()
    expected = run_training(build_model(num_latents=num_latents), rows, tmp_path / "plain")
    model = build_model(num_latents=num_latents)
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path / "states", batch_size=7)
    assert len(cached) == len(rows)
    monkeypatch.setattr(BertModel, "forward", lambda *args, **kwargs: pytest.fail("the encoder ran again"))
    losses = run_training(model, cached, tmp_path / "cached")
    assert losses[0] - losses[-2] > 0.1, "nothing was learned"
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_states_differ_from_those_of_padded_batches_by_rounding_alone(tmp_path, dtype, tolerance):
    rows, model = build_rows(longest=70), build_model().to(dtype)
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path, batch_size=16)
    assert cached[0]["condition_states"].dtype == np.dtype(str(dtype).removeprefix("torch."))
    batch = ConditionalCollator(0)([rows[index] for index in range(60)])
    kept = ConditionalCollator(0)([cached[index] for index in range(60)])
    with torch.no_grad():
        padded = model.encode(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert torch.equal(kept["condition_states_mask"], batch["attention_mask"])
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(kept["condition_states"][real], padded[real], atol=tolerance, rtol=0)
    assert not kept["condition_states"][~real].any()
    whole = [index for index in range(60) if rows.lengths[index, 0] == rows.lengths[0, 0]]
    assert "condition_states_mask" not in ConditionalCollator(0)([cached[index] for index in whole])


VIT = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def build_fused(*, dropout=0.3, head=None):
    """Text and pictures by frozen encoders, and labels, whose embeddings are trained."""
    set_seed(0)
    parts = {
        "text": BertModel(
            BertConfig(vocab_size=20, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2)
        ),
        "image": ViTModel(ViTConfig(**VIT, image_size=8, patch_size=4)),
        "label": {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 8},
    }
    if head is not None:
        return GenextForPrediction.from_encoder_pretrained(parts, head, freeze_encoder=True, condition_dropout=dropout)
    return GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        parts, dict(DECODER), num_latents=2, freeze_encoder=True, condition_dropout=dropout
    )


def build_fused_rows(outputs=None):
    """Rows of which some lack the text, some the picture, and the first twenty any picture, as whole batches then do."""
    rows, generator = build_rows(), np.random.default_rng(1)
    sources = [[] if index % 5 == 3 else rows[index]["input_ids"].tolist() for index in range(60)]
    pixels = generator.normal(size=(60, 3, 8, 8)).astype(np.float32)
    pixels[[*range(20), 31, 47]] = np.nan
    conditions = {"input_ids": sources, "pixel_values": pixels, "condition_labels": generator.integers(-1, 3, (60, 1))}
    return EncodedRows(conditions, [row["labels"].tolist() for row in rows] if outputs is None else outputs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_of_several_conditions_the_frozen_ones_are_kept_and_the_others_run(tmp_path, dropout, monkeypatch):
    rows = build_fused_rows()
    expected = run_training(build_fused(dropout=dropout), rows, tmp_path / "plain")
    model = build_fused(dropout=dropout)
    before = model.encoder.conditioner.conditioners["label"].state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path / "states", batch_size=7)
    assert list(cached.files) == ["text", "image"]
    row = cached[3]
    assert {name: len(states) for name, states in row["condition_states"].items()} == {"text": 0, "image": 0}
    assert row.keys() == {"condition_states", "condition_labels", "labels"}
    for encoder in (BertModel, ViTModel):
        monkeypatch.setattr(encoder, "forward", lambda *args, **kwargs: pytest.fail("an encoder ran again"))
    losses = run_training(model, cached, tmp_path / "cached")
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    after = model.encoder.conditioner.conditioners["label"].state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items()), "the labels were not trained"


def test_condition_dropout_takes_kept_states_away_too(tmp_path):
    rows, model = build_fused_rows(), build_fused(dropout=0.5)
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    batch = ConditionalCollator(0)([cached[index] for index in range(40, 60)])
    batch.pop("condition_labels")
    states = model.eval().encoder.conditioner(**{name: value for name, value in batch.items() if name != "labels"}).states
    set_seed(3)
    dropped = model.train().encoder.conditioner(**{name: value for name, value in batch.items() if name != "labels"}).states
    changed = (states != dropped).any(dim=(1, 2))
    assert 4 < changed.sum() < 20
    alone = build_model(condition_dropout=0.5)  # One condition that may be missing.
    kept = cache_states(alone, build_rows(), ConditionalCollator(0), folder=tmp_path)
    assert list(kept[0]["condition_states"]) == list(alone.encoder.conditioner.conditioners)
    expected = run_training(build_model(condition_dropout=0.5), build_rows(), tmp_path / "plain")
    assert run_training(alone, kept, tmp_path / "kept") == pytest.approx(expected, rel=1e-6)


def test_single_outputs_are_trained_on_kept_states(tmp_path):
    rows = build_fused_rows(np.arange(60) % 3)
    model = build_fused(head={"kind": "class", "num_outputs": 3})
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path / "states")
    expected = run_training(build_fused(head={"kind": "class", "num_outputs": 3}), rows, tmp_path / "plain")
    assert run_training(model, cached, tmp_path / "cached") == pytest.approx(expected, rel=1e-6)


def test_each_encoder_has_a_file_of_its_own(tmp_path):
    """Other labels, or another picture encoder, leave the states of the texts as they are."""
    first = cache_states(build_fused(), build_fused_rows(), ConditionalCollator(0), folder=tmp_path)
    rows, model = build_fused_rows(), build_fused()
    rows._arrays["condition_labels"][5] = 1 - rows._arrays["condition_labels"][5]
    with torch.no_grad():
        next(model.encoder.conditioner.conditioners["image"].model.parameters()).add_(1.0)
    second = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    assert second.files["text"].path == first.files["text"].path
    assert second.files["image"].path != first.files["image"].path
    mixed = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path, autocast=torch.bfloat16)
    assert mixed.files["text"].path != first.files["text"].path
    difference = np.abs(mixed[0]["condition_states"]["text"] - first[0]["condition_states"]["text"]).max()
    assert 1e-4 < difference < 0.1, "the states of mixed precision"


def test_states_are__those_of_each_row_alone_and_are_not_in_memory(tmp_path):
    rows, model = build_rows(), build_model()
    cached = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path, batch_size=16)
    for index in (0, 17, 59):
        with torch.no_grad():
            alone = model.encode(input_ids=torch.tensor(rows[index]["input_ids"][None].astype(np.int64)))[0]
        row = cached[index]
        np.testing.assert_allclose(row["condition_states"], alone.numpy(), atol=1e-5)
        assert row["labels"].tolist() == rows[index]["labels"].tolist()
        assert not row["condition_states"].flags.owndata
    assert cached.files.count_numbers() == 16 * rows.lengths[:, 0].sum()


def test_a_changed_encoder_and_changed_rows_are_noticed_and_unchanged_ones_found(tmp_path, monkeypatch):
    rows, model = build_rows(), build_model()
    first = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(BertModel, "forward", lambda *args, **kwargs: pytest.fail("the encoder ran again"))
        again = cache_states(build_model(), build_rows(), ConditionalCollator(0), folder=tmp_path)
    assert again.files.path == first.files.path
    with torch.no_grad():
        model.encoder.conditioner.model.encoder.layer[1].output.dense.bias[3] += 1e-3
    changed = cache_states(model, rows, ConditionalCollator(0), folder=tmp_path)
    assert changed.files.path != first.files.path
    assert np.abs(changed[5]["condition_states"] - first[5]["condition_states"]).max() > 1e-5
    other = cache_states(build_model(), build_rows(59), ConditionalCollator(0), folder=tmp_path)
    assert other.files.path not in (first.files.path, changed.files.path)
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
        cache_states(model, read(), ConditionalCollator(0), processor=processor, folder=tmp_path / "states").files.path
        != cached.files.path
    )


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"This model has none \(it reads the condition by BertModel\)"):
        cache_states(build_model(frozen=False), build_rows(), ConditionalCollator(0), folder=tmp_path)
    adapted = build_model()
    refuse_trained_encoders(adapted)
    adapted.encoder.conditioner.model.encoder.layer[1].output.dense.bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"output\.dense\.bias of BertModel is trained, but its states are kept"):
        refuse_trained_encoders(adapted)
    labels = torch.ones(1, 2, dtype=torch.long)
    states, fused = torch.zeros(1, 2, 16), build_fused()
    for given, message in (
        ({"txt": states}, "no condition 'txt' to have states; known are text, image, label"),
        ({"image": states}, r"\(batch, length, 12\), got the shape \(1, 2, 16\)"),
        (states, "dictionary with those of some of them; got Tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fused(condition_states=given, labels=labels)
    with pytest.raises(ValueError, match="'text' is given twice, as condition_states and as input_ids"):
        fused(condition_states={"text": states}, input_ids=labels, labels=labels)
    model = build_model()
    with pytest.raises(TypeError, match="one condition, whose states are a tensor"):
        model(condition_states={"text": states}, labels=labels)
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
    np.testing.assert_allclose(losses["true"], losses["false"], rtol=1e-6)
    assert len(list((tmp_path / "cache" / "genext_states").glob("*.arrow"))) == 2
