"""Training word vectors: what is learned, kills and resumes, ranks, and settings that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_genext import StaticEmbeddingForPreTraining, rank_exchange
from hf_genext.corpora import encode_corpus
from hf_genext.embedding_training import EmbeddingTrainingArguments, StaticEmbeddingTrainer
from hf_genext.rank_exchange import GatherChannel, RankExchange, add_up

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests/programs/train_words.py"
TOPICS, WORDS_PER_TOPIC = 12, 20
SETTINGS = ["--hidden_size", "16", "--tokens_per_step", "4000", "--num_train_epochs", "3", "--num_threads", "1", "--seed", "4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences, each with the words of one topic only."""
    draw = np.random.default_rng(0)
    lines = [
        " ".join(f"t{topic}w{word}" for word in draw.integers(0, WORDS_PER_TOPIC, draw.integers(4, 12)))
        for topic in draw.integers(0, TOPICS, 6000)
    ]
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def start(*arguments, ranks=1, kill=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    if kill is not None:
        environment["KILL"] = kill
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", "0", "--standalone"]
    command = [*launcher, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def share_of_topics_found(space):
    """How often a word's nearest neighbour is of its topic."""
    words = list(space.words)
    return np.mean([space.most_similar(word, topn=1)[0][0].split("w")[0] == word.split("w")[0] for word in words])


@pytest.mark.parametrize("engine", ["compiled", "tensor"])
@pytest.mark.parametrize("settings", [{}, {"objective": "cbow"}, {"num_buckets": 5000}], ids=["skip_gram", "cbow", "subword"])
def test_words_of_a_topic_come_near_each_other(text, tmp_path, engine, settings):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)
    assert len(corpus.words) == TOPICS * WORDS_PER_TOPIC
    args = EmbeddingTrainingArguments(
        output_dir=str(tmp_path),
        hidden_size=24,
        num_train_epochs=4,
        learning_rate=0.1,
        subsample=0,
        num_threads=1,
        engine=engine,
        batch_tokens=1024,
        disable_tqdm=True,
        **settings,
    )
    trainer = StaticEmbeddingTrainer(args, corpus, lowercase=True)
    before = trainer.model.to_space()
    assert share_of_topics_found(before) < 0.5 or settings  # N-grams alone tell a topic.
    output = trainer.train()
    space = trainer.model.to_space()
    assert share_of_topics_found(space) > 0.95
    assert space.config.lowercase and space.vocabulary.counts.tolist() == corpus.counts.tolist()
    assert output.tokens_per_second > 0 and np.isfinite(output.loss)


def test_training_leaves_pytorchs_threads_as_they_were(text, tmp_path):
    args = EmbeddingTrainingArguments(
        output_dir=str(tmp_path), hidden_size=8, num_train_epochs=1, num_threads=2, engine="tensor", disable_tqdm=True
    )
    before = torch.get_num_threads()
    StaticEmbeddingTrainer(args, encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)).train()
    assert torch.get_num_threads() == before != 2


def test_a_run_that_was_killed_goes_on_to_the_same_vectors(text, tmp_path):
    whole = start(tmp_path / "whole", text, *SETTINGS)
    assert whole.returncode == 0, whole.stderr
    expected = load_file(tmp_path / "whole/final/model.safetensors")
    for point in ("during", "after"):
        folder = tmp_path / point
        killed = start(folder, text, *SETTINGS, kill=point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (folder / "final").exists()
        resumed = start(folder, text, *SETTINGS, "--resume_from_checkpoint", "auto")
        assert resumed.returncode == 0, resumed.stderr
        assert ("Passing over" in resumed.stderr) == (point == "during")
        found = load_file(folder / "final/model.safetensors")
        for name, tensor in expected.items():
            assert tensor.equal(found[name]), (point, name)


def test_two_ranks_learn_and_go_on_to_the_same_vectors(text, tmp_path):
    settings = [*SETTINGS, "--tokens_per_sync", "8000"]
    whole = start(tmp_path / "whole", text, *settings, ranks=2)
    assert whole.returncode == 0 and "RANKS 2 " in whole.stdout, whole.stderr
    expected = load_file(tmp_path / "whole/final/model.safetensors")
    killed = start(tmp_path / "killed", text, *settings, ranks=2, kill="during")
    assert killed.returncode != 0
    resumed = start(tmp_path / "killed", text, *settings, "--resume_from_checkpoint", "auto", ranks=2)
    assert resumed.returncode == 0 and "RANKS 2 " in resumed.stdout, resumed.stderr
    found = load_file(tmp_path / "killed/final/model.safetensors")
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name


def test_ranks_take_each_piece_of_the_text_once(text, tmp_path, monkeypatch):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)
    args = EmbeddingTrainingArguments(output_dir=str(tmp_path), tokens_per_step=3000, disable_tqdm=True)
    trainer = StaticEmbeddingTrainer(args, corpus)
    for num_ranks in (1, 2, 3):
        pieces = {}
        for rank in range(num_ranks):
            monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda self, n=num_ranks: n))
            monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self, r=rank: r))
            steps, _ = trainer._count_steps()
            for step in range(steps):
                pieces[step * num_ranks + rank] = trainer._read_piece(step)
        joined = np.concatenate([pieces[index] for index in sorted(pieces)])
        assert np.array_equal(joined, corpus.ids)
        ends = [piece[-1] for index, piece in sorted(pieces.items()) if len(piece)]
        assert all(corpus.places[end] == -2 for end in ends), "a sentence is cut"


def test_a_checkpoint_of_another_training_is_refused(text, tmp_path):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)

    def train(**settings):
        values = {"hidden_size": 8, "num_train_epochs": 1, "num_checkpoints": 1, "tokens_per_step": 5000, **settings}
        args = EmbeddingTrainingArguments(output_dir=str(tmp_path / "out"), disable_tqdm=True, **values)
        return StaticEmbeddingTrainer(args, corpus).train()

    train()
    with pytest.raises(ValueError, match="another model: hidden_size is 8 there and 9 here"):
        train(hidden_size=9, resume_from_checkpoint="auto")
    with pytest.raises(ValueError, match=r"another training: learning_rate was 0\.05 and is 0\.01"):
        train(learning_rate=0.01, resume_from_checkpoint="auto")
    with pytest.raises(ValueError, match=r"has no training_state\.json"):
        train(resume_from_checkpoint=str(tmp_path))
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    (checkpoint / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"is damaged: model\.safetensors has 4 bytes instead of .* auto"):
        train(resume_from_checkpoint=str(checkpoint))


def test_a_rate_that_diverges_stops_with_a_message(text, tmp_path):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)
    args = EmbeddingTrainingArguments(
        output_dir=str(tmp_path), learning_rate=50.0, engine="compiled", hidden_size=8, disable_tqdm=True
    )
    with pytest.raises(RuntimeError, match=r"diverged at step \d+: the loss is .* Lower --learning_rate"):
        StaticEmbeddingTrainer(args, corpus).train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window must be 1 or more, got 0"),
        ({"objective": "glove"}, "objective must be"),
        ({"engine": "cuda"}, "engine must be"),
        ({"learning_rate": 1e-5}, r"come down from learning_rate to min_learning_rate.*1e-05 and 0\.0001"),
        ({"learning_rate": float("nan")}, "must come down"),
        ({"num_negatives": -1}, "num_negatives must be 0 or more, got -1"),
        ({"num_threads": 0}, "num_threads must be 1 or more"),
        ({"subsample": float("nan")}, "subsample must be 0 or more, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingTrainingArguments(**settings)


def test_a_damaged_text_is_refused(text, tmp_path):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)
    corpus.ids = np.where(np.arange(len(corpus.ids)) == 777, 1 << 30, corpus.ids)
    args = EmbeddingTrainingArguments(output_dir=str(tmp_path), hidden_size=8, disable_tqdm=True)
    with pytest.raises(ValueError, match="Piece 0 of the encoded text is damaged"):
        StaticEmbeddingTrainer(args, corpus).train()


class TwoRanks:
    """Stands for two ranks of which the other one changed the same as this one."""

    num_processes = 2

    def gather(self, tensor):
        return torch.cat([tensor, tensor])


@pytest.fixture
def build_exchange(monkeypatch):
    def build(model, shares, **settings):
        monkeypatch.setattr(rank_exchange, "open_channel", lambda *_: GatherChannel(TwoRanks(), torch.device("cpu")))
        return RankExchange(model, shares, TwoRanks(), **settings)

    return build


def test_what_ranks_changed_alike_adds_up_for_rare_words_and_counts_once_for_frequent_ones(build_exchange):
    model = StaticEmbeddingForPreTraining.from_words(["often", "sometimes", "once"], [10**6, 10**3, 1], hidden_size=2)
    before = model.input_embeddings.detach().clone()
    exchange = build_exchange(model, np.array([0.9, 1e-3, 1e-9]), steps_per_sync=2, tokens_per_step=10_000)
    model.input_embeddings.data += 1.0
    exchange.run(1, 0.05, everything=False)
    assert torch.equal(model.input_embeddings, before + 1.0), "no meeting is due yet"
    exchange.run(2, 0.05, everything=False)
    moved = (model.input_embeddings - before)[:3, 0].tolist()
    between = 1.0 + np.exp(-RankExchange.CURVATURE * 0.05 * 40)  # The word that was trained on 40 times
    assert moved == pytest.approx([1.0, between, 2.0], abs=1e-3) and 1.01 < between < 1.99
    exchange.run(4, 0.05, everything=False)
    assert (model.input_embeddings - before)[:3, 0].tolist() == pytest.approx(moved), "nothing changed since"


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_changes_at_right_angles_add_up_and_equal_ones_count_once(ranks):
    apart = [torch.eye(ranks)[index : index + 1] * (index + 1) for index in range(ranks)]
    one = torch.ones(1, 1)
    torch.testing.assert_close(add_up(apart, one), torch.arange(1.0, ranks + 1)[None])
    alike = [torch.tensor([[1.0, -2.0, 0.5]])] * ranks
    torch.testing.assert_close(add_up(alike, one), alike[0])
    torch.testing.assert_close(add_up(alike, 0 * one), ranks * alike[0])
    opposed = [alike[0], -alike[0]]
    torch.testing.assert_close(add_up(opposed, one), 0 * alike[0])
    assert torch.equal(add_up([0 * change for change in alike], one), 0 * alike[0])


def test_frequent_words_meet_often_and_all_words_meet_sometimes(build_exchange):
    model = StaticEmbeddingForPreTraining.from_words(["a"], [1], hidden_size=2)
    exchange = build_exchange(model, np.ones(1), steps_per_sync=3, tokens_per_step=1)
    due = [exchange.count_due_rows(step, 50_000) for step in range(1, 3 * 64 + 1)]
    assert [due[step - 1] for step in (1, 2, 3, 6, 12, 24, 48, 96)] == [0, 0, 2000, 4000, 8000, 16_000, 32_000, 50_000]
    assert sum(rows == 50_000 for rows in due) == 2
    assert {exchange.count_due_rows(step, 900) for step in (3, 6, 9)} == {900}


def test_ranks_come_to_equal_rows_through_shared_memory_and_without(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    program = str(ROOT / "tests/programs/exchange_rows.py")
    before = set(Path("/dev/shm").glob("hf_genext-*"))
    done = subprocess.run(
        [*launcher, program, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(Path("/dev/shm").glob("hf_genext-*")) <= before, "shared memory is left behind"
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    for name, rows in first.items():
        assert torch.equal(rows, second[name]), name
        torch.testing.assert_close(rows, first[name.replace("shared", "gathered").replace("no_room", "gathered")])
    assert not torch.allclose(first["gathered"][:-1], first["gathered"][1:])


def test_without_numba_tensors_train_and_the_compiled_engine_says_what_to_install(text, tmp_path, monkeypatch, caplog):
    corpus = encode_corpus(text, tmp_path / "corpus", split="whitespace", show_progress=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "hf_genext.static_embedding.kernels_static_embedding", raising=False)

    def build_engine(engine):
        args = EmbeddingTrainingArguments(output_dir=str(tmp_path), hidden_size=8, engine=engine, disable_tqdm=True)
        return StaticEmbeddingTrainer(args, corpus)._build_engine()

    assert type(build_engine("auto")).__name__ == "TensorEngine"
    assert "several times slower: pip install 'hf_genext[embedding]'" in caplog.text
    with pytest.raises(ImportError, match=r"needs numba: pip install 'hf_genext\[embedding\]'"):
        build_engine("compiled")
