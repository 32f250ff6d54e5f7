"""A real Whisper transcribes a real recording through the task."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly
from whisper_tiny import BECKETT, build_whisper, find_recording

from hf_genext import pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::scipy.io.wavfile.WavFileWarning"),  # The recording tells who made it.
]


@pytest.fixture(scope="module")
def recording():
    """Samples between -1 and 1, and their rate."""
    rate, samples = wavfile.read(find_recording())
    assert rate == 16_000
    return samples.astype(np.float32) / 32768


@pytest.fixture(scope="module")
def pipe(recording):
    model, processor = build_whisper()
    return pipeline("conditional-generation", model=model, processor=processor)


def read_words(text):
    return re.findall(r"[a-z]+", text.lower())


def test_a_recording_is_transcribed_from_whatever_it_is_in(pipe, recording):
    expected = read_words(BECKETT)
    given = {
        "path": str(find_recording()),
        "array": {"array": recording, "sampling_rate": 16_000},
        "named": {"audio": recording, "sampling_rate": 16_000},
        "rate of a compact disc": {"array": resample_poly(recording, 441, 160), "sampling_rate": 44_100},
        "bytes": {"audio": find_recording().read_bytes()},
    }
    for name, condition in given.items():
        assert read_words(pipe(condition)[0]["generated_text"]) == expected, name
    answers = pipe(list(given.values()), batch_size=2, num_beams=2)
    assert [read_words(answer[0]["generated_text"]) for answer in answers] == [expected] * len(given)
    # The rate is not passed over: what is slower is something else.
    assert read_words(pipe({"array": recording, "sampling_rate": 8_000})[0]["generated_text"]) != expected


def test_the_transcription_is_what_transformers_gives(pipe, recording):
    features = pipe.feature_extractor(recording, sampling_rate=16_000, return_tensors="pt")
    ids = pipe.model.generate(**features)
    text = pipe.tokenizer.decode(ids[0], skip_special_tokens=True)
    answer = pipe({"array": recording, "sampling_rate": 16_000}, return_scores=True)[0]
    assert answer["generated_text"] == text
    prompt = torch.tensor([pipe.tokenizer.prefix_tokens])
    written = [*pipe.tokenizer(text, add_special_tokens=False)["input_ids"], pipe.tokenizer.eos_token_id]
    with torch.no_grad():
        logits = pipe.model(**features, decoder_input_ids=torch.cat([prompt, torch.tensor([written[:-1]])], dim=1)).logits[0]
    expected = logits[1:].log_softmax(dim=-1)[torch.arange(len(written)), written].tolist()
    assert answer["token_scores"] == pytest.approx(expected, abs=1e-4)
    # What was said is likelier than what was not.
    scores = pipe.score(
        [{"array": recording, "sampling_rate": 16_000}], [[text, " Never tried, never failed. No matter, try again."]]
    )[0]
    assert scores[0]["score"] == pytest.approx(answer["score"], abs=1e-3) and scores[0]["score"] > scores[1]["score"]


def test_the_words_come_from_where_they_were_said(pipe):
    answer = pipe(str(find_recording()), return_alignments=True)[0]["alignment"]
    times = np.argmax(answer["weights"], axis=1) * 0.02  # A state is made of 20 ms of sound.
    *written, end = answer["target_tokens"]
    assert end == "<|endoftext|>" and read_words(pipe.tokenizer.convert_tokens_to_string(written)) == read_words(BECKETT)
    assert sorted(times) == times.tolist() and times[-1] < 10
    assert times[written.index("ĠNo")] - times[written.index("ĠEver")] > 2
