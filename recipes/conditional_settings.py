"""The settings of conditional models: what to train, on what, and how to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recipes.arguments import NameOrFields


@dataclass
class ModelSettings:
    """What to train."""

    model: str | None = field(default=None, metadata={"help": "A folder or Hub id to go on from; else a new model."})
    source_unit: str = field(default="character", metadata={"help": "Source tokens: character, word or subword."})
    target_unit: str = field(default="word", metadata={"help": "Target tokens: character, word or subword."})
    lowercase_source: bool = field(default=False, metadata={"help": "Fold the case of the source."})
    lowercase_target: bool = field(default=False, metadata={"help": "Fold the case of the target."})
    vocab_size: int = field(default=30_000, metadata={"help": "The most tokens on either side."})
    max_source_length: int = field(default=512, metadata={"help": "The longest source in tokens, the end token included."})
    max_target_length: int = field(default=512, metadata={"help": "The longest target in tokens, the end token included."})
    conditioner: dict | None = field(default=None, metadata={"help": "Fields of a text conditioner from scratch."})
    encoder: NameOrFields | None = field(
        default=None,
        metadata={
            "help": "A folder, a Hub id, package:NAME/FOLDER, or fields of a configuration; of several conditions one for "
            "each, by its name.",
        },
    )
    image_processor: NameOrFields | None = field(
        default=None,
        metadata={"help": "Fields in which it differs from the encoder's own, or a folder or Hub id."},
    )
    feature_extractor: NameOrFields | None = field(default=None, metadata={"help": "Likewise, of recordings."})
    bottleneck: NameOrFields | None = field(
        default=None, metadata={"help": "none, pooled, linear, or fields of the bottleneck's configuration."}
    )
    num_latents: int | None = field(default=None, metadata={"help": "Slots of a pooled memory."})
    decoder: NameOrFields | None = field(
        default=None,
        metadata={"help": "A folder, a Hub id or fields of the decoder's configuration."},
    )
    cross_attention: bool | None = field(
        default=None, metadata={"help": "Whether a language model reads the memory by cross-attention; else where it can."}
    )
    head: dict | None = field(
        default=None,
        metadata={"help": "A single output instead of a decoder: kind class, labels, regression, mixture or flow, and fields."},
    )
    generative: dict | None = field(
        default=None,
        metadata={
            "help": "Beside a head of kind class: fields of a generative half (head, bottleneck, ...) of the vector condition, "
            "by which rows whose target is empty are learned from, too."
        },
    )
    calibrate: bool = field(
        default=False, metadata={"help": "After training, fit the probabilities of a head to the validation rows."}
    )
    choose_threshold: bool = field(
        default=False,
        metadata={"help": "After training, choose on the validation rows from which probability on a label is predicted."},
    )
    freeze_encoder: bool | None = field(
        default=None, metadata={"help": "Keep pretrained encoders as they are; left out, as the model to go on from has it."}
    )
    cache_states: bool = field(
        default=False, metadata={"help": "Run frozen encoders once over all rows, and keep their states on disk."}
    )
    tune_encoder_from_layer: int | None = field(default=None, metadata={"help": "Tune pretrained encoders from this layer on."})
    condition_dropout: float | None = field(
        default=None, metadata={"help": "In training, the share of rows in which a condition is taken away."}
    )
    lora: dict | None = field(default=None, metadata={"help": "Train a low-rank adapter: fields of PEFT's LoraConfig."})
    both_directions: bool = field(
        default=False,
        metadata={"help": "Learn every target also from its end to its start, for reranking."},
    )
    tie_word_embeddings: bool | None = field(
        default=None,
        metadata={"help": "Share decoder embedding and token head; left out, as a trained decoder has it, else yes."},
    )
    generation: dict | None = field(
        default=None,
        metadata={
            "help": "Defaults of generation, such as num_beams, that the finished model is scored and saved with; evaluations "
            "during training do without."
        },
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "eager, sdpa, flex_attention, ..."})
    needs: dict | None = field(
        default=None, metadata={"help": "Folders of other recipes' models, and the command that makes each."}
    )
    make_missing: bool = field(default=False, metadata={"help": "Run those commands where a folder is missing."})


@dataclass
class DataSettings:
    """What to train and score on."""

    data_script: str | None = field(default=None, metadata={"help": "A script beside the settings file that brings the data."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "A file, a `datasets` source, or two text files (source and target)."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "As train_file; else a part of it."})
    test_file: list[str] | None = field(
        default=None, metadata={"help": "As train_file: what the finished model is scored on; else the validation rows."}
    )
    validation_size: float = field(
        default=0.02, metadata={"help": "Sources for validation: a number of them (>= 1) or a share."}
    )
    validation_seed: int = field(default=0, metadata={"help": "Which sources: fixed, so that runs compare."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a `datasets` source."})
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a `datasets` source."})
    conditions: dict | None = field(
        default=None,
        metadata={
            "help": "Columns of the conditions, where there is more than a text: {text | vector | label | image | audio: "
            "column, list of columns, {column:, space: folder of word vectors} or {column:, sampling_rate: of bare samples}}."
        },
    )
    source_column: str = field(default="source", metadata={"help": "Column of the condition, where it is a text."})
    target_column: str = field(default="target", metadata={"help": "Column of the output."})
    target_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of several numbers, of a regression or a density."}
    )
    column_names: list[str] | None = field(default=None, metadata={"help": "Names for a file without a header."})
    too_long: str = field(default="error", metadata={"help": "Rows longer than the model: error, truncate or drop."})
    unknown_target: str = field(
        default="error", metadata={"help": "Targets with a token that the vocabulary lacks: error, keep or drop."}
    )
    unknown_label: str = field(
        default="error",
        metadata={"help": "Conditions with a label that no row to train on has: error, or missing, which reads it as none."},
    )
    unreadable: str = field(
        default="error", metadata={"help": "Rows whose picture or recording cannot be opened: error or drop."}
    )
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Names of metrics of generated texts, given texts or outputs."}
    )
    metrics_script: str | None = field(
        default=None,
        metadata={"help": "A script beside the settings file whose build_metrics() gives more metrics of generated texts."},
    )


@dataclass
class RunSettings:
    """How to run, and what to leave behind."""

    title: str = field(default="Conditional model", metadata={"help": "Title of the model card."})
    task: str = field(default="", metadata={"help": "One line for the card: what goes in and what comes out."})
    example: str = field(default="", metadata={"help": "An input for the card's code; else the first one of the validation."})
    example_code: str = field(
        default="", metadata={"help": "Python that gives that input, where it is no text and no word of a space."}
    )
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the trained model."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    baselines: dict | None = field(
        default=None, metadata={"help": "Others' metrics, to stand beside ours: {label: {name: number}}."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one."}
    )
    max_generated: int | None = field(
        default=None,
        metadata={"help": "Conditions of the validation for which an evaluation during training generates; left out, all."},
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a rank; left out, the cores divided by the ranks."}
    )
    update_results: bool = field(default=False, metadata={"help": "Write the results into the recipe's results file."})
    results_file: str = field(
        default="results.json", metadata={"help": "That file's name; of a second settings file in a folder results_NAME.json."}
    )


def list_strings(value: Any) -> list[str]:
    """Every string in a setting, however deep."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in list_strings(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in list_strings(item)]
    return [value] if isinstance(value, str) else []


__all__ = ["DataSettings", "ModelSettings", "RunSettings", "list_strings"]
