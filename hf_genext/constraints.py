"""Outputs from a list: a prefix tree over their tokens, which any search can be kept inside.

Legend: outputs, nodes and edges (of the tree), rows (of a batch or of its beams), target (output positions), vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

_DEAD = -1


class OutputTrie:
    """A prefix tree over outputs in tokens, in flat arrays, so that a batch walks it at once.

    Args:
        outputs: The tokens of each output, the end token last.
        texts: What each output is called; left out, nothing.

    Attributes:
        depth: Tokens of the longest output.
        texts: As they were given.

    Raises:
        ValueError: if there is no output, or one without tokens.

    Example:
        >>> trie = OutputTrie([[5, 6, 2], [5, 7, 2], [8, 2]])
        >>> trie.find([5, 7, 2]), trie.find([5, 2]), trie.depth
        (1, None, 3)
    """

    def __init__(self, outputs: Sequence[Sequence[int]], texts: Sequence[str] = ()) -> None:
        self.texts = texts
        empty = next((place for place, tokens in enumerate(outputs) if not len(tokens)), None)
        if not len(outputs) or empty is not None:
            raise ValueError(
                "A list of allowed outputs needs one at least."
                if empty is None
                else f"The allowed output of place {empty} has no tokens."
            )
        lengths = np.array([len(tokens) for tokens in outputs])
        self.depth = int(lengths.max())
        table = np.full((len(outputs), self.depth), -1, dtype=np.int64)
        table[np.arange(self.depth) < lengths[:, None]] = np.concatenate([np.asarray(tokens) for tokens in outputs])
        order = np.lexsort(table.T[::-1])
        table, lengths = table[order], lengths[order]
        # The first place where a row differs from the one above it.
        fresh = np.zeros(len(table), dtype=np.int64)
        differs = table[1:] != table[:-1]
        fresh[1:] = np.where(differs.any(axis=1), differs.argmax(axis=1), self.depth)
        self._vocab_size = int(table.max()) + 1
        node_of, num_nodes = np.zeros(len(table), dtype=np.int64), 1
        keys = []
        for level in range(self.depth):
            starts = (fresh <= level) & (lengths > level)
            keys.append(node_of[starts] * self._vocab_size + table[starts, level])
            # A row without a token here keeps its node, and nothing below it asks for it.
            node_of = np.where(lengths > level, num_nodes - 1 + np.cumsum(starts), node_of)
            num_nodes += int(starts.sum())
        # Of outputs with the same tokens the first counts, which the sort has left before the others.
        self._leaves, firsts = np.unique(node_of, return_index=True)
        self._outputs = order[firsts]
        # Nodes are numbered level by level, so the keys of their edges are in order, and edge i leads to node i + 1.
        self._keys = torch.from_numpy(np.concatenate(keys))
        counts = torch.bincount(self._keys // self._vocab_size, minlength=num_nodes)
        self._ends = counts.cumsum(0)
        self._counts = counts

    def __len__(self) -> int:
        """Number of outputs."""
        return int((self._counts == 0).sum())

    def to(self, device: torch.device) -> OutputTrie:
        """Move the tree to a device; returns itself."""
        self._keys, self._counts, self._ends = (values.to(device) for values in (self._keys, self._counts, self._ends))
        return self

    def advance(self, nodes: torch.LongTensor, tokens: torch.LongTensor) -> torch.LongTensor:
        """The nodes behind some tokens: (rows,), (rows,) -> (rows,), -1 where the tree has no such way."""
        wanted = nodes * self._vocab_size + tokens
        places = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
        found = (self._keys[places] == wanted) & (nodes >= 0) & (tokens < self._vocab_size)
        return torch.where(found, places + 1, _DEAD)

    def walk(self, tokens: torch.LongTensor) -> torch.LongTensor:
        """The nodes behind rows of tokens, from the root on: (rows, target) -> (rows,)."""
        nodes = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        for column in tokens.unbind(dim=1):
            nodes = self.advance(nodes, column)
        return nodes

    def allow(self, nodes: torch.LongTensor, vocab_size: int) -> torch.BoolTensor:
        """Which tokens may follow: (rows,) -> (rows, vocab). None behind the end of an output."""
        allowed = torch.zeros(len(nodes), vocab_size, dtype=torch.bool, device=nodes.device)
        counts = torch.where(nodes >= 0, self._counts[nodes], 0)
        rows = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        firsts = self._ends[nodes] - self._counts[nodes] - (counts.cumsum(0) - counts)
        edges = torch.arange(len(rows), device=nodes.device) + firsts[rows]
        allowed[rows, self._keys[edges] % self._vocab_size] = True
        return allowed

    def begins(self, tokens: Sequence[int]) -> bool:
        """Whether some output begins with some tokens."""
        return self._find(tokens) >= 0

    def find(self, tokens: Sequence[int]) -> int | None:
        """Which of the outputs some tokens are, the end token last; the first of those that have the same; or none."""
        node = self._find(tokens)
        place = int(np.searchsorted(self._leaves, node))
        is_leaf = place < len(self._leaves) and self._leaves[place] == node
        return int(self._outputs[place]) if is_leaf else None

    def _find(self, tokens: Sequence[int]) -> int:
        return int(self.walk(torch.tensor([list(tokens)], dtype=torch.long, device=self._keys.device))[0])


class AllowedOutputs(LogitsProcessor):
    """Keeps greedy search, sampling and beams inside a tree of outputs.

    Args:
        trie: The outputs.
        prefix_length: With how many tokens of the outputs the search begins, behind what comes before an output.
    """

    def __init__(self, trie: OutputTrie, prefix_length: int = 0) -> None:
        self._trie, self._prefix_length = trie, prefix_length
        self._start: int | None = None
        self._seen: torch.LongTensor | None = None
        self._nodes: torch.LongTensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab), minus infinity for all tokens that lead to no output.

        Raises:
            ValueError: if something else has forbidden every token that is left to a row.
        """
        self._trie.to(input_ids.device)
        if self._start is None:
            self._start = input_ids.shape[1] - self._prefix_length
        tokens = input_ids[:, self._start :]
        if self._nodes is not None and self._seen is not None and torch.equal(self._seen, tokens[:, :-1]):
            nodes = self._trie.advance(self._nodes, tokens[:, -1])
        else:
            nodes = self._trie.walk(tokens)
        self._seen, self._nodes = tokens, nodes
        allowed = self._trie.allow(nodes, scores.shape[-1])
        # Rows that have ended, and beams for which there was no output left, are ignored by the search.
        is_open = allowed.any(dim=-1)
        limited = scores.masked_fill(~allowed & is_open[:, None], -torch.inf)
        if bool((is_open & (limited == -torch.inf).all(dim=-1)).any()):
            raise ValueError(
                "allowed_outputs leaves some rows without any token, because other arguments forbid all that could follow. "
                "Give fewer constraints: banned_words, min_new_tokens, suppress_tokens."
            )
        return limited

    def select_rows(self, rows: torch.LongTensor) -> None:
        """Go on with some of the rows alone."""
        if self._nodes is not None and self._seen is not None:
            self._nodes, self._seen = self._nodes[rows], self._seen[rows]


__all__ = ["AllowedOutputs", "OutputTrie"]
