"""Recipes with conditions of every kind, trained from settings alone, scored and opened."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from condition_specimens import write_jsonl, write_media
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTImageProcessor, ViTModel, pipeline

from hf_genext import (
    GenextForConditionalGeneration,
    GenextTrainer,
    GenextTrainingArguments,
    StaticEmbeddingModel,
    train_tokenizer,
)
from hf_genext.adapters import find_fresh_modules
from hf_genext.batching import ConditionalCollator
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.train_conditional import main as train

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_rows(count=240):
    """Rows whose gloss follows from the label and, where it is there, from the sign of a number."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        numbers = generator.normal(size=3)
        size, pos = ("big", "small")[int(numbers[0] > 0)], "nv"[index % 2]
        rows.append(
            {
                "name": f"{size} {pos}",
                "numbers": [float(number) for number in numbers],
                "pos": pos if index % 7 else None,
                "gloss": f"{size} {'thing' if pos == 'n' else 'act'}",
                "class": size,
                "set": [name for name, number in zip("xyz", numbers, strict=True) if number > 0],
                "value": float(numbers[1]),
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and pretrained parts to build from."""
    folder = tmp_path_factory.mktemp("parts")
    write_jsonl(folder / "rows.jsonl", make_rows())
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2}
    # As far from uniform as a trained one, for its output layer stays as it is under an adapter.
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer = train_tokenizer(["big small thing act"], unit="subword", vocab_size=300)
    tokenizer.save_pretrained(folder / "gpt2")
    vectors = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    StaticEmbeddingModel.from_words(["big", "small", "n", "v"], vectors, lowercase=True).save_pretrained(folder / "space")
    ViTModel(
        ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    ).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder / "vit")
    return folder


def write_settings(folder, name, **settings):
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps(
            {
                "train_file": [str(folder / "rows.jsonl")],
                "validation_size": 40,
                "target_column": "gloss",
                "output_dir": str(folder / name),
                "max_steps": 60,
                "per_device_train_batch_size": 40,
                "per_device_eval_batch_size": 7,
                "learning_rate": 0.01,
                "lr_scheduler_type": "constant",
                "save_strategy": "no",
                "report_to": "none",
                "num_threads": 1,
                "disable_tqdm": True,
                **settings,
            }
        ),
        encoding="utf-8",
    )
    return str(path)


def test_several_conditions_are_learned_scored_and_opened(folder, capsys):
    settings = write_settings(
        folder,
        "several",
        conditions={"vector": "numbers", "label": "pos"},
        encoder={"vector": {"hidden_size": 32}, "label": {"hidden_size": 16}},
        decoder=SMALL,
        num_latents=2,
        condition_dropout=0.05,
        metrics=["exact_match"],
        max_tokens_per_batch=120,
        max_steps=150,
    )
    train([settings])
    pipe = pipeline("conditional-generation", model=str(folder / "several"))
    assert pipe({"vector": [-2.0, 0.0, 0.0], "label": "n"})[0]["generated_text"] == "big thing"
    assert pipe({"vector": [2.0, 0.0, 0.0], "label": "v"})[0]["generated_text"] == "small act"
    assert pipe({"vector": [2.0, 0.0, 0.0]})[0]["generated_text"].startswith("small")
    predictions = folder / "predictions.tsv"
    arguments = ["--model", str(folder / "several"), "--test_file", str(folder / "rows.jsonl")]
    scores = evaluate([settings, *arguments, "--predictions_file", str(predictions)])
    assert scores["exact_match"] > 80
    assert len(predictions.read_text().splitlines()) == 240
    card = (folder / "several" / "README.md").read_text(encoding="utf-8")
    assert "pipe({'vector': [" in card


@pytest.mark.parametrize(
    ("kind", "column", "metrics", "deciding", "least"),
    [
        ("class", "class", None, "accuracy", 85),
        ("labels", "set", ["micro_f1"], "micro_f1", 85),
        ("regression", "value", None, "spearman", 0.8),
    ],
)
def test_single_outputs_are_learned_scored_and_opened(folder, kind, column, metrics, deciding, least, capsys):
    settings = write_settings(
        folder,
        kind,
        conditions={"vector": "numbers"},
        encoder={"hidden_size": 32},
        bottleneck={"kind": "pooled", "num_latents": 1},
        head={"kind": kind},
        target_column=column,
        metrics=metrics,
        metric_for_best_model=deciding,
    )
    train([settings])
    results = json.loads((folder / kind / "results.json").read_text())
    assert results["metrics"][deciding] > least
    scores = evaluate([settings, "--model", str(folder / kind), "--test_file", str(folder / "rows.jsonl")])
    pipe = pipeline("conditional-generation", model=str(folder / kind))
    rows = make_rows()
    answers = [answer[0] for answer in pipe([{"vector": row["numbers"]} for row in rows], batch_size=16)]
    if kind == "class":
        right = np.mean([answer["label"] == row["class"] for answer, row in zip(answers, rows, strict=True)])
        assert scores["accuracy"] == pytest.approx(100 * right)
    elif kind == "labels":
        hits = sum(len({*answer["labels"]} & {*row["set"]}) for answer, row in zip(answers, rows, strict=True))
        total = sum(len(answer["labels"]) + len(row["set"]) for answer, row in zip(answers, rows, strict=True))
        assert scores["micro_f1"] == pytest.approx(200 * hits / total)
    else:
        errors = np.array([answer["value"] - row["value"] for answer, row in zip(answers, rows, strict=True)])
        variance = np.var([row["value"] for row in rows])
        assert scores["r2"] == pytest.approx(1 - (errors**2).mean() / variance, abs=1e-4)


@pytest.mark.parametrize("lora", [None, {"r": 16, "lora_alpha": 64}])
def test_pretrained_parts_are_joined_and_trained_at_their_own_rate(folder, lora, capsys):
    name = f"joined-{'lora' if lora else 'whole'}"
    settings = write_settings(
        folder,
        name,
        validation_file=[str(folder / "rows.jsonl")],
        conditions={"text": "name"},
        encoder=str(folder / "space"),
        decoder=str(folder / "gpt2"),
        freeze_encoder=True,
        num_latents=2,
        max_target_length=12,
        pretrained_learning_rate=0.01 if lora else 0.003,
        lora=lora,
        metrics=["exact_match"],
        max_steps=250 if lora else 80,
    )
    train([settings])
    results = json.loads((folder / name / "results.json").read_text())
    assert results["metrics"]["exact_match"] > 90
    pipe = pipeline("conditional-generation", model=str(folder / name))
    assert pipe("small n")[0]["generated_text"] == "small thing"
    model = GenextForConditionalGeneration.from_pretrained(folder / name)
    space = StaticEmbeddingModel.from_pretrained(folder / "space")
    kept = model.encoder.conditioner.model.embeddings
    assert torch.equal(kept, space.embeddings), "a frozen encoder has changed"


def test_two_rates_are_those_of_fresh_and_pretrained_parts(folder, tmp_path):
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(folder / "space", folder / "gpt2", num_latents=2)
    arguments = GenextTrainingArguments(
        output_dir=str(tmp_path), learning_rate=1.0, pretrained_learning_rate=0.25, weight_decay=0.5, report_to="none"
    )
    optimizer = GenextTrainer(model=model, args=arguments, data_collator=ConditionalCollator(0)).create_optimizer()
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(named) == len(rates)
    for name, rate in named.items():
        is_fresh = "bottleneck" in name or "cross" in name or "memory_projection" in name
        assert rate == (1.0 if is_fresh else 0.25), name
    assert {0.25, 1.0} == set(named.values())
    native = GenextTrainer(
        model=GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            {"model_type": "genext_vector_conditioner", "vector_size": 2}, {"model_type": "genext_decoder"}
        ),
        args=arguments,
        data_collator=ConditionalCollator(0),
    )
    with pytest.raises(ValueError, match="no pretrained part is trained beside a fresh one"):
        native.create_optimizer()
    # Of one width, with nothing in between.
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bare = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        {"model_type": "bert", **sizes}, {"model_type": "llama", **sizes, "bos_token_id": 1, "eos_token_id": 2}
    )
    assert not find_fresh_modules(bare)
    with pytest.raises(ValueError, match="no pretrained part is trained beside a fresh one"):
        GenextTrainer(model=bare, args=arguments, data_collator=ConditionalCollator(0)).create_optimizer()


def test_pictures_are_described_from_settings_alone(folder, tmp_path, capsys):
    write_media(folder)
    rows = [{"picture": f"{index % 2}.png", "gloss": ("thing", "act")[index % 2]} for index in range(20)]
    settings = write_settings(
        folder,
        "pictures",
        train_file=[write_jsonl(folder / "pictures.jsonl", rows)],
        validation_file=[str(folder / "pictures.jsonl")],
        conditions={"image": "picture"},
        encoder=str(folder / "vit"),
        decoder=SMALL,
        metrics=["exact_match"],
        max_steps=40,
        per_device_train_batch_size=10,
    )
    train([settings])
    assert json.loads((folder / "pictures" / "results.json").read_text())["metrics"]["exact_match"] == 100
    pipe = pipeline("conditional-generation", model=str(folder / "pictures"))
    assert pipe({"image": Image.open(folder / "1.png")})[0]["generated_text"] == "act"


def test_rows_may_have_no_condition_at_all(folder, capsys):
    settings = write_settings(folder, "nothing", conditions={}, decoder=SMALL, validation_file=[str(folder / "rows.jsonl")])
    train([settings])
    pipe = pipeline("conditional-generation", model=str(folder / "nothing"))
    torch.manual_seed(0)
    texts = {answer[0]["generated_text"] for answer in pipe(num_samples=40, do_sample=True)}
    assert {"big thing", "small thing", "big act", "small act"} <= texts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": {"kind": "class"}, "decoder": SMALL}, "a decoder belongs to sequences"),
        ({"cross_attention": False}, "cross_attention chooses how a language model"),
        ({"conditioner": {}, "encoder": "x"}, "encoder and conditioner both say"),
        ({"freeze_encoder": True, "tune_encoder_from_layer": 1}, "leave one of them out"),
        ({"encoder": "somewhere/lost"}, "no model 'somewhere/lost', neither as a folder"),
        ({"decoder": "somewhere/lost"}, "no model 'somewhere/lost', neither as a folder"),
        ({"encoder": {"model_type": "brt"}}, "no model_type 'brt'"),
        ({"conditions": {"vector": {"column": "name", "space": "somewhere/lost"}}}, "no model 'somewhere/lost'"),
        ({"conditions": {"vector": "numbers"}, "encoder": "bert"}, "vector has no pretrained encoder"),
        ({"conditions": {"vector": "numbers"}, "encoder": {"vector_size": 7}}, "vector_size is 7, but the data have 3"),
        ({"conditions": {"vector": "numbers", "label": "pos"}, "encoder": "bert"}, "several conditions .vector, label."),
        ({"metrics": ["accuracy"]}, "no metric 'accuracy'"),
        ({"head": {"kind": "class"}, "target_column": "class", "metrics": ["chrf"]}, "no metric 'chrf' of a head"),
        ({"head": {"kind": "class"}, "target_column": "class", "label_smoothing_factor": 0.1}, "a head has none"),
        ({"target_columns": ["class"]}, "a regression of several numbers"),
        ({"lora": {"rank": 2}, "conditions": {"text": "name"}, "encoder": "SPACE", "decoder": "GPT2"}, "lora: .*rank"),
        ({"encoder": {"text": 3}}, "encoder: text must be a folder, a Hub id or fields, .* got 3"),
        ({"conditions": {"label": "lang"}}, r"no column 'lang' in .*\. Set conditions"),
        ({"pretrained_learning_rate": 0.1, "muon_learning_rate": 0.1}, "give one. Muon"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(folder, settings, message):
    places = {"SPACE": str(folder / "space"), "GPT2": str(folder / "gpt2")}
    settings = {name: places.get(value, value) if isinstance(value, str) else value for name, value in settings.items()}
    rows = str(folder / "rows.jsonl")
    path = write_settings(folder, "refused", **{"source_column": "name", "validation_file": [rows], **settings})
    with pytest.raises(ValueError, match=message) as error:
        train([path])
    assert "\n" not in str(error.value).split(" nor on the Hub")[0]
    assert not list((folder / "refused").glob("*.safetensors"))


def test_means_and_spreads_are_of_the_numbers_that_are_known(folder, tmp_path, capsys):
    rows = [{"w": "ab"[place % 2], "h": place if place % 3 else None, "g": 5.0 * (place % 2)} for place in range(30)]
    arguments = {"source_column": "w", "head": {"kind": "regression"}, "validation_file": [str(tmp_path / "rows.jsonl")]}
    files = {"train_file": [write_jsonl(tmp_path / "rows.jsonl", rows)], "validation_size": 1, "max_steps": 2}
    path = write_settings(folder, "partly", **arguments, **files, target_columns=["h", "g"], target_column=None)
    train([path])
    head = json.loads((folder / "partly" / "config.json").read_text())["head"]
    known = [place for place in range(30) if place % 3]
    assert head["output_means"] == pytest.approx([np.mean(known), 2.5])
    assert head["output_scales"] == pytest.approx([np.std(known), 2.5])
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "h": None} for row in rows])
    path = write_settings(folder, "unknown", **arguments, **files, target_columns=["h", "g"], target_column=None)
    with pytest.raises(ValueError, match="Number 1 of 2 of the targets is missing in every row"):
        train([path])


def test_a_model_of_another_recipe_is_named_with_its_command(folder, tmp_path):
    space = str(tmp_path / "space")
    settings = {
        "conditions": {"vector": {"column": "class", "space": space}},
        "validation_file": [str(folder / "rows.jsonl")],
        "decoder": SMALL,
        "needs": {space: "python recipes/import_vectors.py --vectors nowhere.txt"},
    }
    path = write_settings(folder, "needing", **settings)
    with pytest.raises(SettingsError, match=r"not there yet. Make it with: python recipes/import_vectors\.py"):
        train([path])
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("big 1 2 3\nsmall 3 4 -5\nhuge 1 2 2\n", encoding="utf-8")
    settings["needs"] = {space: f"python recipes/import_vectors.py --vectors {vectors} --license pddl --example big"}
    train([write_settings(folder, "needing", **settings, max_steps=2), "--make_missing", "true"])
    pipe = pipeline("conditional-generation", model=str(folder / "needing"))
    assert pipe({"vector": StaticEmbeddingModel.from_pretrained(space)["big"]})
