"""Encoders as folders of sentence-transformers: the same vectors, whatever the bottleneck, and still a Genext model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from specimens import build_config, build_processor, sharpen
from transformers import AutoModel, AutoProcessor

from hf_genext import GenextConfig, GenextModel

TEXTS = ["violin", "a", "cats", "it"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["none", "pooled"])
def test_sentence_transformers_gives_the_vectors_of_the_encoder(kind, normalize, tmp_path):
    processor = build_processor()
    model = sharpen(GenextModel(build_config(kind))).eval()
    model.save_sentence_transformer(tmp_path, processor, normalize=normalize)
    opened = SentenceTransformer(str(tmp_path), device="cpu")
    vectors = opened.encode(TEXTS, batch_size=3)
    with torch.no_grad():
        expected = [model.embed(**processor(text=[text], return_tensors="pt"), normalize=normalize) for text in TEXTS]
    np.testing.assert_allclose(vectors, torch.cat(expected).numpy(), atol=5e-6)
    assert np.ptp(vectors, axis=0).max() > 1e-3
    assert opened.get_embedding_dimension() == model.config.hidden_size
    again = AutoModel.from_pretrained(tmp_path)
    inputs = AutoProcessor.from_pretrained(tmp_path)(text=TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(again.embed(**inputs, normalize=normalize).numpy(), vectors, atol=5e-6)


def test_a_model_that_reads_no_text_is_refused(tmp_path):
    conditioner = {"model_type": "genext_vector_conditioner", "vector_size": 8}
    model = GenextModel(GenextConfig(conditioner=conditioner))
    with pytest.raises(ValueError, match="reads condition_vectors"):
        model.save_sentence_transformer(tmp_path, build_processor())
    assert not any(tmp_path.iterdir())
