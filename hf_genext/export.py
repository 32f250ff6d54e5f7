"""Write a model for a faster engine: `python -m hf_genext.export out/g2p --engine onnx`.

The export stands in a subfolder of the model's folder, `onnx` or `onnx-int8` for example, where
`pipeline("conditional-generation", model=..., engine=...)` finds it, and `push_to_hub` brings it along.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, pipeline

from hf_genext.decoding import Control, generate_with_control
from hf_genext.engines.ctranslate2_exports_engines import write_ctranslate2
from hf_genext.engines.models_engines import EngineModel
from hf_genext.engines.onnx_exports_engines import write_onnx
from hf_genext.engines.opening_engines import (
    ENGINES,
    EXPORT_NAME,
    FORMAT_VERSION,
    OPENERS,
    QUANTIZATIONS,
    check_engine,
    compute_fingerprint,
    name_export,
)
from hf_genext.export_examples import build_examples
from hf_genext.pipelines import ConditionalGenerationPipeline

_VERSIONS_OF = {
    "onnx": ("hf_genext", "transformers", "torch", "onnx", "onnxruntime", "onnxscript"),
    "ctranslate2": ("hf_genext", "transformers", "torch", "ctranslate2"),
}


def export_model(
    model: str | os.PathLike[str] | ConditionalGenerationPipeline,
    out: str | os.PathLike[str] | None = None,
    engine: str = "onnx",
    quantization: str | None = None,
    samples: str | os.PathLike[str] | Iterable[Any] | None = None,
) -> Path:
    """Write a trained model for another engine.

    Args:
        model: A folder or Hub id of a model, or a pipeline.
        out: A folder for the model with its export; left out, the model's own folder, which gets the export alone.
        engine: `"onnx"` or `"ctranslate2"`.
        quantization: `"int8"` for weights of one byte, which is smaller, sooner and less exact.
        samples: Conditions as the pipeline takes them, or a file with a text in each line, on which the export is compared
            with PyTorch. How many of their outputs and tokens are the same is written into `export.json`.

    Returns:
        The export's folder.

    Raises:
        ValueError: for an engine or quantisation that is not known, or a model that has adapters or that the engine cannot run.
        OSError: if there is no such model, or no file of samples.
        ImportError: naming the extra, where a package is missing.

    Example:
        >>> from hf_genext.export import export_model
        >>> export_model("out/g2p", engine="onnx", quantization="int8", samples=["violin", "cat"])  # doctest: +SKIP
        PosixPath('out/g2p/onnx-int8')
    """
    check_engine(engine, quantization)
    if isinstance(samples, (str, os.PathLike)):
        samples = _read_samples(Path(samples))
    pipe = model if isinstance(model, ConditionalGenerationPipeline) else _open_pipeline(model)
    if any(hasattr(part, name) for part in pipe.model.modules() for name in ("base_layer", "modules_to_save")):
        raise ValueError(
            "The model has an adapter, and an export is of whole weights. Merge it first, and save the model: "
            "peft.PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(FOLDER)."
        )
    own = Path(pipe.model.name_or_path) if os.path.isdir(pipe.model.name_or_path or "") else None
    if out is None and own is None:
        raise ValueError(
            f"The model {pipe.model.name_or_path or type(pipe.model).__name__!r} is in no folder here, which the export could "
            "go into; give out= with one."
        )
    home = Path(own if out is None else out)  # type: ignore[arg-type]
    home.mkdir(parents=True, exist_ok=True)
    target = home / name_export(engine, quantization)
    # Whatever is cut off leaves the export that was there.
    with tempfile.TemporaryDirectory(dir=home, prefix=f".{target.name}-") as folder:
        written = Path(folder, target.name)
        written.mkdir()
        more = _write(pipe, written, engine, quantization)
        facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "engine": engine,
            "quantization": quantization,
            "dtype": str(pipe.model.dtype).removeprefix("torch."),
            "fingerprint": compute_fingerprint(pipe.model),
            "versions": {
                name: importlib.metadata.version(name)
                for name in _VERSIONS_OF[engine]
                if importlib.util.find_spec(name) is not None
            },
            "files": sorted(file.name for file in written.iterdir()),
            **more,
        }
        facts["agreement"] = None if samples is None else measure_agreement(pipe, OPENERS[engine](pipe.model, written), samples)
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        (written / EXPORT_NAME).write_text(text, encoding="utf-8")
        if own is None or home.resolve() != own.resolve():
            pipe.save_pretrained(home)
        if target.exists():
            target.replace(Path(folder, "before"))  # Gone with the folder.
        written.replace(target)
    return target


def measure_agreement(pipe: ConditionalGenerationPipeline, model: EngineModel, samples: Iterable[Any]) -> dict[str, Any]:
    """Compare another engine's outputs with those of PyTorch, condition by condition, as the model searches by default.

    Args:
        pipe: The pipeline with the PyTorch model.
        model: The model by the other engine.
        samples: Conditions as the pipeline takes them.

    Returns:
        `samples`, how many; `equal_outputs`, the share whose tokens are all the same; `equal_tokens`, the share of positions
        with the same token, of those of the longer of two outputs.

    Raises:
        ValueError: if there are no samples, or the engine cannot run what the model generates by default.
    """
    count = equal_outputs = equal_tokens = tokens = 0
    for sample in samples:
        inputs = pipe.preprocess(sample)
        del inputs["rows"]
        rows, model.obstacle = [], None
        for runner in (pipe.model, model):
            generated = generate_with_control(
                runner, dict(inputs), pipe._prepare_generate_kwargs({"do_sample": False}), Control()
            )
            rows.append(_strip(generated.sequences[0, 0].tolist(), pipe.model.generation_config))
        if model.obstacle is not None:
            raise ValueError(
                f"{model.title} cannot run what this model generates by default, because {model.obstacle}; there is nothing to "
                "compare. Change its generation_config, or leave samples out."
            )
        pairs = list(zip(*rows, strict=False))
        equal = sum(first == second for first, second in pairs)
        longest = max(map(len, rows))
        count, tokens, equal_tokens = count + 1, tokens + longest, equal_tokens + equal
        equal_outputs += equal == longest
    if not count:
        raise ValueError("There are no samples to compare the engines on; leave samples out, or give some.")
    return {"samples": count, "equal_outputs": equal_outputs / count, "equal_tokens": equal_tokens / tokens}


def _strip(ids: list[int], config: GenerationConfig) -> list[int]:
    """Without the start token and the padding at the end."""
    while ids and ids[-1] == config.pad_token_id:
        ids = ids[:-1]
    return ids[1:] if ids and ids[0] == config.decoder_start_token_id else ids


def _read_samples(path: Path) -> list[str]:
    """The lines of a file that have some content."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file of samples {str(path)!r} (looked from {os.getcwd()!r}). Give a file with a text in each line, "
            "or a list of conditions."
        )
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _open_pipeline(model: str | os.PathLike[str]) -> ConditionalGenerationPipeline:
    try:
        return pipeline("conditional-generation", model=str(model), engine="torch", device="cpu")
    except OSError as error:
        if os.path.isdir(model):
            raise
        raise OSError(
            f"There is no model {str(model)!r}, neither as a folder (looked from {os.getcwd()!r}) nor on the Hub: {error}"
        ) from error


def _write(pipe: ConditionalGenerationPipeline, folder: Path, engine: str, quantization: str | None) -> dict[str, Any]:
    if engine == "onnx":
        return write_onnx(pipe.model, folder, quantization, functools.partial(build_examples, pipe))
    return write_ctranslate2(pipe.model, folder, quantization)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; what the user can mend is said in one line (HF_GENEXT_TRACEBACK=1 shows where)."""
    parser = argparse.ArgumentParser(prog="python -m hf_genext.export", description="Write a model for a faster engine.")
    parser.add_argument("model", help="a folder or Hub id")
    parser.add_argument("out", nargs="?", help="a folder for the model with its export; left out, the model's own")
    parser.add_argument("--engine", choices=ENGINES, default="onnx")
    parser.add_argument("--quantization", choices=[known for known in QUANTIZATIONS if known])
    parser.add_argument("--samples", help="a file with a text in each line, on which the export is compared with PyTorch")
    given = parser.parse_args(arguments)
    try:
        folder = export_model(given.model, given.out, given.engine, given.quantization, given.samples)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if os.environ.get("HF_GENEXT_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    facts = json.loads((folder / EXPORT_NAME).read_text(encoding="utf-8"))
    print(folder)
    if facts["agreement"] is not None:
        print(json.dumps(facts["agreement"]))


if __name__ == "__main__":
    main()

__all__ = ["export_model", "main", "measure_agreement"]
