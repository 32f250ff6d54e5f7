"""Registration: once, twice, beside another plugin, at the wrong door, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from specimens import build_config, build_processor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
)

from hf_genext import GenextForConditionalGeneration, GenextModel, auto


def run_python(program):
    """What a fresh interpreter prints for a program."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout.strip(), done.stderr


def test_importing_twice_and_registering_again_is_harmless():
    code, output, error = run_python(
        "import importlib, sys\n"
        "import hf_genext\n"
        "hf_genext.auto.register()\n"
        "for name in [name for name in sys.modules if name.startswith('hf_genext')]: del sys.modules[name]\n"
        "import hf_genext\n"
        "from transformers import AutoConfig, AutoModelForSeq2SeqLM\n"
        "model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model('genext'))\n"
        "print(type(model) is hf_genext.GenextForConditionalGeneration)\n"
    )
    assert (code, output) == (0, "True"), error


@pytest.mark.parametrize(
    ("taking", "name"),
    [
        (
            "from transformers import AutoConfig, PreTrainedConfig\n"
            "class Theirs(PreTrainedConfig): model_type = 'genext'\n"
            "AutoConfig.register('genext', Theirs)\n",
            "genext",
        ),
        (
            "from transformers import AutoModelForSeq2SeqLM, Pipeline\n"
            "from transformers.pipelines import PIPELINE_REGISTRY\n"
            "class Theirs(Pipeline): pass\n"
            "PIPELINE_REGISTRY.register_pipeline('conditional-generation', Theirs, pt_model=AutoModelForSeq2SeqLM)\n",
            "conditional-generation",
        ),
    ],
)
def test_a_name_that_another_plugin_has_taken_is_named(taking, name):
    code, _, error = run_python(f"{taking}import hf_genext\n")
    assert code == 1
    assert f"cannot register {name!r}: __main__.Theirs has taken the name" in error.splitlines()[-1]


@pytest.mark.parametrize("door", [AutoModelForCausalLM, AutoModelForTokenClassification])
def test_the_wrong_door_names_the_right_one(door, tmp_path):
    GenextForConditionalGeneration(build_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"GenextForConditionalGeneration, which .*Use AutoModelForSeq2SeqLM\.from_pretrained"):
        door.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Use one of: AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification"):
        door.from_config(build_config())


def test_an_encoder_is_not_opened_with_a_random_decoder(tmp_path):
    GenextModel(build_config()).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is GenextModel
    with pytest.raises(ValueError, match=r"holds a GenextModel.*Open it with AutoModel\.from_pretrained"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_every_registered_class_is_public_and_opens_through_its_door():
    assert auto.CONFIGS
    for config_class in auto.CONFIGS:
        assert type(AutoConfig.for_model(config_class.model_type)) is config_class
    for auto_class, config_class, model_class in auto.MODELS:
        assert auto_class._model_mapping[config_class] is model_class


def test_a_folder_of_an_unregistered_kind_is_left_to_transformers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_nobody"}))
    with pytest.raises(ValueError, match="of_nobody"):
        AutoModel.from_pretrained(tmp_path)


def test_one_import_registers_and_brings_the_pipeline_without_trainer_and_datasets(tmp_path):
    GenextForConditionalGeneration(build_config()).save_pretrained(tmp_path)
    build_processor().save_pretrained(tmp_path)
    code, output, error = run_python(
        "import sys\n"
        "from transformers import pipeline as theirs\n"
        "before = set(sys.modules)\n"
        "from hf_genext import pipeline\n"
        "assert pipeline is theirs\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} & "
        "{'datasets', 'evaluate', 'gradio', 'peft', 'sklearn', 'matplotlib', 'pandas', 'pyarrow'}), "
        "'transformers.trainer' in set(sys.modules) - before)\n"
        f"print(type(pipeline('conditional-generation', model={str(tmp_path)!r})).__name__)\n"
    )
    assert (code, output.splitlines()) == (0, ["[] False", "ConditionalGenerationPipeline"]), error
