"""The quantised bottleneck: a code out of a codebook for each slot, and a prior of the codes.

Van den Oord et al. 2017, "Neural discrete representation learning": the code nearest to what is read of the target, with the
gradient passed straight through; the codebook is the running mean of what its codes stand for (their appendix A.1). The prior,
which is what new codes are drawn from, is an ordinary token decoder that writes codes. It learns beside the rest, to which it
gives no gradient, so that it ends as a second training of its own would.

Legend: batch, length (states), slots (of the memory, each with a code), hidden, codes (of the codebook), size (numbers of a
code), samples (drawn for each row).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import EncoderDecoderCache

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .configuration_genext import GenextDecoderConfig
from .latent_bottlenecks_genext import LatentBottleneck
from .native_decoders_genext import GenextDecoder
from .noise_genext import choose_outcomes, find_places
from .outputs_genext import BottleneckOutput, CodeOutput, ConditionerOutput
from .pooled_genext import PooledBottleneck
from .pretrained_genext import GenextPreTrainedModel
from .seeding_genext import draw_normal

_DEAD_SHARE = 0.1
"""A code that stands for less than this share of an even number of states is given up."""


class Codebook(GenextPreTrainedModel):
    """Vectors that states are replaced with, each the running mean of the states that it replaces.

    What a step of training has met is kept, and moves the codes when the next one begins, which is told by watched weights
    that have changed: so accumulated batches count as one. A code that next to nothing is replaced with is drawn anew around
    one that is used, chosen by how often, as far from it as states are from their codes.

    Args:
        config: The bottleneck's configuration.
    """

    config_class = GenextBottleneckConfig
    vectors: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    met_counts: torch.Tensor
    met_sums: torch.Tensor
    met_error: torch.Tensor
    watched: torch.Tensor
    num_moves: torch.Tensor

    def __init__(self, config: GenextBottleneckConfig) -> None:
        super().__init__(config)
        shape = (config.num_codes, config.latent_size)
        for name, size in (("vectors", shape), ("sums", shape), ("met_sums", shape)):
            self.register_buffer(name, torch.zeros(size))
        for name in ("counts", "met_counts"):
            self.register_buffer(name, torch.zeros(config.num_codes))
        self.register_buffer("met_error", torch.zeros(()))
        self.register_buffer("watched", torch.zeros(config.latent_size))
        self.register_buffer("num_moves", torch.zeros((), dtype=torch.long))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.normal_(self.vectors, std=0.6)
            for name in ("counts", "sums", "met_counts", "met_sums", "met_error", "watched", "num_moves"):
                init.zeros_(getattr(self, name))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move, but keep float32 at least: means that run in less precision stand still, or overflow."""
        before = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype in (torch.float32, torch.float64)}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, buffer.to(device=moved.device) if moved.device != buffer.device else buffer)
        return self

    def find(self, states: torch.Tensor) -> torch.Tensor:
        """The nearest code of each state: (..., size) -> (...)."""
        # In full precision, and around a common middle, so that nothing cancels.
        with torch.autocast(device_type=states.device.type, enabled=False):
            middle = self.vectors.mean(dim=0)
            vectors = self.vectors - middle
            flat = states.reshape(-1, states.shape[-1]).to(vectors.dtype) - middle
            distances = vectors.square().sum(dim=1) - 2.0 * flat @ vectors.T
            return distances.argmin(dim=1).view(states.shape[:-1])

    @torch.no_grad()
    def meet(self, states: torch.Tensor, codes: torch.Tensor, is_encoded: torch.Tensor) -> None:
        """Keep in mind what a step replaces with codes, on all ranks.

        Args:
            states: (batch, slots, size).
            codes: (batch, slots).
            is_encoded: Which rows count, (batch,).
        """
        states, codes = states.flatten(0, 1).to(self.vectors.dtype), codes.flatten()
        # A step whose numbers overflow is passed over, and so is what it has met.
        counts = is_encoded[:, None].expand(len(is_encoded), len(codes) // len(is_encoded)).flatten()
        counts = counts & states.isfinite().all(dim=1)
        weights, states = counts.to(self.vectors.dtype), states.masked_fill(~counts[:, None], 0.0)
        met_counts, met_sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        met_counts.index_add_(0, codes, weights)
        met_sums.index_add_(0, codes, states * weights[:, None])
        met_error = ((states - self.vectors[codes]).square().sum(dim=1) * weights).sum()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for met in (met_counts, met_sums, met_error):
                torch.distributed.all_reduce(met)
        self.met_counts += met_counts
        self.met_sums += met_sums
        self.met_error += met_error

    @torch.no_grad()
    def move(self, watched: torch.Tensor) -> None:
        """Let the codes follow what a step has met, if that step is over.

        Args:
            watched: Weights that each step changes, (size,).
        """
        is_over, decay = (watched.to(self.watched.dtype) != self.watched).any(), self.config.code_decay
        counts = decay * self.counts + (1.0 - decay) * self.met_counts
        sums = decay * self.sums + (1.0 - decay) * self.met_sums
        vectors = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1e-12)[:, None], self.vectors)

        even = counts.mean()
        is_dead = counts < _DEAD_SHARE * even
        places = (is_dead.cumsum(dim=0) - 0.5) / is_dead.sum().clamp(min=1)
        shares = torch.where(is_dead, 0.0, counts).cumsum(dim=0)
        shares = shares / shares[-1].clamp(min=1e-12)
        donors = torch.searchsorted(shares, places).clamp(max=len(counts) - 1)
        # Opened in half precision, the codebook's whole numbers are in float32 too.
        keys = torch.arange(len(counts), device=counts.device) + len(counts) * self.num_moves.long()
        spread = (self.met_error / (self.met_counts.sum() * self.config.latent_size).clamp(min=1.0)).sqrt()
        anew = vectors[donors] + spread * draw_normal(keys, self.config.latent_size).to(vectors.dtype)
        vectors = torch.where(is_dead[:, None], anew, vectors)
        counts = torch.where(is_dead, 2.0 * _DEAD_SHARE * even, counts)
        sums = torch.where(is_dead[:, None], vectors * counts[:, None], sums)

        for old, new in ((self.vectors, vectors), (self.counts, counts), (self.sums, sums)):
            old.copy_(torch.where(is_over, new, old))
        for met in (self.met_counts, self.met_sums, self.met_error):
            met.copy_(torch.where(is_over, torch.zeros_like(met), met))
        self.num_moves += is_over
        self.watched.copy_(watched)


class CodePrior(GenextPreTrainedModel):
    """The distribution of a row's codes, one after the other: an ordinary native decoder over them.

    Args:
        config: The bottleneck's configuration.
        states_size: Width of the states of the conditions that it reads, where there are any.
    """

    config_class = GenextBottleneckConfig

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config)
        hidden_size = config.hidden_size or states_size
        heads: int = config.num_attention_heads or 1
        fitting = max(count for count in range(1, heads + 1) if hidden_size % (2 * count) == 0)
        decoder = GenextDecoderConfig(
            vocab_size=config.num_codes + 1,
            hidden_size=hidden_size,
            intermediate_size=config.intermediate_size or 3 * hidden_size,
            num_hidden_layers=config.num_prior_layers,
            num_attention_heads=fitting,
            cross_attention_hidden_size=states_size,
            max_position_embeddings=config.num_latents,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            hidden_act=config.hidden_act,
            rms_norm_eps=config.rms_norm_eps,
            use_qk_norm=config.use_qk_norm,
            initializer_range=config.initializer_range,
            pad_token_id=None,
            bos_token_id=config.num_codes,
            eos_token_id=None,
        )
        decoder._attn_implementation = config._attn_implementation
        self.writer = GenextDecoder(decoder)
        self.projection = nn.Linear(hidden_size, config.num_codes, bias=False)
        # Without conditions the places of the codes are all that there is to read.
        has_context = config.posterior_conditions is not None
        self.places = None if has_context else nn.Embedding(config.num_latents, states_size)
        self.post_init()

    def forward(
        self,
        codes: torch.Tensor,
        context: torch.Tensor | None,
        context_mask: torch.Tensor | None,
        cache: EncoderDecoderCache | None = None,
    ) -> tuple[torch.Tensor, EncoderDecoderCache | None]:
        """Logits of the codes that follow: (batch, seen) from the start on -> (batch, seen, codes), and a cache."""
        if context is None and self.places is not None:
            context = self.places.weight.expand(len(codes), -1, -1)
        if self.writer.config._attn_implementation != self.config._attn_implementation:
            self.writer.config._attn_implementation = self.config._attn_implementation
        outputs = self.writer(
            input_ids=codes, memory=context, memory_mask=context_mask, past_key_values=cache, use_cache=not self.training
        )
        logits = self.projection(outputs.last_hidden_state)
        return logits if logits.dtype == torch.float64 else logits.float(), outputs.past_key_values

    def score(self, codes: torch.Tensor, context: torch.Tensor | None, context_mask: torch.Tensor | None) -> torch.Tensor:
        """The log-probability in nats of each code, given those before it: (batch, slots) -> (batch, slots)."""
        seen = torch.cat([torch.full_like(codes[:, :1], self.config.num_codes), codes[:, :-1]], dim=1)
        logits, _ = self(seen, None if context is None else context.detach(), context_mask)
        return logits.log_softmax(dim=-1).gather(-1, codes[..., None])[..., 0]

    @torch.no_grad()
    def draw(
        self, batch_size: int, context: torch.Tensor | None, context_mask: torch.Tensor | None, noise: torch.Tensor | None
    ) -> torch.Tensor:
        """Codes, (batch, slots): those that noise (batch, slots + 1) decides, or without it always the likeliest next one."""
        device = self.projection.weight.device
        codes = torch.full((batch_size, 1), self.config.num_codes, device=device)
        cache = None
        for slot in range(self.config.num_latents):
            logits, cache = self(codes if cache is None else codes[:, -1:], context, context_mask, cache)
            chosen = logits[:, -1].argmax(dim=-1) if noise is None else _choose(logits[:, -1], noise[:, slot], noise[:, -1])
            codes = torch.cat([codes, chosen[:, None]], dim=1)
        return codes[:, 1:]


class QuantizedBottleneck(LatentBottleneck):
    """Replaces what it reads of the target with codes, or where there is no target draws codes from their prior.

    Args:
        config: Its configuration, with `posterior_conditions` as the encoder has them.
        states_size: Width of the conditioner's states.
    """

    is_certain = True

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config, states_size)
        hidden_size = config.hidden_size or states_size
        self.num_units = config.num_latents
        self.pool = PooledBottleneck(config, states_size)
        self.code_projection = nn.Linear(hidden_size, config.latent_size)
        self.codebook = Codebook(config)
        self.prior = CodePrior(config, states_size)
        self.slots = nn.Embedding(config.num_latents, hidden_size)
        self.vectors_projection = nn.Linear(config.latent_size, hidden_size, bias=False)
        self.add_mlp(states_size)
        self.post_init()

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """A code for each slot."""
        return (self.config.num_latents,)

    def shape_noise(self, noise: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Standard normal numbers with the temperature in the place of the last: (rows, slots + 1) -> the same."""
        return torch.cat([noise[:, :-1], torch.full_like(noise[:, -1:], temperature)], dim=1)

    def forward(
        self,
        condition: ConditionerOutput,
        batch_size: int,
        noise: torch.Tensor | None = None,
        sample: bool | None = None,
        is_encoded: torch.Tensor | None = None,
    ) -> BottleneckOutput:
        """Read codes of the target or draw them, and make the memory of them.

        Args:
            condition: See [`LatentBottleneck.forward`], as all that follows.
            batch_size: Rows.
            noise: (batch, slots + 1), a normal number for each slot, and the temperature.
            sample: `False` takes of rows without a target always the likeliest next code.
            is_encoded: Which rows have a target, (batch,).

        Returns:
            The memory; as parts of the loss `code_prior`, minus the log-probability of the codes, which is learned by the prior
            alone, and in training `commitment`, the squared distance of what was read from its codes times its weight.
        """
        context, device = self.split_context(condition), self.slots.weight.device
        latents = CodeOutput(context=context.states, context_mask=context.mask)
        if condition.states is None:
            latents.is_encoded = torch.zeros(batch_size, dtype=torch.bool, device=device)
            latents.values = torch.zeros(batch_size, self.num_units, dtype=torch.long, device=device)
            latents.kl = torch.zeros(batch_size, self.num_units, device=device)
            latents.values = self.draw(latents, noise, sample)
            memory, mask = self.write(latents.values, latents)
            return BottleneckOutput(memory=memory, memory_mask=mask, losses={"code_prior": latents.kl.sum(1)}, latents=latents)
        read = self.code_projection(self.pool(condition.states, condition.mask).memory)
        if self.training:
            self.codebook.move(self.code_projection.bias)
        encoded = context.is_encoded if is_encoded is None else is_encoded
        latents.is_encoded = torch.ones(batch_size, dtype=torch.bool, device=device) if encoded is None else encoded
        latents.values = self.codebook.find(read.detach())
        rows = latents.is_encoded[:, None]
        latents.kl = -self.prior.score(latents.values, context.states, context.mask) * rows
        losses = {"code_prior": latents.kl.sum(dim=1)}
        codes = self.codebook.vectors[latents.values].to(read.dtype)
        if self.training:
            distances = (read - codes).square().sum(dim=-1) * rows
            losses["commitment"] = self.config.commitment_weight * distances.sum(dim=1)
            self.codebook.meet(read.detach(), latents.values, latents.is_encoded)
        vectors = codes + (read - read.detach())
        if encoded is not None:
            latents.values = self.draw(latents, noise, sample)
            vectors = torch.where(rows[..., None], vectors, self.codebook.vectors[latents.values].to(read.dtype))
        memory, mask = self.build_memory(self.vectors_projection(vectors), latents)
        return BottleneckOutput(memory=memory, memory_mask=mask, losses=losses, latents=latents)

    def write(self, values: torch.Tensor, latents: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The memory of codes: (batch * samples, slots) -> see [`LatentBottleneck.write`]."""
        vectors = self.codebook.vectors[values].to(self.vectors_projection.weight.dtype)
        return self.build_memory(self.vectors_projection(vectors), latents)

    def draw(self, latents: Any, noise: torch.Tensor | None = None, sample: bool | None = None) -> torch.Tensor:
        """The target's codes, which leave nothing to draw, and the prior's where a row has no target: (batch, slots)."""
        rows = latents.is_encoded
        if not torch.compiler.is_compiling() and rows.all():
            return latents.values
        if sample is False:
            noise = None
        elif noise is None:
            noise = self.shape_noise(torch.randn(len(rows), self.num_noise, device=rows.device))
        drawn = self.prior.draw(len(rows), latents.context, latents.context_mask, noise)
        return torch.where(rows[:, None], latents.values, drawn)

    def compute_log_ratio(self, values: torch.Tensor, latents: Any) -> torch.Tensor:
        """The log-probability of the codes: (samples, batch, slots) -> (samples, batch)."""
        return -latents.kl.sum(dim=1).expand(len(values), -1)


def _choose(logits: torch.Tensor, noise: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The codes where normal noise falls among the probabilities: (batch, codes), (batch,), (batch,) -> (batch,)."""
    warmth = temperature.to(logits.dtype).clamp(min=torch.finfo(torch.float32).tiny)
    drawn = choose_outcomes(logits / warmth[:, None], find_places(noise))
    return torch.where(temperature > 0, drawn, logits.argmax(dim=-1))


__all__ = ["CodePrior", "Codebook", "QuantizedBottleneck"]
