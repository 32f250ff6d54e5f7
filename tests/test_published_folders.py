"""Folders that are made ready to be pushed: their code, their cards, and what goes along."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig
from specimens import build_config, build_pipeline, build_processor
from test_hub import RESULTS
from transformers import AutoConfig, pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from hf_genext import ConditionalGenerationPipeline, GenextModel, StaticEmbeddingModel
from hf_genext.genext.modeling_genext import GenextForConditionalGeneration
from hf_genext.hub import render_model_card
from hf_genext.publishing import add_code, complete_folder, flatten_code

READER_HAS = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "transformers"}
"""What whoever has Transformers and PyTorch can import."""


def test_a_pushed_folder_opens_here_without_a_flag(tmp_path):
    pipe = build_pipeline()
    pipe.save_pretrained(tmp_path)
    add_code(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["custom_pipelines"]["conditional-generation"]["impl"] == "pipelines.ConditionalGenerationPipeline"
    opened = pipeline("conditional-generation", model=str(tmp_path), device="cpu")
    assert opened("violin") == pipe("violin")
    assert (type(opened), type(opened.model)) == (ConditionalGenerationPipeline, GenextForConditionalGeneration)
    # And saved from here it names no files that it does not have.
    opened.save_pretrained(tmp_path / "again")
    for name in ("config.json", "processor_config.json"):
        saved = json.loads((tmp_path / "again" / name).read_text())
        assert not {"auto_map", "custom_pipelines"} & set(saved)
    assert not list((tmp_path / "again").glob("*.py"))


# Code


def test_the_code_is_complete_flat_and_needs_no_more_than_a_reader_has(tmp_path):
    build_pipeline().save_pretrained(tmp_path)
    names = add_code(tmp_path)
    # What Transformers will follow is all there, from each file that it opens.
    followed = {Path(file).name for file in get_relative_import_files(tmp_path / "entry_genext.py")}
    assert followed | {"entry_genext.py"} == set(names)
    for name in names:
        compile((tmp_path / name).read_text(), name, "exec")
        needed = {module for module in get_imports(tmp_path / name) if module not in sys.stdlib_module_names}
        assert needed <= READER_HAS, name
    mapped = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert set(mapped) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
    assert json.loads((tmp_path / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_genext.GenextProcessor"
    }


def test_only_what_opens_a_folder_is_mapped(tmp_path):
    GenextModel(build_config()).save_pretrained(tmp_path / "encoder")
    StaticEmbeddingModel.from_words(["sun"], np.eye(1, 3)).save_pretrained(tmp_path / "space")
    build_processor().save_pretrained(tmp_path / "processor")
    names = {kind: add_code(tmp_path / kind) for kind in ("encoder", "space", "processor")}
    encoder, space = (json.loads((tmp_path / kind / "config.json").read_text()) for kind in ("encoder", "space"))
    assert encoder["auto_map"] == {"AutoConfig": "entry_genext.GenextConfig", "AutoModel": "entry_genext.GenextModel"}
    assert "custom_pipelines" not in encoder
    assert set(space["auto_map"]) == {"AutoConfig", "AutoModel"}
    assert "pipelines.py" not in names["encoder"]
    assert not any("static" in name for name in names["encoder"])
    assert names["space"] and all("static" in name for name in names["space"] if name != "entry_genext.py")
    assert names["processor"] == ["processing_genext.py"]


def test_a_folder_of_another_kind_is_left_alone(tmp_path):
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    assert add_code(tmp_path) == []
    assert (tmp_path / "config.json").read_text() == before


def test_files_of_all_folders_of_the_package_get_along(tmp_path, monkeypatch):
    package = tmp_path / "hf_genext"
    for folder in ("", "inner", "other"):
        (package / folder).mkdir(exist_ok=True)
        (package / folder / "__init__.py").write_text("")
    (package / "top.py").write_text(
        "from .inner.middle import (\n    value,\n)\nfrom typing import Any\n\nclass Top:\n    def read(self):\n"
        "        from hf_genext.other.low import value as low\n        return value + low\n"
    )
    (package / "inner" / "middle.py").write_text("from ..other.low import value\n")
    (package / "other" / "low.py").write_text("value = 20\n")
    (package / "other" / "loose.py").write_text("from . import low\n\nclass Loose: pass\n")
    (package / "other" / "top.py").write_text("from ..top import Top\n\nclass Top: pass\n")
    program = (
        "import json, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\nimport flattening\n"
        "from hf_genext.top import Top\n"
        "print(json.dumps(flattening.flatten_code([Top])))\n"
        "for module in ('loose', 'top'):\n"
        "    try: flattening.flatten_code([getattr(__import__('hf_genext.other.' + module, fromlist=['x']), module.title())])\n"
        "    except ValueError as error: print(error)\n"
    )
    # The functions that flatten, beside a package of the same name.
    source = Path(sys.modules[flatten_code.__module__].__file__).read_text()
    functions = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if getattr(node, "name", "") in ("flatten_code", "_find_source", "_flatten_imports")
    ]
    assert len(functions) == 3
    head = "from __future__ import annotations\nimport ast, importlib.util, re, sys\nfrom pathlib import Path\n"
    head += "_PACKAGE = 'hf_genext'\n"
    (tmp_path / "flattening.py").write_text(head + "\n".join(functions))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    flat, loose, twice = done.stdout.strip().splitlines()
    flat = json.loads(flat)
    assert sorted(flat) == ["low.py", "middle.py", "top.py"]
    assert "hf_genext" not in "".join(flat.values())
    assert "does not follow `from . import`" in loose
    assert "would be one file of a repository; rename one of them" in twice
    home = tmp_path / "flat"
    home.mkdir()
    for name, text in flat.items():
        (home / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert __import__("flat.top", fromlist=["Top"]).Top().read() == 40


# Cards and exports


def test_the_card_of_the_folder_goes_along_and_names_the_repository(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "folder"
    for place in (home, folder):
        build_pipeline().save_pretrained(place)
    pictures = {"Curve": "curve.png", "Elsewhere": "https://example.org/x.png"}
    card = render_model_card(RESULTS, title="G2P", task="t", example="cat", license="mit", pictures=pictures)
    (home / "README.md").write_text(card)
    (home / "curve.png").write_bytes(b"png")
    (home / "results.json").write_text(json.dumps(RESULTS))
    (folder / "README.md").write_text("---\ntags:\n- given\n---\n\n[More Information Needed]\n")
    complete_folder(folder, "me/g2p", home)
    pushed = ModelCard.load(folder / "README.md")
    assert 'pipeline("conditional-generation", model="me/g2p")' in pushed.text
    assert pushed.text.count("trust_remote_code=True") == 1
    assert "path/to/this/folder" not in pushed.text
    assert pushed.data.tags == ["hf_genext", "conditional-generation", "given"]
    assert {result.metric_value for result in pushed.data.eval_results} == set(RESULTS["metrics"].values())
    assert (folder / "curve.png").read_bytes() == b"png"
    assert json.loads((folder / "results.json").read_text()) == RESULTS


@pytest.mark.parametrize("change", ["training", "adapter"])
def test_what_a_card_says_of_other_weights_stays_behind(tmp_path, change, caplog, monkeypatch):
    home, folder = tmp_path / "home", tmp_path / "folder"
    build_pipeline().save_pretrained(home)
    (home / "README.md").write_text(render_model_card(RESULTS, title="G2P", task="t", example="cat", license="mit"))
    (home / "results.json").write_text(json.dumps(RESULTS))
    (home / "onnx").mkdir()
    (home / "onnx" / "encoder.onnx").write_text("of the old weights")
    model = GenextForConditionalGeneration.from_pretrained(home)
    if change == "training":
        with torch.no_grad():
            model.head.projection.weight[0, 0] += 1e-3
    else:
        model.add_adapter(LoraConfig(target_modules=["o_proj"]))
    model.save_pretrained(folder)
    monkeypatch.setattr(logging.getLogger("hf_genext"), "propagate", True)
    complete_folder(folder, "me/tuned", home)
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None
    assert "No results and no licence were given with it." in card.text
    assert not (folder / "results.json").exists()
    assert not (folder / "onnx").exists()
    assert "so its card, results and exports stay behind" in caplog.text


def test_a_card_that_somebody_wrote_stays_and_one_that_nobody_wrote_is_renewed(tmp_path):
    build_pipeline().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\nimport hf_genext\n")
    complete_folder(tmp_path, "me/g2p")
    assert ModelCard.load(tmp_path / "README.md").text.strip().splitlines() == ["# Mine", "", "import hf_genext"]
    (tmp_path / "README.md").unlink()
    complete_folder(tmp_path, "me/g2p")
    plain = ModelCard.load(tmp_path / "README.md")
    count = sum(parameter.numel() for parameter in build_pipeline().model.parameters())
    assert f"- parameters: {count:,}" in plain.text
    assert "No results and no licence were given with it." in plain.text
    assert (plain.data.license, plain.data.eval_results) == (None, None)
    complete_folder(tmp_path, "me/other")
    assert ("me/g2p" in ModelCard.load(tmp_path / "README.md").text, "me/other" in (tmp_path / "README.md").read_text()) == (
        False,
        True,
    )


def test_exports_of_the_folder_go_along_and_other_folders_stay(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "folder"
    for place in (home, folder):
        build_pipeline().save_pretrained(place)
    for name in ("ctranslate2/model.bin", "ctranslate2/config.json", "onnx/encoder.onnx", "checkpoint-5/model.safetensors"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(name)
    complete_folder(folder, "me/g2p", home)
    assert (folder / "ctranslate2" / "model.bin").read_text() == "ctranslate2/model.bin"
    assert (folder / "onnx" / "encoder.onnx").exists()
    assert not (folder / "checkpoint-5").exists()
    (home / "onnx" / "deeper").mkdir()
    with pytest.raises(ValueError, match="holds a folder, 'deeper'"):
        complete_folder(folder, "me/g2p", home)
