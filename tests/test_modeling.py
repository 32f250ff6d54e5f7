"""What the composed models add to the contract of every class: several targets of one condition."""

from __future__ import annotations

import pytest
import torch
from specimens import build_config, build_inputs, sharpen

from hf_genext import GenextForConditionalGeneration


@pytest.mark.parametrize("kind", ["none", "pooled"])
def test_several_targets_of_a_condition_are_as_the_condition_repeated(kind):
    model = sharpen(GenextForConditionalGeneration(build_config(kind)))
    inputs = build_inputs(with_labels=False)
    labels = torch.randint(4, 37, (6, 5), generator=torch.Generator().manual_seed(5))
    labels[3, 2:] = -100
    outputs = model(**inputs, labels=labels)
    repeated = {name: tensor.repeat_interleave(2, dim=0) for name, tensor in inputs.items()}
    expected = model(**repeated, labels=labels)
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.loss, expected.loss)
    assert outputs.encoder_last_hidden_state.shape[0] == 3, "each condition is encoded once"
    gradients = []
    for loss in (outputs.loss, expected.loss):
        model.zero_grad()
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_targets_that_do_not_divide_among_the_conditions_are_refused():
    model = sharpen(GenextForConditionalGeneration(build_config("none")))
    with pytest.raises(ValueError, match="same number of targets, got 3 conditions and 4 targets"):
        model(**build_inputs(with_labels=False), labels=torch.ones(4, 2, dtype=torch.long))
