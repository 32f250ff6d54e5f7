"""`pipeline("conditional-generation")`: from a condition to what a conditional model generates from it.

Legend: batch, length (input positions), target (output positions), outputs (of a single output).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoProcessor, GenerationConfig, Pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from .decoding import generate_by_agreement

_ARGUMENTS = {
    "text": "text",
    "image": "images",
    "audio": "audio",
    "vector": "condition_vectors",
    "label": "condition_labels",
    "sampling_rate": "sampling_rate",
}
"""What a condition is called in a dictionary, and by the processor."""


class ConditionalGenerationPipeline(Pipeline):
    """Generates from a condition what a checkpoint's model gives: text with any encoder-decoder, or a single output.

    A condition is a string, or a dictionary with some of `text`, `image`, `audio` (with its `sampling_rate`), `vector` and
    `label`; several fields of labels are a dictionary themselves. Where a model takes several conditions, those that are not
    there, or `None`, are missing, and `{}` has none at all.

    Call the pipeline with one condition, a list (a batch), a generator, a `torch` dataset or a column of a `datasets` dataset.
    A single condition and a list give their answers at once, a generator and a dataset give an iterator.

    Args of a call:
        num_samples: Without any condition: how many to make.
        batch_size: How many inputs run at once.
        truncation: Whether to cut inputs that are longer than the model takes; they are an error otherwise.
        clean_up_tokenization_spaces: As the tokenizers take it.
        rerank: Whether to search in both directions and let each judge what the other found, which takes a model that was
            trained with both directions; fewer errors, at several times the cost of a search with as many beams.
        top_k: Of a model that predicts a class, how many of the likeliest classes to give; 1 if left out.
        Any argument of `generate`: `num_beams`, `num_return_sequences`, `do_sample`, `max_new_tokens`, ...

    Returns of a call: for each condition a list with one `{"generated_text": str}` for each returned sequence; of a model with
    a single output `{"label", "score"}` for each class, `{"labels", "scores"}` or `{"value", "uncertainty"}`.

    Example:
        >>> import hf_genext
        >>> from transformers import pipeline
        >>> g2p = pipeline("conditional-generation", model="out/g2p")  # doctest: +SKIP
        >>> g2p("generative")  # doctest: +SKIP
        [{'generated_text': 'JH EH N ER AH T IH V'}]
    """

    processor: Any
    tokenizer: Any

    _load_processor = None
    _load_tokenizer = None
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head = getattr(self.model.config, "head", None)
        self._predicts = None if head is None or not hasattr(self.model, "head") else head.kind
        if not self.model.can_generate() and self._predicts is None:
            raise ValueError(
                f"{type(self.model).__name__} does not generate sequences. Open the folder with "
                'pipeline("conditional-generation", model=...), or pass an encoder-decoder model.'
            )
        if self.processor is None and type(self.model.config) in PROCESSOR_MAPPING:
            # Transformers passes over a processor that fails to open; here its error is the answer.
            self.processor = AutoProcessor.from_pretrained(self.model.name_or_path)
        if self.processor is None and self.tokenizer is None:
            raise ValueError(
                f"The pipeline has no processor for {self.model.name_or_path or type(self.model).__name__!r}. Pass "
                "processor= (or tokenizer=), or save one in the model's folder with processor.save_pretrained."
            )
        self.target_tokenizer = getattr(self.processor, "target_tokenizer", None) or self.tokenizer
        # Transformers pads batches by what it finds here.
        self.tokenizer = getattr(self.processor, "tokenizer", None) or self.tokenizer or self.target_tokenizer
        self.feature_extractor = getattr(self.processor, "feature_extractor", None)
        if self.feature_extractor is None:
            self.feature_extractor = getattr(self.processor, "image_processor", None)
        if self.tokenizer is None and self.feature_extractor is None:
            self.feature_extractor = self.processor  # Transformers builds no batches without one.
        if hasattr(self.processor, "require_fit"):
            self.processor.require_fit(self.model.config)

    def _sanitize_parameters(
        self,
        truncation: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        rerank: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call by the step that takes them."""
        if not self.model.can_generate():
            unknown = [name for name in generate_kwargs if name != "top_k"]
            if unknown or rerank is not None:
                raise ValueError(
                    f"{type(self.model).__name__} predicts a single output, so it takes no {(unknown or ['rerank'])[0]}. It "
                    "takes top_k, truncation and batch_size."
                )
            return {} if truncation is None else {"truncation": truncation}, {}, generate_kwargs
        preprocess_params = {} if truncation is None else {"truncation": truncation}
        postprocess_params = (
            {} if clean_up_tokenization_spaces is None else {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        )
        forward_params = generate_kwargs if rerank is None else {**generate_kwargs, "rerank": rerank}
        return preprocess_params, forward_params, postprocess_params

    def __call__(self, inputs: Any = None, *, num_samples: int | None = None, **kwargs: Any) -> Any:
        """Generate from one condition or from many; see the class for what is taken and given."""
        if num_samples is not None:
            if inputs is not None:
                raise ValueError(
                    "num_samples= is for rows without any condition; leave the inputs out, or give as many of them."
                )
            inputs = [{} for _ in range(num_samples)]
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, list)):
            inputs = list(inputs)  # A tuple, or a column of a `datasets` dataset.
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def preprocess(self, input_: Any, truncation: bool = False) -> dict[str, torch.Tensor]:
        """One condition to the model's inputs, with a batch of one.

        Raises:
            TypeError: for anything but a string or a dictionary of conditions.
            ValueError: for a text without content, or longer than the model takes; for a condition that the model lacks.
        """
        condition = {"text": input_} if isinstance(input_, str) else input_
        unknown = [name for name in condition if name not in _ARGUMENTS] if isinstance(condition, dict) else [input_]
        if unknown:
            told = (
                f"a dictionary with {unknown[0]!r}"
                if isinstance(condition, dict)
                else f"{type(input_).__name__} ({input_!r:.80})"
            )
            raise TypeError(
                f"A condition must be a string, or a dictionary with some of {', '.join(_ARGUMENTS)}; got {told}. Of a dataset "
                'pass one column, such as dataset["word"].'
            )
        condition = {name: value for name, value in condition.items() if value is not None}
        if "text" in condition:
            self._require_content(condition["text"])
        if not any(name in condition for name in _ARGUMENTS):
            return self._make_unconditional()
        arguments = {_ARGUMENTS[name]: value if name == "sampling_rate" else [value] for name, value in condition.items()}
        if self.processor is None:
            model_inputs = self.tokenizer(arguments["text"], truncation=truncation, return_tensors="pt")
        else:
            kwargs = {"truncation": truncation} if "text" in condition else {}
            model_inputs = self.processor(**self._mark_missing(arguments), return_tensors="pt", **kwargs)
        if "text" in condition:
            self._require_length(condition["text"], model_inputs["input_ids"].shape[-1])
        model_inputs.pop("token_type_ids", None)
        return dict(model_inputs)

    def _require_content(self, text: Any) -> None:
        if not isinstance(text, str):
            raise TypeError(f"A condition's text must be a string, got {type(text).__name__} ({text!r:.80}).")
        if not text.strip():
            raise ValueError(f"A condition must have some content, got {text!r}.")

    def _require_length(self, text: str, length: int) -> None:
        limit = self.tokenizer.model_max_length
        if length > limit:
            raise ValueError(
                f"The condition {text[:40]!r}... has {length} tokens; the model takes {limit}. Shorten it, or pass "
                "truncation=True."
            )

    def _mark_missing(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Say which of several conditions are missing, so that all rows of a batch have the same tensors."""
        if not hasattr(self.model.config, "conditioner") or not hasattr(self.model.config.conditioner, "conditioners"):
            return arguments
        known = set(self.processor.model_input_names)
        readable = {"text": "input_ids", "condition_vectors": "condition_vectors", "condition_labels": "condition_labels"}
        return {**{name: [None] for name, tensor in readable.items() if tensor in known}, **arguments}

    def _make_unconditional(self) -> dict[str, torch.Tensor]:
        encoder = self.model.get_encoder() if hasattr(self.model, "get_encoder") else None
        if encoder is None or not getattr(encoder, "can_be_unconditional", False):
            raise ValueError("This model needs a condition: it must be a string, or a dictionary of conditions, got none.")
        return {"condition_mask": torch.zeros(1, encoder.num_conditions, dtype=torch.long)}

    def _forward(
        self, model_inputs: dict[str, torch.Tensor], rerank: bool = False, **generate_kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Run the model on a batch: `{"sequences": (batch, returned, target)}`, or the parameters of single outputs."""
        if not self.model.can_generate():
            outputs = self.model(**model_inputs)
            return {name: outputs[name] for name in ("logits", "scale") if outputs.get(name) is not None}
        batch_size = next(iter(model_inputs.values())).shape[0]
        arguments = {**model_inputs, **self._prepare_generate_kwargs(generate_kwargs)}
        sequences = generate_by_agreement(self.model, **arguments) if rerank else self.model.generate(**arguments)
        if not torch.is_tensor(sequences):
            sequences = sequences.sequences
        return {"sequences": sequences.view(batch_size, -1, sequences.shape[-1])}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        clean_up_tokenization_spaces: bool | None = None,
        top_k: int = 1,
    ) -> list[dict[str, Any]]:
        """One condition's generated ids, (1, returned, target), to texts; or its single output, (1, outputs), to its names."""
        if "sequences" not in model_outputs:
            return self._name_outputs(model_outputs["logits"][0].float(), model_outputs.get("scale"), top_k)
        texts = self.target_tokenizer.batch_decode(
            model_outputs["sequences"][0],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        return [{"generated_text": text} for text in texts]

    def _name_outputs(self, logits: torch.Tensor, scale: torch.Tensor | None, top_k: int) -> list[dict[str, Any]]:
        names = self.model.config.head.output_names or [str(index) for index in range(len(logits))]
        if self._predicts == "class":
            scores, best = logits.softmax(dim=-1).topk(min(top_k, len(names)))
            return [
                {"label": names[index], "score": score} for index, score in zip(best.tolist(), scores.tolist(), strict=True)
            ]
        if self._predicts == "labels":
            probabilities = dict(zip(names, logits.sigmoid().tolist(), strict=True))
            return [{"labels": [name for name, score in probabilities.items() if score >= 0.5], "scores": probabilities}]
        values, widths = logits.tolist(), scale[0].tolist() if scale is not None else []
        if len(values) == 1:
            return [{"value": values[0], "uncertainty": widths[0]}]
        return [{"value": dict(zip(names, values, strict=True)), "uncertainty": dict(zip(names, widths, strict=True))}]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model and processor, so that the folder opens without remote code where the package is installed.

        Args:
            save_directory: The folder; made if it is not there.
            kwargs: As `save_pretrained` of models takes them. With `push_to_hub=True` both are pushed, and what
                `push_to_hub` takes may be among them.

        Raises:
            NotADirectoryError: if the path is a file.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"{str(save_directory)!r} is a file; give the path of a folder.")
        pushes = kwargs.pop("push_to_hub", False)
        taken = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
        hub_kwargs = {name: kwargs.pop(name) for name in taken if name in kwargs}
        self.model.save_pretrained(save_directory, **kwargs)
        (self.processor if self.processor is not None else self.tokenizer).save_pretrained(save_directory)
        if pushes:
            self.push_to_hub(hub_kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **hub_kwargs)


__all__ = ["ConditionalGenerationPipeline"]
