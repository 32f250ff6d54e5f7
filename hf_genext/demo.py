"""A page in the browser to try a model that `pipeline("conditional-generation")` opens.

    python -m hf_genext.demo MODEL            # a folder or a Hub id; then open http://127.0.0.1:7860

It needs Gradio: `pip install "hf_genext[demo]"`. The page is served to this machine alone, and neither it nor its browser asks
anything of the network.
"""

from __future__ import annotations

import argparse
import html
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import pipeline

from hf_genext.drawing import draw_alignment
from hf_genext.genext.configuration_heads_genext import DENSITY_KINDS
from hf_genext.pipelines import ConditionalGenerationPipeline
from hf_genext.static_embedding.modeling_static_embedding import StaticEmbeddingModel

logger = logging.getLogger(__name__)

_MISSING = "(none)"
"""What stands in a list of labels for none of them."""

_LEAST_SIDE = 192
"""Pixels of a drawn picture's longer side, about."""

_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Those that the reader has; Gradio's own themes fetch theirs."""


@dataclass
class Field:
    """Something to fill in.

    Attributes:
        name: The condition, a field of labels as `label.NAME`, or the argument of the pipeline.
        component: What it is on the page.
        read: Turns what stands in it into what the pipeline takes; `None` where nothing does.
    """

    name: str
    component: Any
    read: Callable[[Any], Any]


def build_page(pipe: ConditionalGenerationPipeline, *, title: str = "", space: StaticEmbeddingModel | None = None) -> Any:
    """The page of a pipeline.

    Args:
        pipe: The pipeline.
        title: Stands above; the name of the model if left out.
        space: A space of words, so that the vector of a word can be given by the word.

    Returns:
        A `gradio.Blocks`; its endpoint `/generate` takes what stands in the fields, in their order.

    Raises:
        ImportError: without Gradio.
    """
    gradio = _import_gradio()
    title = title or Path(pipe.model.name_or_path or type(pipe.model).__name__).name
    writes = pipe.model.can_generate()
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {html.escape(title)}\n{_describe(pipe)}")
        with gradio.Row():
            with gradio.Column():
                fields = _add_conditions(gradio, pipe, space)
                told = "Generate" if writes or _is_drawn(pipe) else "Predict"
                button = gradio.Button(told, variant="primary", elem_id="run")
                if writes:
                    fields += _add_settings(gradio, pipe)
                elif _is_drawn(pipe):
                    fields += _add_draws(gradio, pipe)
            with gradio.Column():
                outputs, show = (_add_texts if writes else _add_single)(gradio, pipe)

        def respond(*values: Any) -> Any:
            try:
                return show(_ask(pipe, fields, values))
            except Exception as error:
                # Errors of the pipeline say what is wrong and how to mend it; the page shows them as they are.
                if not isinstance(error, (ValueError, TypeError, OSError, ImportError)):
                    logger.exception("The pipeline failed.")
                message = html.escape(str(error) or type(error).__name__)
                raise gradio.Error(message, duration=None, print_exception=False) from error

        triggers = [button.click]
        triggers += [field.component.submit for field in fields if isinstance(field.component, gradio.Textbox)]
        components = [field.component for field in fields]
        gradio.on(triggers, respond, components, outputs, api_name="generate", show_progress="minimal")
    return page


def launch_page(page: Any, *, port: int = 7860, share: bool = False) -> str:
    """Serve a page to this machine, in the background.

    Args:
        page: From [`build_page`].
        port: Where; 0 takes the first from 7860 on that is free.
        share: Whether to ask Gradio's servers for a link that opens it to anybody, which needs the network.

    Returns:
        The address.

    Raises:
        OSError: if the port is taken.
    """
    gradio = _import_gradio()
    try:
        _, address, public_address = page.launch(
            server_name="127.0.0.1",
            server_port=port or None,
            share=share,
            theme=gradio.themes.Base(**_FONTS),
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            ssr_mode=False,
        )
    except OSError as error:
        raise OSError(f"Port {port} of this machine is taken; choose another, or 0 for one that is free.") from error
    return public_address or address.rstrip("/")


def main(arguments: Sequence[str] | None = None) -> None:
    """Open a model and serve its page."""
    parser = argparse.ArgumentParser(prog="python -m hf_genext.demo", description="Try a model in the browser.")
    parser.add_argument("model", help="A folder or a Hub id.")
    parser.add_argument("--port", type=int, default=7860, help="Where the page is served; 0 takes a port that is free.")
    parser.add_argument("--device", default=None, help="Where the model runs: cpu, cuda:0, ...")
    parser.add_argument("--space", help="A folder of word vectors, for models of vectors: a word then stands for its vector.")
    parser.add_argument(
        "--share",
        choices=["never", "link"],
        default="never",
        help="link: an address that opens the page to anybody, by Gradio's servers.",
    )
    options = parser.parse_args(arguments)
    try:
        _import_gradio()  # Before anything that takes time.
    except ImportError as error:
        parser.error(str(error))
    pipe = pipeline("conditional-generation", model=options.model, device=options.device)
    space = None if options.space is None else StaticEmbeddingModel.from_pretrained(options.space)
    page = build_page(pipe, space=space)
    print(
        f"Open {launch_page(page, port=options.port, share=options.share == 'link')} in a browser; Ctrl+C ends it.", flush=True
    )
    page.block_thread()


def _import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The page to try a model needs Gradio: pip install "hf_genext[demo]"') from error
    return gradio


def _describe(pipe: ConditionalGenerationPipeline) -> str:
    conditions = " and ".join(pipe.reader.list_conditions()) or "nothing"
    return f"{type(pipe.model).__name__}, {pipe.model.num_parameters() / 1e6:,.1f} million parameters, from {conditions}"


# What goes in


def _add_conditions(gradio: Any, pipe: ConditionalGenerationPipeline, space: StaticEmbeddingModel | None) -> list[Field]:
    """A field for each condition, and for each kind of label."""
    fields = []
    for name in pipe.reader.list_conditions():
        if name == "text":
            fields.append(Field(name, gradio.Textbox(label="text", elem_id="text", autofocus=True), _read_text))
        elif name == "image":
            fields.append(Field(name, gradio.Image(label="image", type="pil"), _keep))
        elif name == "audio":
            fields.append(Field(name, gradio.Audio(label="audio", type="filepath"), _keep))
        elif name == "vector":
            size = getattr(pipe.processor, "vector_size", None)
            info = f"{size} numbers" + (", or a word" if space is not None else "")
            box = gradio.Textbox(label="vector", info=info, elem_id="vector")
            fields.append(Field(name, box, lambda text: _read_vector(text, space)))
        elif name == "label":
            for kind, labels in (pipe.processor.label_names or {}).items():
                box = gradio.Dropdown([_MISSING, *labels], value=labels[0], label=kind)
                fields.append(Field(f"label.{kind}", box, lambda label: None if label == _MISSING else label))
    return fields


def _add_settings(gradio: Any, pipe: ConditionalGenerationPipeline) -> list[Field]:
    """Fields for the arguments of a call that the model can take."""
    is_bare = not pipe.reader.list_conditions()  # Then a search always finds the same, and samples are what one wants.
    fields = [
        Field("num_return_sequences", gradio.Slider(1, 10, value=4 if is_bare else 1, step=1, label="outputs"), int),
        Field("do_sample", gradio.Checkbox(value=is_bare, label="sample, instead of searching for the likeliest"), bool),
    ]
    if languages := pipe.reader.list_languages():
        for name, label in (("src_lang", "from"), ("tgt_lang", "into")):
            box = gradio.Dropdown([_MISSING, *languages], value=_MISSING, label=label)
            fields.append(Field(name, box, lambda code: None if code == _MISSING else code))
    with gradio.Accordion("More", open=False):
        fields += [
            Field("num_beams", gradio.Slider(1, 10, value=4, step=1, label="beams of a search"), int),
            Field("seed", gradio.Number(value=0, precision=0, label="seed of samples"), _keep),
            Field("temperature", gradio.Slider(0.1, 2.0, value=1.0, step=0.1, label="temperature of samples"), float),
            Field(
                "max_new_tokens",
                gradio.Number(value=0, precision=0, label="tokens at most (0: the model's)"),
                _read_limit,
            ),
            Field("target_prefix", gradio.Textbox(label="begin the output with"), _read_text),
            Field("return_alignments", gradio.Checkbox(label="show where the model looks (needs matplotlib)"), bool),
        ]
        if pipe.reader.list_conditions() == ["text"] and not hasattr(pipe.processor, "read_conditions"):
            fields.append(Field("prefix", gradio.Textbox(label="put before the text"), _read_text))
        fields += _add_guidance(gradio, pipe)
        if getattr(pipe.model.config, "reversed_start_token_id", None) is not None:
            fields.append(Field("rerank", gradio.Checkbox(label="search in both directions"), bool))
    return fields


def _is_drawn(pipe: ConditionalGenerationPipeline) -> bool:
    """Whether a model's single output is one to draw: an image, or a vector of a density."""
    return not pipe.model.can_generate() and pipe.model.config.head.kind in ("image", *DENSITY_KINDS)


def _add_draws(gradio: Any, pipe: ConditionalGenerationPipeline) -> list[Field]:
    """Fields for how single outputs are drawn."""
    fields = [
        Field("num_return_sequences", gradio.Slider(1, 20, value=5, step=1, label="outputs"), int),
        Field("seed", gradio.Number(value=0, precision=0, label="seed"), _keep),
        Field("temperature", gradio.Slider(0.1, 2.0, value=1.0, step=0.1, label="temperature"), float),
    ]
    return fields + (_add_guidance(gradio, pipe) if pipe.model.config.head.kind == "image" else [])


def _add_guidance(gradio: Any, pipe: ConditionalGenerationPipeline) -> list[Field]:
    """A field for guidance, where the model has it."""
    if not getattr(getattr(pipe.model.config, "conditioner", None), "condition_dropout", 0.0):
        return []
    slider = gradio.Slider(0.0, 5.0, value=1.0, step=0.1, label="guidance: above 1 the condition counts for more")
    return [Field("guidance_scale", slider, float)]


def _ask(pipe: ConditionalGenerationPipeline, fields: list[Field], values: Sequence[Any]) -> list[dict[str, Any]]:
    """What the pipeline answers to what stands in the fields."""
    pairs = ((field, value) for field, value in zip(fields, values, strict=True) if value is not None)
    given = {field.name: read for field, value in pairs if (read := field.read(value)) is not None}
    known = pipe.reader.list_conditions()
    condition = {name: given.pop(name) for name in known if name in given}
    labels = {name.removeprefix("label."): given.pop(name) for name in list(given) if name.startswith("label.")}
    if labels:
        condition["label"] = labels
    asked: Any = condition
    if known == ["text"]:
        asked = condition.get("text", "")
    if _is_drawn(pipe):
        if given.get("guidance_scale") == 1.0:
            del given["guidance_scale"]
        return pipe(asked, **given)
    if not pipe.model.can_generate():
        return pipe(asked, top_k=pipe.model.config.head.num_outputs)
    return pipe(asked, return_scores=True, **_choose_arguments(given))


def _choose_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that belong to what is done: sampling, or a search with as many beams as outputs at least."""
    arguments = dict(given)
    if arguments["do_sample"]:
        arguments["num_beams"] = 1
    else:
        arguments["num_beams"] = max(arguments["num_beams"], arguments["num_return_sequences"])
        arguments = {name: value for name, value in arguments.items() if name not in ("seed", "temperature")}
    if not arguments.get("rerank"):
        arguments.pop("rerank", None)
    if arguments.get("guidance_scale") == 1.0:
        del arguments["guidance_scale"]
    return arguments


def _keep(value: Any) -> Any:
    return value


def _read_limit(number: int) -> int | None:
    return number or None


def _read_text(text: str) -> str | None:
    return text if text.strip() else None


def _read_vector(text: str, space: StaticEmbeddingModel | None) -> Any:
    """Numbers, parted by commas or white space or as a list in JSON; else a word of the space."""
    text = text.strip()
    if not text:
        return None
    if space is not None and text in space:
        return space[text]
    try:
        return json.loads(text) if text.startswith("[") else [float(number) for number in re.split(r"[,\s]+", text)]
    except ValueError as error:
        what = "numbers" if space is None else "numbers, or a word of the space"
        raise ValueError(f"A vector must be {what}, got {text!r:.80}.") from error


# What comes out


def _add_texts(gradio: Any, pipe: ConditionalGenerationPipeline) -> tuple[list[Any], Callable[..., Any]]:
    """A table of outputs with their log-probabilities, and on request a picture of what the first of them comes from."""
    table = gradio.Dataframe(
        headers=["output", "score"],
        datatype=["str", "number"],
        label="outputs with their log-probabilities",
        interactive=False,
        wrap=True,
    )
    picture = gradio.Plot(show_label=False, visible=False)  # A label would stand in the picture.

    def show(answers: list[dict[str, Any]]) -> Any:
        rows = [[answer["generated_text"], round(answer["score"], 3)] for answer in answers]
        is_drawn = bool(answers) and "alignment" in answers[0]
        return rows, gradio.Plot(_draw(answers[0]) if is_drawn else None, visible=is_drawn)

    return [table, picture], show


def _draw(answer: dict[str, Any]) -> Any:
    return draw_alignment(answer, title="where the model looks for the first output")


def _add_single(gradio: Any, pipe: ConditionalGenerationPipeline) -> tuple[list[Any], Callable[..., Any]]:
    """Images, vectors a row each, classes or labels with their probabilities, or numbers with their uncertainty."""
    head = pipe.model.config.head
    if head.kind == "image":
        gallery = gradio.Gallery(label="images", columns=5, object_fit="contain", format="png", interactive=False)
        return [gallery], lambda answers: [_enlarge(answer["generated_image"]) for answer in answers]
    if head.kind in DENSITY_KINDS:
        names = head.output_names or [str(place) for place in range(head.num_outputs)]
        table = gradio.Dataframe(headers=names, label="vectors", interactive=False)

        def show_vectors(answers: list[dict[str, Any]]) -> Any:
            values = [answer["value"] for answer in answers]
            rows = [list(value.values()) if isinstance(value, dict) else value for value in values]
            return [[round(number, 4) for number in row] for row in rows]

        return [table], show_vectors
    if head.kind not in ("class", "labels"):
        columns = ["name", "value", "standard deviation"]
        table = gradio.Dataframe(headers=columns, label="prediction", interactive=False)

        def show_values(answers: list[dict[str, Any]]) -> Any:
            told = [answers[0][key] for key in ("value", "uncertainty")]
            if not isinstance(told[0], dict):
                told = [{(head.output_names or ["value"])[0]: number} for number in told]
            return [[name, *(round(numbers[name], 4) for numbers in told)] for name in told[0]]

        return [table], show_values
    names = gradio.Label(label="prediction", num_top_classes=10)

    def show_probabilities(answers: list[dict[str, Any]]) -> Any:
        if head.kind == "class":
            return {answer["label"]: answer["score"] for answer in answers}
        return answers[0]["scores"]

    return [names], show_probabilities


def _enlarge(picture: Any) -> Any:
    """A small picture as large as one can see it, its pixels as squares."""
    factor = max(1, _LEAST_SIDE // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), resample=0)


__all__ = ["Field", "build_page", "launch_page", "main"]

if __name__ == "__main__":
    main()
