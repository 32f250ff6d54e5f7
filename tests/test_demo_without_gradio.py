"""The page to try a model, where Gradio is not installed."""

from __future__ import annotations

import sys

import pytest
from specimens import build_pipeline

from hf_genext import demo


def test_what_is_missing_is_said_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'pip install "hf_genext\[demo\]"'):
        demo.build_page(build_pipeline())
    with pytest.raises(SystemExit):
        demo.main(["no/such/model"])
    assert 'The page to try a model needs Gradio: pip install "hf_genext[demo]"' in capsys.readouterr().err
