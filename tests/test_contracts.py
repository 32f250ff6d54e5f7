"""Runs the contract checks over a specimen of every registered class."""

from __future__ import annotations

import pytest
from contracts import (
    CONFIG_CHECKS,
    MODEL_CHECKS,
    PIPELINE_CHECKS,
    PROCESSOR_CHECKS,
    REGISTRATION_CHECKS,
    check_compiles_without_a_graph_break,
)
from specimens import CONFIG_SPECIMENS, MODEL_SPECIMENS, PHONEMES, PIPELINE_SPECIMENS, WORDS, build_processor

from hf_genext import auto

COMPILED_ALWAYS = (
    "GenextForConditionalGeneration-none",
    "GenextForConditionalGeneration-pooled",
    "GenextForConditionalGeneration-variational",
    "GenextForPrediction-class-none",
    "GenextForPrediction-flow-none",
    "GenextForPrediction-image-variational",
    "StaticEmbeddingModel-sif",
)
"""Of these the fast tests compile each part of a model once; a compilation takes twenty seconds."""

REGISTERED = [
    *auto.CONFIGS,
    *(model_class for _, _, model_class in auto.MODELS),
    *(processor_class for _, processor_class in auto.PROCESSORS),
    *(pipeline_class for _, pipeline_class, _ in auto.PIPELINES),
]


def list_model_cases():
    """Each check with each specimen."""
    for check in MODEL_CHECKS:
        for specimen in MODEL_SPECIMENS:
            is_slow = check is check_compiles_without_a_graph_break and specimen.name not in COMPILED_ALWAYS
            yield pytest.param(
                check, specimen, id=f"{check.__name__}-{specimen.name}", marks=[pytest.mark.slow] if is_slow else []
            )


@pytest.mark.parametrize(("check", "specimen"), list_model_cases())
def test_model(check, specimen):
    check(specimen)


@pytest.mark.parametrize("config", CONFIG_SPECIMENS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("check", CONFIG_CHECKS, ids=lambda check: check.__name__)
def test_config(check, config):
    check(config)


@pytest.mark.parametrize("check", PROCESSOR_CHECKS, ids=lambda check: check.__name__)
def test_processor(check):
    check(build_processor(), WORDS, PHONEMES)


@pytest.mark.parametrize("specimen", PIPELINE_SPECIMENS, ids=lambda specimen: specimen.task)
@pytest.mark.parametrize("check", PIPELINE_CHECKS, ids=lambda check: check.__name__)
def test_pipeline(check, specimen):
    check(specimen)


@pytest.mark.xdist_group("registration")
@pytest.mark.parametrize("registered", REGISTERED, ids=lambda registered: registered.__name__)
@pytest.mark.parametrize("check", REGISTRATION_CHECKS, ids=lambda check: check.__name__)
def test_registration(check, registered):
    check(registered)


def test_every_registered_class_has_a_specimen():
    assert auto.MODELS and auto.CONFIGS and auto.PROCESSORS and auto.PIPELINES
    built = {type(specimen.build()) for specimen in MODEL_SPECIMENS}
    assert {model_class for _, _, model_class in auto.MODELS} == built
    assert set(auto.CONFIGS) == {type(config) for config in CONFIG_SPECIMENS}
    assert {processor_class for _, processor_class in auto.PROCESSORS} == {type(build_processor())}
    assert {(task, pipeline_class) for task, pipeline_class, _ in auto.PIPELINES} == {
        (specimen.task, type(specimen.build())) for specimen in PIPELINE_SPECIMENS
    }
