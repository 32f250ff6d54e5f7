"""Muon against singular value decompositions and against torch's own optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from specimens import build_config, build_prediction
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_genext import GenextForConditionalGeneration
from hf_genext.optimizers import Muon, build_muon_groups, orthogonalize


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 48, 16), (1, 7, 5)])
def test_orthogonal_factors_are_those_of_the_singular_value_decomposition(shape):
    matrices = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices, num_steps=5)
    assert (torch.linalg.svdvals(found) - 1).abs().max() < 0.15  # What the paper bounds it by, for five steps.
    directions = left.mT @ found @ right.mT  # Diagonal, if singular vectors stay.
    assert (directions - torch.diag_embed(torch.diagonal(directions, dim1=1, dim2=2))).abs().max() < 1e-9


def test_groups_without_blocks_are_trained_as_torchs_adamw_does():
    weights = torch.randn(5, 4)
    ours, theirs = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    settings = {"betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = [Muon([{"params": [ours]}], lr=0.01, **settings), torch.optim.AdamW([theirs], lr=0.01, **settings)]
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_muon_step_is_the_orthogonal_factor_of_the_nesterov_momentum():
    weight = nn.Parameter(torch.randn(12, 8))
    before = weight.detach().clone()
    optimizer = Muon([{"params": [weight], "num_blocks": 1}], lr=0.5, momentum=0.9, weight_decay=0.1, num_steps=5)
    momentum = torch.zeros_like(before)
    for step in range(2):
        weight.grad = torch.randn(12, 8, generator=torch.Generator().manual_seed(step))
        momentum = 0.9 * momentum + 0.1 * weight.grad
        left, _, right = torch.linalg.svd(0.1 * weight.grad + 0.9 * momentum, full_matrices=False)
        expected = before * (1 - 0.5 * 0.1) - 0.5 * (12 / 8) ** 0.5 * left @ right
        optimizer.step()
        assert (weight - expected).norm() / (weight - before).norm() < 0.1
        before = weight.detach().clone()


def test_stacked_blocks_are_trained_as_if_they_stood_apart():
    whole = nn.Parameter(torch.randn(24, 8))
    parts = [nn.Parameter(block.clone()) for block in whole.detach().split(8)]
    together = Muon([{"params": [whole], "num_blocks": 3}], lr=0.1)
    apart = Muon([{"params": parts, "num_blocks": 1}], lr=0.1)
    whole.grad = torch.randn(24, 8)
    for part, gradient in zip(parts, whole.grad.split(8), strict=True):
        part.grad = gradient
    together.step()
    apart.step()
    torch.testing.assert_close(whole.detach(), torch.cat([part.detach() for part in parts]))


def test_a_transposed_matrix_is_trained_as_the_matrix_itself():
    weight = torch.randn(24, 8)
    straight, turned = nn.Parameter(weight.clone()), nn.Parameter(weight.mT.contiguous())
    gradient = torch.randn(24, 8)
    for parameter, group in ((straight, {"num_blocks": 3}), (turned, {"num_blocks": 3, "is_transposed": True})):
        parameter.grad = gradient.clone() if parameter is straight else gradient.mT.contiguous()
        Muon([{"params": [parameter], **group}], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(turned.detach().mT, straight.detach())
    assert not torch.allclose(straight.detach(), weight)


def test_gpt2s_matrices_are_under_muon_and_its_fused_projections_taken_apart():
    model = GPT2LMHeadModel(
        GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=11, n_positions=4, bos_token_id=0, eos_token_id=0)
    )
    groups = build_muon_groups(model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    under_muon = {
        names[id(parameter)].removeprefix("transformer.h.0."): (group["num_blocks"], group["is_transposed"])
        for group in groups
        if group.get("num_blocks")
        for parameter in group["params"]
    }
    one, three = (1, True), (3, True)
    weights = {"attn.c_attn": three, "attn.c_proj": one, "mlp.c_fc": one, "mlp.c_proj": one}
    assert under_muon == {f"{name}.weight": kind for name, kind in weights.items()}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_every_parameter_is_in_one_group_and_only_inner_matrices_are_under_muon():
    model = GenextForConditionalGeneration(build_config("pooled"))
    groups = build_muon_groups(model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    under_muon = {id(parameter) for group in groups if group.get("num_blocks") for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in under_muon}
    assert "decoder.embed_tokens.weight" not in names
    assert not any("norm" in name or "queries.weight" in name for name in names)
    assert any("mlp" in name for name in names)
    assert {group["weight_decay"] for group in groups if group["params"][0].dim() == 1} == {0.0}
    assert {group["num_blocks"] for group in groups if "num_blocks" in group} >= {1, 2, 3}


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_the_head_of_a_single_output_is_not_under_muon(kind):
    model = build_prediction(kind, "pooled")
    groups = build_muon_groups(model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.head.projection.weight)] == 1e-3
    assert rates[id(model.encoder.bottleneck.mlp.down_proj.weight)] == 0.02


def test_a_state_dict_goes_on_to_the_same_weights():
    def train(optimizer, weight, steps):
        for _ in range(steps):
            weight.grad = torch.cos(3 * weight.detach())
            optimizer.step()

    first = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
    optimizer = Muon([{"params": [first], "num_blocks": 1}], lr=0.1)
    train(optimizer, first, 2)
    second = nn.Parameter(first.detach().clone())
    resumed = Muon([{"params": [second], "num_blocks": 1}], lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, first, 2)
    train(resumed, second, 2)
    assert torch.equal(first, second)


def test_a_number_of_steps_without_coefficients_is_refused():
    with pytest.raises(ValueError, match="num_steps must be 1 to 5, got 6"):
        Muon([{"params": [nn.Parameter(torch.zeros(2, 2))]}], num_steps=6)
