"""What tiny models of other people's classes have in common: a tokenizer, its ids, and sizes."""

from __future__ import annotations

from specimens import PHONEMES, WORDS

from hf_genext import train_tokenizer

TOKENIZER = train_tokenizer(WORDS + PHONEMES, unit="character", model_max_length=64)
SIZE = len(TOKENIZER)
ENDS = {"pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id}
IDS = {**ENDS, "bos_token_id": TOKENIZER.bos_token_id}
BART = {
    "vocab_size": SIZE,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "decoder_start_token_id": TOKENIZER.eos_token_id,
    **IDS,
}
"""Of BART, mBART, M2M100 and Marian."""
