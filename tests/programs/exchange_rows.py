"""Started as several ranks: each changes its copy of word vectors, and they meet through shared memory and without it.

python -m torch.distributed.run --nproc_per_node 2 tests/programs/exchange_rows.py OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from hf_genext import StaticEmbeddingForPreTraining, rank_exchange
from hf_genext.rank_exchange import GatherChannel, RankExchange, SharedMemoryChannel, open_channel

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    rank_exchange.BLOCK, rank_exchange.SEGMENT = 100, 30  # Many blocks, and rows that do not fill one.
    words = [f"w{index}" for index in range(60)]
    counts = np.arange(60, 0, -1)
    found, kinds = {}, []
    for name in ("shared", "gathered", "no_room"):
        if name != "shared":
            rank_exchange.SHARED_FOLDER = Path("/nowhere" if name == "no_room" else sys.argv[1])
        channel = (
            open_channel(accelerator, torch.device("cpu"))
            if name != "gathered"
            else GatherChannel(accelerator, torch.device("cpu"))
        )
        kinds.append(type(channel))
        rank_exchange.open_channel = lambda *_, channel=channel: channel
        torch.manual_seed(0)
        model = StaticEmbeddingForPreTraining.from_words(words, counts, hidden_size=7, num_buckets=50)
        exchange = RankExchange(model, counts / counts.sum(), accelerator, steps_per_sync=1, tokens_per_step=10)
        generator = torch.Generator().manual_seed(accelerator.process_index)
        for step in range(1, 6):
            for parameter in model.parameters():
                parameter.data += torch.randn(parameter.shape, generator=generator)
            exchange.run(step, 0.05, everything=step == 5)
        found[name] = model.input_embeddings.detach()[: len(words)].clone()
        found[f"{name}_ngrams"] = model.ngram_embeddings.detach()[model.list_ngrams()[1]].clone()
    assert kinds == [SharedMemoryChannel, GatherChannel, GatherChannel], kinds
    save_file(found, Path(sys.argv[1]) / f"rank{accelerator.process_index}.safetensors")
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()
