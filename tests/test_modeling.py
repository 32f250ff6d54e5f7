"""What the composed models add to the contract of every class: several targets of one condition; and the head of tokens."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from scipy.stats import chisquare
from specimens import build_config, build_inputs, sharpen

from hf_genext import GenextDecoderConfig, GenextForConditionalGeneration
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


def test_dropped_tokens_change_nothing_in_training_and_all_are_read_otherwise():
    config = build_config("pooled")
    config.decoder.token_dropout = 0.4
    model = sharpen(GenextForConditionalGeneration(config)).train()
    inputs = {**build_inputs(with_labels=False), "use_cache": False}
    tokens = torch.randint(4, 37, (3, 40), generator=torch.Generator().manual_seed(5))
    embedded = []
    model.get_decoder().dropout.register_forward_pre_hook(lambda module, values: embedded.append(values[0]))

    def run(tokens: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(11)
        return model(**inputs, decoder_input_ids=tokens).logits

    logits = run(tokens)
    dropped = (embedded[0] == 0).all(dim=-1)
    assert not dropped[:, 0].any()
    assert 0.3 < dropped[:, 1:].double().mean() < 0.5
    torch.testing.assert_close(run(torch.where(dropped, 3 + tokens % 30, tokens)), logits, rtol=0, atol=0)
    seen = torch.where(~dropped & (torch.arange(40) == 20), 3 + tokens % 30, tokens)
    assert not torch.equal(run(seen), logits)
    model.eval()
    run(tokens)
    torch.testing.assert_close(embedded[-1], model.get_decoder().embed_tokens(tokens), rtol=0, atol=0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_dropped_tokens_that_is_none_is_refused(share):
    with pytest.raises(StrictDataclassClassValidationError, match="token_dropout must be at least 0 and below 1"):
        GenextDecoderConfig(token_dropout=share)
