"""`pipeline("conditional-generation")`: from a condition to what a conditional model generates from it.

Legend: batch, length (input positions), target (output positions).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoProcessor, GenerationConfig, Pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from .decoding import generate_by_agreement


class ConditionalGenerationPipeline(Pipeline):
    """Generates text from text with any encoder-decoder.

    Call it with one string, a list (a batch), a generator, a `torch` dataset or a column of a `datasets` dataset. A single
    input and a list give their answers at once, a generator and a dataset give an iterator.

    Args of a call:
        batch_size: How many inputs run at once.
        truncation: Whether to cut inputs that are longer than the model takes; they are an error otherwise.
        clean_up_tokenization_spaces: As the tokenizers take it.
        rerank: Whether to search in both directions and let each judge what the other found, which takes a model that was
            trained with both directions; fewer errors, at several times the cost of a search with as many beams.
        Any argument of `generate`: `num_beams`, `num_return_sequences`, `do_sample`, `max_new_tokens`, ...

    Returns of a call: for each input a list with one `{"generated_text": str}` for each returned sequence.

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
        if not self.model.can_generate():
            raise ValueError(
                f"{type(self.model).__name__} does not generate sequences. Open the folder with "
                'pipeline("conditional-generation", model=...), or pass an encoder-decoder model.'
            )
        if self.processor is None and type(self.model.config) in PROCESSOR_MAPPING:
            # Transformers passes over a processor that fails to open; here its error is the answer.
            self.processor = AutoProcessor.from_pretrained(self.model.name_or_path)
            self.tokenizer = self.processor.tokenizer
        if self.processor is None and self.tokenizer is None:
            raise ValueError(
                f"The pipeline has no processor for {self.model.name_or_path or type(self.model).__name__!r}. Pass "
                "processor= (or tokenizer=), or save one in the model's folder with processor.save_pretrained."
            )
        self.target_tokenizer = getattr(self.processor, "target_tokenizer", None) or self.tokenizer

    def _sanitize_parameters(
        self,
        truncation: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        rerank: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call by the step that takes them."""
        preprocess_params = {} if truncation is None else {"truncation": truncation}
        postprocess_params = (
            {} if clean_up_tokenization_spaces is None else {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        )
        forward_params = generate_kwargs if rerank is None else {**generate_kwargs, "rerank": rerank}
        return preprocess_params, forward_params, postprocess_params

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Generate from one input or from many; see the class for what is taken and given."""
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, list)):
            inputs = list(inputs)  # A tuple, or a column of a `datasets` dataset.
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def preprocess(self, input_: Any, truncation: bool = False) -> dict[str, torch.Tensor]:
        """One text to `input_ids` and `attention_mask`, each (1, length).

        Raises:
            TypeError: for anything but a string.
            ValueError: for a text without content, or longer than the model takes.
        """
        if not isinstance(input_, str):
            raise TypeError(
                f"A condition must be a string, got {type(input_).__name__} ({input_!r:.80}). Of a dataset pass one column, "
                'such as dataset["word"].'
            )
        if not input_.strip():
            raise ValueError(f"A condition must have some content, got {input_!r}.")
        processor = self.processor if self.processor is not None else self.tokenizer
        model_inputs = processor(text=input_, truncation=truncation, return_tensors="pt")
        length, limit = model_inputs["input_ids"].shape[-1], self.tokenizer.model_max_length
        if length > limit:
            raise ValueError(
                f"The condition {input_[:40]!r}... has {length} tokens; the model takes {limit}. Shorten it, or pass "
                "truncation=True."
            )
        model_inputs.pop("token_type_ids", None)
        return dict(model_inputs)

    def _forward(
        self, model_inputs: dict[str, torch.Tensor], rerank: bool = False, **generate_kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Generate for a batch: `{"sequences": (batch, returned, target)}`."""
        batch_size = model_inputs["input_ids"].shape[0]
        arguments = {**model_inputs, **self._prepare_generate_kwargs(generate_kwargs)}
        sequences = generate_by_agreement(self.model, **arguments) if rerank else self.model.generate(**arguments)
        if not torch.is_tensor(sequences):
            sequences = sequences.sequences
        return {"sequences": sequences.view(batch_size, -1, sequences.shape[-1])}

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], clean_up_tokenization_spaces: bool | None = None
    ) -> list[dict[str, str]]:
        """One input's generated ids, (1, returned, target), to texts."""
        texts = self.target_tokenizer.batch_decode(
            model_outputs["sequences"][0],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        return [{"generated_text": text} for text in texts]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model and processor, so that the folder opens without remote code where the package is installed.

        Args:
            save_directory: The folder; made if it is not there.
            kwargs: As `save_pretrained` of models takes them.

        Raises:
            NotADirectoryError: if the path is a file.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"{str(save_directory)!r} is a file; give the path of a folder.")
        self.model.save_pretrained(save_directory, **kwargs)
        (self.processor if self.processor is not None else self.tokenizer).save_pretrained(save_directory)


__all__ = ["ConditionalGenerationPipeline"]
