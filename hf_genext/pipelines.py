"""`pipeline("conditional-generation")`: from a condition to what a conditional model generates from it.

Legend: batch, length (input positions), returned (outputs of each condition), target (output positions), outputs (of a single
output).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.utils import logging

from .alignments import SourceNamer, describe_alignments
from .consensus import Consensus
from .constraints import OutputTrie
from .decoding import Control, generate_with_control
from .engines.opening_engines import open_engine
from .fast_decoding import get_setting
from .genext.sampling_genext import list_neutral_settings
from .genext.seeding_genext import KeyedNoise, make_keys
from .pipeline_folders import find_allowed_outputs, needs_processor, reopen_processor, write_allowed_outputs
from .pipeline_inputs import (
    READING_ARGUMENTS,
    ConditionReader,
    Row,
    TextOptions,
    check_count,
    check_seeds,
    is_many,
    iterate_inputs,
    list_columns,
    pair_with_seeds,
    parse_truncation,
)
from .pipeline_latents import add_target, has_latents, prepare_latents
from .pipeline_outputs import (
    TargetWriter,
    cut_scores,
    keep_within,
    list_outputs,
    make_room,
    name_sample,
    name_single,
    read_sampling,
    read_single,
)
from .scoring_pipelines import ScoringPipeline
from .streaming import OutputChannel, OutputStream, StreamingObserver, StreamsClosedError

logger = logging.get_logger(__name__)

_NOTHING_DRAWN = "seed= is of what is drawn, and this call draws nothing; pass do_sample=True as well."

_CONTROL = (
    *("rerank", "return_scores", "guidance_scale", "allowed_outputs", "banned_words", "target_prefix"),
    *("return_alignments", "alignment_layer", "tgt_lang", "latent_temperature", "num_candidates"),
)
_ANSWER = ("clean_up_tokenization_spaces", "output_key")

SAMPLES_PER_BATCH = 1000
"""How many single outputs without a condition are drawn at once, where nobody says it."""


class ConditionalGenerationPipeline(ScoringPipeline):
    """Generates from a condition what a checkpoint's model gives: text with any encoder-decoder, or a single output.

    A condition is a string, or a dictionary with some of `text`, `image`, `audio` (with its `sampling_rate`), `vector` and
    `label`; several fields of labels are a dictionary themselves. Pictures and recordings may be paths, data URLs, bytes,
    arrays or opened, and need no name where a model reads nothing else; recordings are resampled to its rate. Where a model
    takes several conditions, those that are not there, or `None`, are missing, and `{}` has none at all.

    Call the pipeline with one condition, a list (a batch), a generator, a `torch` dataset or a column of a `datasets` dataset.
    A single condition and a list give their answers at once, a generator and a dataset give an iterator.

    Beside models of this package it takes every encoder-decoder in Transformers: T5, BART, Marian, NLLB, Whisper,
    VisionEncoderDecoder and others.

    Args:
        allowed_outputs: The outputs that there may be, for all calls; saved with the pipeline. Left out, those that the folder
            of the model holds, if any.
        engine: What generates: `"torch"`, or an export of the model beside it (`python -m hf_genext.export`) by `"onnx"` or
            `"ctranslate2"`. `"auto"`, the default, takes an export that is there and fits, else PyTorch, which also runs what
            an engine cannot.
        quantization: `"int8"` for an export that was made so.

    Args of a call:
        num_samples: Without any condition: how many to draw. Of a sequence model with latent numbers these are drawn, from the
            prior, and with `do_sample` the tokens too; without any the tokens are, from the model's own distribution, whatever
            settings it is saved with, but where `do_sample` or `num_beams` is given.
        batch_size: How many inputs run at once, in the order in which they come. Left out, models that are decoded fast take
            many inputs in batches of like length, read ahead by some thousands at most, and all others one by one. Sampling
            without a seed is one by one, too.
        seed: Of sampling, and of latent numbers: a number, or one for each input. A row draws the same alone, in any batch and
            on any rank, but where float32 rounds to a tie. One number for many inputs means the pair of it and the input's
            place.
        return_scores: Whether answers have `score`, the log-probability of the output in nats, and `token_scores`, that of each
            token with the one that ends it: the model's own, without temperature, penalties and constraints. Beside
            `target_prefix` they are those of what follows it.
        return_alignments: Whether answers have `alignment`, where the model looked for each token of the output, the one that
            ends it included: a dictionary with `target_tokens`, `source_tokens` (numbers where the memory has no tokens), and
            `weights`, for each target token a list with a number for each source token. Of models with cross-attention;
            `hf_genext.draw_alignment` makes a picture of it.
        alignment_layer: In which of the decoder's layers, the mean of its heads; the last but one if left out.
        allowed_outputs: Outputs to choose from: texts, as many as there are. A search stays inside them, and answers are these
            texts, also where the tokenizer writes them otherwise; of those that it writes alike the first.
        banned_words: Words that no output may have, as the tokenizer writes them at the start and behind a space.
        target_prefix: Text with which every output begins; not of Whisper.
        guidance_scale: Above 1 the condition counts for more, 0 is without it; of models trained with condition dropout.
        rerank: Whether to search in both directions and let each judge what the other found, which takes a model that was
            trained with both directions; fewer errors, at several times the cost of a search with as many beams.
        num_candidates: So many outputs are drawn of each condition, and the one that is most like the others is given, or as
            many as `num_return_sequences` says (minimum Bayes risk decoding). It often says more of the condition than what a
            search finds, and costs as much as so many beams. The same without a seed each time. Saved settings may have it;
            a call with `num_beams`, `do_sample` or `rerank`, a stream and 1 do without.
        truncation: `"truncate"` (or `True`) cuts texts and recordings that are longer than the model takes, and says
            `truncated` in the answer; `"error"` (or `False`), the default, refuses them.
        prefix: Put before each text, as T5's kind of models know their task by it.
        src_lang: Code of the language of the texts, of models that translate between several.
        tgt_lang: Code of the language to translate into.
        output_key: What `generated_text` is called in answers: `"translation_text"`, `"summary_text"`, ...
        clean_up_tokenization_spaces: As the tokenizers take it.
        top_k: Of a model that predicts a class, how many of the likeliest classes to give; 1 if left out.
        do_sample, num_return_sequences, temperature: Of a model with a single output, whether outputs are drawn from what it
            predicts, how many for each condition, and what logits are divided by, and the standard deviations of numbers
            multiplied by; 0 draws the likeliest. Where one of them, `latent_temperature`, a seed, `guidance_scale` or
            `num_samples` is given, outputs are drawn.
        latent_temperature: Of a model with latent numbers, what is in the place of `temperature` where these are drawn.
        Any argument of `generate`: `num_beams`, `num_return_sequences`, `do_sample`, `max_new_tokens`, ...

    Returns of a call: for each condition a list with one `{"generated_text": str}` for each returned sequence; of a model with
    a single output `{"label", "score"}` for each class, `{"labels", "scores"}` or `{"value", "uncertainty"}`; for each that is
    drawn `{"label"}`, `{"labels"}` or `{"value"}`.

    Example:
        >>> from hf_genext import pipeline
        >>> g2p = pipeline("conditional-generation", model="out/g2p")  # doctest: +SKIP
        >>> g2p("generative")  # doctest: +SKIP
        [{'generated_text': 'JH EH N ER AH T IH V'}]
    """

    processor: Any
    tokenizer: Any
    feature_extractor: Any
    image_processor: Any

    _load_processor = None
    _load_tokenizer = None
    _load_image_processor = None
    _load_video_processor = False
    _load_feature_extractor = None
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)
    _own_arguments = _CONTROL

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        allowed_outputs = kwargs.pop("allowed_outputs", None)
        engine, quantization = kwargs.pop("engine", "auto"), kwargs.pop("quantization", None)
        super().__init__(*args, **kwargs)
        head = getattr(self.model.config, "head", None)
        self._predicts = None if head is None or not hasattr(self.model, "head") else head.kind
        if not self.model.can_generate() and self._predicts is None:
            raise ValueError(
                f"{type(self.model).__name__} does not generate sequences. Open the folder with "
                'pipeline("conditional-generation", model=...), or pass an encoder-decoder model.'
            )
        if self._predicts is None and not self.model.config.is_encoder_decoder:
            raise ValueError(
                f'{type(self.model).__name__} has no encoder. Use pipeline("text-generation"), or join it to an encoder with '
                "GenextForConditionalGeneration.from_encoder_decoder_pretrained."
            )
        has_parts = any(part is not None for part in (self.tokenizer, self.feature_extractor, self.image_processor))
        if self.processor is None and needs_processor(self.model, has_parts):
            # Transformers passes over a processor that fails to open; here its error is the answer.
            self.processor = reopen_processor(self.model)
        if self.processor is None and not has_parts:
            raise ValueError(
                f"The pipeline has no processor for {self.model.name_or_path or type(self.model).__name__!r}. Pass "
                "processor= (or tokenizer=), or save one in the model's folder with processor.save_pretrained."
            )
        self.target_tokenizer = getattr(self.processor, "target_tokenizer", None) or self.tokenizer
        # Transformers pads batches by what it finds here.
        self.tokenizer = getattr(self.processor, "tokenizer", None) or self.tokenizer or self.target_tokenizer
        for name in ("feature_extractor", "image_processor"):
            setattr(self, name, getattr(self.processor, name, None) or getattr(self, name))
        self.target_tokenizer = self.target_tokenizer or self.tokenizer
        self._reader = ConditionReader(self.model, self.processor, self.tokenizer, self.image_processor, self.feature_extractor)
        if self.feature_extractor is None:
            self.feature_extractor = self.image_processor
        if self.tokenizer is None and self.feature_extractor is None:
            self.feature_extractor = self.processor  # Transformers builds no batches without one.
        if hasattr(self.processor, "require_fit"):
            self.processor.require_fit(self.model.config)
        self.allowed_outputs = (
            find_allowed_outputs(self.model, self.processor) if allowed_outputs is None else list_outputs(allowed_outputs)
        )
        self._writer = TargetWriter(self.model, self.processor, self.target_tokenizer)
        self._namer = SourceNamer(self.model, self.processor, self.tokenizer)
        # The pipeline is not told by which token it was opened; a processor of ours is.
        self.engine_model = open_engine(self.model, engine, quantization, getattr(self.processor, "access", {}))

    @property
    def reader(self) -> ConditionReader:
        """What reads conditions, and tells which there are."""
        return self._reader

    def _sanitize_parameters(
        self, top_k: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call by the step that takes them."""
        reading = {name: kwargs.pop(name) for name in READING_ARGUMENTS if kwargs.get(name) is not None}
        if "truncation" in reading:
            reading["truncation"] = parse_truncation(reading["truncation"])
        if not isinstance(reading.get("prefix", ""), str):
            raise TypeError(f"prefix must be a string, which is put before every text, got {reading['prefix']!r:.60}.")
        for name in ("num_beams", "num_return_sequences", "num_candidates"):
            check_count(name, kwargs.get(name))
        scoring = {name: kwargs.pop(name) for name in ("num_importance_samples",) if name in kwargs}
        if kwargs.get("latent_temperature") is not None and not has_latents(self.model):
            raise ValueError(
                f"latent_temperature is for a model with latent numbers, and this {type(self.model).__name__} has none. Leave "
                "it out; temperature is that of what is drawn."
            )
        if not self.model.can_generate():
            check_count("top_k", top_k)
            sampling = read_sampling(kwargs, type(self.model).__name__, top_k)
            return reading, {**sampling, **scoring}, {} if top_k is None else {"top_k": int(top_k)}
        if top_k is not None:
            kwargs["top_k"] = top_k
        answer = {name: kwargs.pop(name) for name in _ANSWER if kwargs.get(name) is not None}
        if "tgt_lang" in reading:
            kwargs.setdefault("forced_bos_token_id", self._reader.find_language(reading["tgt_lang"]))
            kwargs["tgt_lang"] = reading["tgt_lang"]  # Outputs that are given are written in it, too.
        if kwargs.get("alignment_layer") is not None and not kwargs.get("return_alignments"):
            raise ValueError("alignment_layer= says which alignments to give; ask for them with return_alignments=True.")
        kwargs |= Consensus.settle(kwargs)
        forward = {name: value for name, value in kwargs.items() if value is not None or name not in _CONTROL}
        return reading, {**forward, **scoring}, answer

    def __call__(
        self,
        inputs: Any = None,
        *,
        num_samples: int | None = None,
        seed: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate from one condition or from many; see the class for what is taken and given."""
        if num_samples is not None:
            if inputs is not None:
                raise ValueError(
                    "num_samples= is for rows without any condition; leave the inputs out, or give as many of them."
                )
            if not isinstance(num_samples, Integral) or isinstance(num_samples, bool) or int(num_samples) < 0:
                raise ValueError(f"num_samples must be a whole number of 0 or more, got {num_samples!r}.")
            inputs = [{} for _ in range(int(num_samples))]
            if self._predicts is None and kwargs.get("num_candidates") is None:
                kwargs["num_candidates"] = 1  # Of what is drawn nothing is to be chosen.
            elif self._predicts is None and seed is None:
                seed = int(torch.randint(2**62, (1,)))  # Each sample is another one.
            if self._predicts is None and not has_latents(self.model) and not kwargs.keys() & {"do_sample", "num_beams"}:
                asked = {"do_sample": True, **kwargs}
                kwargs = {**list_neutral_settings({**self._generate_kwargs, **asked}), **asked}
            if self._predicts is not None and kwargs.get("batch_size", self._batch_size) is None:
                kwargs["batch_size"] = SAMPLES_PER_BATCH
        inputs = list_columns(inputs)
        if self._predicts is not None and (seed is not None or num_samples is not None):
            kwargs.setdefault("do_sample", True)
        if seed is not None:
            inputs = self._give_seeds(inputs, seed)
            if self._predicts is not None and not kwargs["do_sample"]:
                raise ValueError("A seed is of what is drawn, and do_sample=False draws nothing; leave one of them out.")
            if self._predicts is None and not self.draws(**kwargs):
                logger.warning_once(_NOTHING_DRAWN)
        if isinstance(inputs, list) and not inputs:
            return []
        if is_many(inputs):
            kwargs["batch_size"] = self._choose_batch_size(is_seeded=seed is not None, **kwargs)
        return super().__call__(inputs, **kwargs)

    def _give_seeds(self, inputs: Any, seed: int | Sequence[int]) -> Any:
        seeds = check_seeds(seed, inputs)
        if not is_many(inputs):
            if isinstance(seeds, list):
                raise ValueError(f"One input takes one seed, got {seed!r:.60}.")
            return Row(inputs, seed=(seeds, 0))
        rows = pair_with_seeds(iterate_inputs(inputs), seeds)
        return list(rows) if isinstance(inputs, list) else rows

    def stream(self, inputs: Any, *, batch_size: int | None = None, **kwargs: Any) -> OutputStream | list[OutputStream]:
        """Generate, and give what is written while it is written.

        Args:
            inputs: One condition, or many, which are read at once.
            batch_size: How many inputs run at once; all if left out. What goes wrong with one of them ends those beside it.
            kwargs: As a call takes them, but for several returned sequences.

        Returns:
            An iterator over growing answers `{"generated_text", "is_final"}`, for many one of its own for each input. The
            last answer is what a call gives, with `is_final` true.
        """
        inputs = list_columns(inputs)
        inputs = list(iterate_inputs(inputs)) if is_many(inputs) else inputs
        if self._predicts is not None:
            raise ValueError(
                f"{type(self.model).__name__} predicts a single output, which is there at once: call the pipeline."
            )
        if (kwargs.get("num_candidates") or 1) > 1:
            raise ValueError("A stream shows what is written, num_candidates chooses at the end; leave one of them out.")
        if (kwargs.get("num_return_sequences") or 1) > 1:
            raise ValueError("A stream shows one output of each condition; call the pipeline for several.")
        kwargs["num_return_sequences"] = 1  # Whatever the model's defaults say.
        if not isinstance(inputs, list):
            return self._stream([inputs], batch_size, kwargs)[0]
        return self._stream(inputs, batch_size, kwargs)

    def _stream(self, inputs: list[Any], batch_size: int | None, kwargs: dict[str, Any]) -> list[OutputStream]:
        seed = kwargs.pop("seed", None)
        if seed is not None and not self.draws(**kwargs):
            logger.warning_once(_NOTHING_DRAWN)
        seeded = self._give_seeds(inputs, seed) if seed is not None else [Row(condition) for condition in inputs]
        key = kwargs.get("output_key") or "generated_text"
        streams = [OutputStream() for _ in inputs]
        for row, stream in zip(seeded, streams, strict=True):
            row.channel = OutputChannel(stream, key)
        size = (len(inputs) if batch_size is None else self._choose_batch_size(batch_size=batch_size)) or 1

        def run() -> None:
            for start in range(0, len(seeded), size):
                self._fill_channels(seeded[start : start + size], kwargs)

        if streams:
            threading.Thread(target=run, daemon=True).start()
        return streams

    def _fill_channels(self, rows: list[Row], kwargs: dict[str, Any]) -> None:
        """Answer the rows of a window into their streams; what ends it early leaves other windows alone."""
        waiting = [row.channel for row in rows]
        try:
            for answer in super().__call__((row for row in rows), batch_size=len(rows), **kwargs):
                waiting.pop(0).finish({**answer[0], "is_final": True})
        except BaseException as error:
            for channel in waiting:
                channel.finish(error)

    def preprocess(
        self,
        input_: Any,
        truncation: bool = False,
        prefix: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> dict[str, Any]:
        """One condition to the model's inputs, with a batch of one.

        Raises:
            TypeError: for anything but a string or a dictionary of conditions.
            ValueError: for a text without content, or longer than the model takes; for a condition that the model lacks.
        """
        row = input_ if isinstance(input_, Row) else Row(input_)
        prefix = getattr(self, "prefix", None) if prefix is None else prefix
        options = TextOptions(truncation, prefix or "", src_lang, tgt_lang)
        condition = row.condition
        if row.targets is not None and has_latents(self.model):
            read = functools.partial(read_single, getattr(self.model.config, "head", None))
            condition = add_target(self.model, self._reader.name(condition), row.targets[0], read)
        is_plain = row.targets is None and not prefix and src_lang is None and tgt_lang is None
        read_together = self._reader.read_texts([condition]) if is_plain else None
        if read_together is not None:
            inputs, was_cut = {name: torch.from_numpy(ids) for name, ids in read_together[0].items()}, False
        else:
            inputs, was_cut = self._reader.read(condition, options)
        row = Row(None, row.seed, row.targets, row.channel, was_cut)
        return {**inputs, "rows": [row]}

    def preprocess_many(self, inputs: Sequence[Any], **parameters: Any) -> Iterable[dict[str, Any]]:
        """What `preprocess` gives for each of some inputs; texts are read together, and are arrays."""
        rows = [given if isinstance(given, Row) else Row(given) for given in inputs]
        # Nothing is cut of what is read so, so that truncation does not matter.
        is_plain = parameters.keys() <= {"truncation"} and not getattr(self, "prefix", None)
        read = self._reader.read_texts([row.condition for row in rows]) if is_plain else None
        if read is None:
            return super().preprocess_many(rows, **parameters)
        kept = (Row(None, row.seed, row.targets, row.channel) for row in rows)
        return ({**arrays, "rows": [row]} for arrays, row in zip(read, kept, strict=True))

    def _forward(self, model_inputs: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        """Run the model on a batch: ids (batch, returned, target) and their scores, or the parameters of single outputs."""
        rows = [row for part in model_inputs.pop("rows") for row in (part if isinstance(part, list) else [part])]
        answers: dict[str, Any]
        if rows[0].targets is not None:
            answers = {"scored": self._score_targets(model_inputs, rows, **arguments)}
        elif arguments.get("do_sample") and not self.model.can_generate():
            answers = {"samples": self._sample(model_inputs, rows, arguments)}
        elif not self.model.can_generate():
            outputs = self.model(**model_inputs)
            answers = {name: outputs[name] for name in ("logits", "scale") if outputs.get(name) is not None}
        else:
            answers = self._generate(model_inputs, rows, arguments)
        return {**answers, "was_cut": torch.from_numpy(np.array([row.was_cut for row in rows], dtype=bool))}

    def _sample(self, inputs: dict[str, Any], rows: list[Row], arguments: dict[str, Any]) -> torch.Tensor:
        """Single outputs as they are drawn: (batch, returned) of classes, or (batch, returned, outputs)."""
        count, seeds = arguments.get("num_return_sequences", 1), [row.seed for row in rows if row.seed is not None]
        noise = KeyedNoise(make_keys(seeds, count).to(self.device)) if seeds else None
        drawn = self.model.sample(
            num_return_sequences=count,
            temperature=arguments.get("temperature", 1.0),
            latent_temperature=arguments.get("latent_temperature"),
            guidance_scale=arguments.get("guidance_scale"),
            noise=noise,
            **inputs,
        )
        return drawn.view(len(rows), count, *drawn.shape[1:])

    def _generate(self, inputs: dict[str, Any], rows: list[Row], arguments: dict[str, Any]) -> dict[str, Any]:
        asked = {name: arguments.pop(name) for name in _CONTROL if name in arguments}
        trie, prefix, banned = self._write_constraints(asked)
        if banned:
            # Those that the model or the pipeline is saved with stay banned.
            known = get_setting(self.model, {**self._generate_kwargs, **arguments}, "bad_words_ids")
            arguments["bad_words_ids"] = [*(known or []), *banned]
        asked_of_call = {**self._generate_kwargs, **arguments}
        is_streamed = rows[0].channel is not None
        consensus = None if is_streamed else self._find_consensus({**arguments, **asked})
        arguments = self._prepare_generate_kwargs(arguments)
        if consensus is not None:
            arguments = consensus.draw(arguments)
        if trie is not None:
            arguments = make_room(arguments, trie, asked_of_call)
        if self._num_target_positions is not None:
            most, least = self._num_target_positions - len(prefix), 1 if trie is None else trie.depth
            arguments = keep_within(self.model, arguments, asked_of_call, most, least)
        watch = None
        if is_streamed:
            decode = functools.partial(self.target_tokenizer.decode, skip_special_tokens=True)
            channels = [row.channel for row in rows]

            def watch(num_beams: int) -> StreamingObserver:
                return StreamingObserver(channels, num_beams, decode)

        num_rows = len(rows)
        # What is chosen from draws is an answer, which is the same each time.
        default = None if consensus is None else [(0, 0)] * num_rows
        seeds = default if rows[0].seed is None else [row.seed for row in rows if row.seed is not None]
        if has_latents(self.model):
            saved = None if consensus is None else consensus.temperature
            temperatures = (asked.get("latent_temperature"), asked_of_call.get("temperature"), saved)
            temperature = next((given for given in temperatures if given is not None), 1.0)
            inputs, arguments, seeds = prepare_latents(self.model, inputs, arguments, temperature, seeds)
        control = Control(
            rerank=bool(asked.get("rerank")),
            seeds=seeds,
            allowed=trie,
            guidance_scale=asked.get("guidance_scale"),
            target_prefix=prefix,
            return_scores=bool(asked.get("return_scores")),
            return_alignments=bool(asked.get("return_alignments")),
            alignment_layer=asked.get("alignment_layer"),
            watch=watch,
        )
        try:
            generated = generate_with_control(self.engine_model, inputs, arguments, control).gather(num_rows)
        except StreamsClosedError:  # Nobody reads these rows; others of their window go on.
            return {"sequences": torch.zeros(num_rows, 1, 0, dtype=torch.long)}
        if consensus is not None:
            generated = generated.select(consensus.choose(generated.sequences, self.target_tokenizer.all_special_ids))
        answers: dict[str, Any] = {"sequences": generated.sequences}
        if generated.token_scores is not None:
            answers |= {"token_scores": generated.token_scores, "is_scored": generated.is_scored}
        if generated.alignments is not None:
            names = self._namer.name(inputs, generated.alignments.shape[-1])
            # Latent numbers that are drawn repeat a row's inputs for each of its outputs.
            names = names[:: max(1, len(names) // num_rows)]
            found = (generated.sequences, generated.is_scored, generated.alignments, generated.is_real)
            answers["alignments"] = describe_alignments(*found, names, self.target_tokenizer)
        if trie is not None:
            answers["allowed"] = [
                self._writer.name_allowed(trie, row, distinct=generated.is_search) for row in generated.sequences.tolist()
            ]
        return answers

    def _write_constraints(self, asked: dict[str, Any]) -> tuple[OutputTrie | None, list[int], list[list[int]]]:
        """What outputs are kept to, in tokens: the tree of those that are allowed, what they begin with, what is banned."""
        allowed, prefix, tgt_lang = asked.get("allowed_outputs"), asked.get("target_prefix"), asked.get("tgt_lang")
        if allowed is None:
            allowed = self.allowed_outputs
        trie = None if allowed is None else self._writer.plant(allowed, tgt_lang)
        ids = [] if prefix is None else self._writer.write_known(prefix, "the target_prefix", tgt_lang)[:-1]
        if trie is not None and not trie.begins(ids):
            raise ValueError(
                f"None of the allowed outputs begins with the target_prefix {prefix!r}, as the tokenizer writes it. Leave one "
                "of them out, or give a prefix of whole words of an allowed output."
            )
        return trie, ids, self._writer.ban(asked.get("banned_words") or [])

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        clean_up_tokenization_spaces: bool | None = None,
        output_key: str = "generated_text",
        top_k: int = 1,
    ) -> list[dict[str, Any]]:
        """One condition's generated ids, (1, returned, target), to texts; or its single output, (1, outputs), to its names."""
        was_cut = {"truncated": True} if bool(model_outputs["was_cut"]) else {}
        if "scored" in model_outputs:
            # Of a batch Transformers hands on a row, of a single one the list that holds it.
            scored = model_outputs["scored"]
            return [{**found, **was_cut} for found in (scored if isinstance(scored, tuple) else scored[0])]
        if "samples" in model_outputs:
            return [{**name_sample(self.model.config.head, drawn), **was_cut} for drawn in model_outputs["samples"][0]]
        if "sequences" not in model_outputs:
            answers = name_single(self.model.config.head, model_outputs["logits"][0].float(), model_outputs.get("scale"), top_k)
            return [{**answer, **was_cut} for answer in answers]
        sequences = model_outputs["sequences"][0]
        texts = self.target_tokenizer.batch_decode(
            sequences, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        answers = [{output_key: text, **was_cut} for text in texts]
        if "token_scores" in model_outputs:
            for answer, found in zip(
                answers, cut_scores(model_outputs["token_scores"][0], model_outputs["is_scored"][0]), strict=True
            ):
                answer |= {"score": sum(found), "token_scores": found}
        if "alignments" in model_outputs:
            # As `scored`, a row of a batch or the list that holds a single one.
            found = model_outputs["alignments"]
            for answer, alignment in zip(answers, found if isinstance(found, tuple) else found[0], strict=True):
                answer["alignment"] = alignment
        if "allowed" in model_outputs:
            # As they were given, whatever the tokenizer makes of them; beams that found no output of their own are none.
            found = model_outputs["allowed"]
            named = zip(answers, found if isinstance(found, tuple) else found[0], strict=True)
            answers = [{**answer, output_key: text} for answer, text in named if text is not None]
        return answers

    def postprocess_many(self, outputs: Mapping[str, Any], count: int, **parameters: Any) -> list[Any]:
        """What `postprocess` gives for each condition of a batch; texts that nothing goes with are decoded together."""
        if set(outputs) != {"sequences", "was_cut"} or bool(outputs["was_cut"].any()):
            return super().postprocess_many(outputs, count, **parameters)
        sequences = outputs["sequences"]
        together = {"sequences": sequences.flatten(0, 1)[None], "was_cut": outputs["was_cut"][:1]}
        answers, returned = self.postprocess(together, **parameters), sequences.shape[1]
        return [answers[place * returned : (place + 1) * returned] for place in range(count)]

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
        parts: tuple[Any, ...] = (self.processor,)
        if self.processor is None:
            parts = (self.tokenizer, self.image_processor, self.feature_extractor)
        for part in parts:
            if part is not None:
                part.save_pretrained(save_directory)
        write_allowed_outputs(save_directory, self.allowed_outputs)
        if pushes:
            self.push_to_hub(hub_kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **hub_kwargs)


__all__ = ["ConditionalGenerationPipeline"]
