"""Compositions under GenextTrainer: they learn, evaluate exactly, resume and reload, whatever the condition is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from composition_specimens import DECODERS, LABELS, TARGET_VOCAB, build_bert, build_numbers
from specimens import WORDS
from torch.utils.data import Dataset
from transformers import AutoModelForSeq2SeqLM, GPT2LMHeadModel, LlamaForCausalLM
from transformers.trainer_utils import set_seed

from hf_genext import (
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextProcessor,
    GenextTextConditionerConfig,
    GenextTrainer,
    GenextTrainingArguments,
    GenextVectorConditionerConfig,
    train_tokenizer,
)

compose = GenextForConditionalGeneration.from_encoder_decoder_pretrained


class VectorsAndNames(Dataset):
    """Sixteen vectors, each with a name of four tokens that only the vector tells."""

    def __init__(self) -> None:
        self.vectors = build_numbers(16, 9)
        self.names = torch.randint(4, TARGET_VOCAB, (16, 4), generator=torch.Generator().manual_seed(2))
        self.names[:, 3] = 2

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index):
        return {"condition_vectors": self.vectors[index], "labels": self.names[index]}


def train(model, folder, data=None, **arguments):
    set_seed(1)
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 5,
        "learning_rate": 1e-2,
        "max_steps": 60,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        **arguments,
    }
    data = VectorsAndNames() if data is None else data
    trainer = GenextTrainer(model=model, args=GenextTrainingArguments(**settings), train_dataset=data, eval_dataset=data)
    trainer.train()
    return trainer


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "native"])
@pytest.mark.parametrize("num_latents", [None, 2])
def test_names_are_learned_from_vectors_and_generated(decoder, num_latents, tmp_path):
    set_seed(0)
    given = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}.get(decoder, lambda config: config)(DECODERS[decoder]())
    model = compose(
        encoder=GenextVectorConditionerConfig(vector_size=9, hidden_size=24), decoder=given, num_latents=num_latents
    )
    trainer = train(model, tmp_path, max_steps=150)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] < 0.5, metrics
    data = VectorsAndNames()
    model.eval()
    with torch.no_grad():
        expected = model(condition_vectors=data.vectors, labels=data.names).loss.item()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-4), "batches of unequal size are not weighed by their tokens"
    generated = model.generate(condition_vectors=data.vectors, max_new_tokens=4)
    assert (generated[:, 1:4] == data.names[:, :3]).float().mean() > 0.9
    trainer.save_model(str(tmp_path / "saved"))
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(opened.generate(condition_vectors=data.vectors, max_new_tokens=4), generated)


def test_accumulated_steps_are_one_batch(tmp_path):
    weights = []
    for index, (batch, steps) in enumerate(((16, 1), (4, 4))):
        set_seed(0)
        model = compose(encoder=GenextVectorConditionerConfig(vector_size=9), decoder=DECODERS["native"](), num_latents=2)
        train(
            model,
            tmp_path / str(index),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=1e-3,
        )
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


class VectorsAndOutputs(VectorsAndNames):
    """Sixteen vectors with a single output each, of which some are not known."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        if kind == "class":
            self.names = torch.randint(3, (16,), generator=generator)
        elif kind == "labels":
            self.names = torch.randint(2, (16, 3), generator=generator)
        else:
            self.names = 100.0 * torch.randn(16, 2, generator=generator)
            self.names[0, 0] = -100.0  # A number like any other.
        self.names[1:6] = torch.nan if kind == "regression" else -100


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_accumulated_steps_of_single_outputs_are_one_batch_though_some_are_not_known(kind, tmp_path):
    data, weights, losses = VectorsAndOutputs(kind), [], []
    for index, (batch, steps) in enumerate(((16, 1), (4, 4))):
        set_seed(0)
        model = GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=9),
            {"kind": kind, "num_outputs": 2 if kind == "regression" else 3},
            num_latents=1,
        )
        arguments = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "max_steps": 2}
        trainer = train(model, tmp_path / str(index), data, learning_rate=1e-3, logging_steps=1, **arguments)
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        with torch.no_grad():
            whole = model.eval()(condition_vectors=data.vectors, labels=data.names).loss.item()
        trainer.prediction_metrics = lambda outputs, labels: {}
        assert trainer.evaluate()["eval_loss"] == pytest.approx(whole, rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("head", "output"),
    [
        ({"kind": "labels", "num_outputs": 4}, [1, 0, 0, 0]),
        ({"kind": "image", "output_shape": [1, 4], "num_levels": 4}, [2, 1, 0, 0]),
    ],
)
def test_zeros_at_the_end_of_a_single_output_are_no_padding(head, output, tmp_path):
    processor = GenextProcessor(tokenizer=train_tokenizer(WORDS, unit="character"))
    assert processor.target_tokenizer.pad_token_id == 0
    model = GenextForPrediction.from_encoder_pretrained(
        GenextTextConditionerConfig(vocab_size=len(processor.tokenizer), num_hidden_layers=1), head, num_latents=1
    )
    arguments = GenextTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=1)
    trainer = GenextTrainer(model=model, args=arguments, processing_class=processor)
    rows = [{"input_ids": [5, 6], "labels": np.array(output)}, {"input_ids": [7], "labels": np.array([0, 0, 0, 0])}]
    batch = trainer.data_collator(rows)
    assert batch["labels"].tolist() == [output, [0, 0, 0, 0]]
    assert model(**batch).loss.isfinite()


def test_a_single_output_is_trained_by_transformers_own_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    set_seed(0)
    model = GenextForPrediction.from_encoder_pretrained(
        {"text": build_bert(), "labels": {"model_type": "genext_label_conditioner", "label_counts": [3, 5], "hidden_size": 8}},
        {"kind": "class", "num_outputs": 3},
    )
    rows = [
        {"input_ids": torch.tensor([5, 6]), "condition_labels": LABELS[index], "labels": torch.tensor(index)}
        for index in range(3)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    assert torch.equal(model.eval()(**batch).logits.argmax(dim=-1), batch["labels"])


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "opt"])
def test_recomputing_activations_changes_no_gradient(decoder):
    from composition_specimens import TOKENS, Cell, build_labels

    gradients = []
    for checkpointing in (False, True):
        model = Cell("bert", decoder, 2).build()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for part in (model.config.decoder, model.decoder.language_model.config):
            part.dropout = part.attention_dropout = 0.0
        for module in model.modules():
            for name in ("dropout", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        model(**TOKENS, labels=build_labels()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-5, rtol=1e-4)
