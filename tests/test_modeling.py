"""What the composed models add to the contract of every class: several targets of one condition; and the head of tokens."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from specimens import build_config, build_inputs, sharpen

from hf_genext import GenextForConditionalGeneration
from hf_genext.genext.heads_genext import TokenHead, compute_token_loss


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


def test_the_token_head_scores_and_draws_what_the_loss_is_of():
    torch.manual_seed(3)
    head = TokenHead(8, 5).double()
    states, tokens = torch.randn(2, 3, 8, dtype=torch.float64), torch.randint(5, (2, 3))
    assert torch.allclose(-head.log_prob(states, tokens).mean(), compute_token_loss(head(states), tokens), rtol=0, atol=1e-12)
    drawn = head.sample(states[:, :1].expand(2, 20_000, 8), torch.Generator().manual_seed(3))
    for row, probabilities in zip(drawn, head(states[:, 0]).softmax(dim=-1), strict=True):
        counts = torch.bincount(row, minlength=5).numpy()
        assert chisquare(counts, 20_000 * probabilities.detach().numpy()).pvalue > 1e-3
