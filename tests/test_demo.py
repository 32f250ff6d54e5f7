"""The page to try a model: each kind of model by its endpoint, and one in a real browser.

Gradio and Selenium are not among what the other tests need: `make test-demo` brings them. Chromium and its driver are the
system's: `apt-get install chromium chromium-driver`.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from composition_specimens import DECODERS
from PIL import Image
from scipy.io import wavfile
from specimens import build_pipeline, build_processor, sharpen
from test_foreign_models import MODELS, build_nllb

from hf_genext import (
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextHeadConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextProcessor,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    StaticEmbeddingModel,
    pipeline,
)

gradio = pytest.importorskip("gradio", reason="needs Gradio: make test-demo")
gradio_client = pytest.importorskip("gradio_client", reason="needs Gradio: make test-demo")

from hf_genext.demo import build_page, launch_page

pytestmark = pytest.mark.slow

TASK = "conditional-generation"
VECTOR = np.linspace(-1, 1, 9)
SETTINGS = {"outputs": 0, "sample": 1, "beams": 2, "seed": 3, "temperature": 4, "most": 5, "prefix": 6, "looks": 7}
"""Places of the settings behind the conditions."""

_connections: list[str] = []
"""Hosts that this process connected to, or looked up."""


def _watch(event, details):
    if event == "socket.connect" and isinstance(details[1], tuple):
        _connections.append(details[1][0])
    if event == "socket.getaddrinfo":
        _connections.append(details[0])


sys.addaudithook(_watch)


@pytest.fixture
def serve():
    """Builds a page, serves it, and gives what calls it as a program does; nothing but this machine is asked."""
    pages = []
    _connections.clear()

    def open_page(pipe, **settings):
        pages.append(build_page(pipe, **settings))
        client = gradio_client.Client(launch_page(pages[-1], port=0), verbose=False)
        return lambda *values: client.predict(*values, api_name="/generate")

    yield open_page
    for page in pages:
        page.close()
    assert set(_connections) == {"127.0.0.1"}


def settle(*more, **changed):
    """Values of the settings, in their order: two outputs of a search, unless told otherwise."""
    values = [2, False, 4, 0, 1.0, 5, "", False]
    for name, value in changed.items():
        values[SETTINGS[name]] = value
    return [*values, *more]


def read_table(answer):
    return answer[0]["data"]


def tell(answers):
    """Answers of a pipeline as the page's table has them."""
    return [[answer["generated_text"], pytest.approx(answer["score"], abs=1e-3)] for answer in answers]


def build_text(processor):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return GenextTextConditionerConfig(vocab_size=len(processor.tokenizer), **sizes)


def compose(encoder, processor, decoder="gpt2", **settings):
    config = DECODERS[decoder]()
    config.vocab_size = len(processor.target_tokenizer)
    torch.manual_seed(0)
    model = sharpen(GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=encoder, decoder=config, **settings))
    return pipeline(TASK, model=model, processor=processor)


def test_texts(serve):
    pipe = build_pipeline()
    ask = serve(pipe)
    search = {"num_return_sequences": 2, "num_beams": 4, "max_new_tokens": 5, "return_scores": True}
    assert read_table(ask("violin", *settle())) == tell(pipe("violin", **search))
    sampling = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 5, "return_scores": True}
    found = read_table(ask("violin", *settle(sample=True, seed=7, temperature=1.5)))
    assert found == tell(pipe("violin", seed=7, num_return_sequences=2, **sampling))
    assert found != read_table(ask("violin", *settle(sample=True, seed=8, temperature=1.5)))
    # There are never fewer beams than outputs.
    assert len(read_table(ask("violin", *settle(outputs=6)))) == 6
    assert all(row[0].startswith("AH") for row in read_table(ask("violin", *settle(prefix="AH"))))
    table, picture = ask("violin", *settle(looks=True))
    assert table["data"] == tell(pipe("violin", **search))
    assert picture["visible"] and picture["value"]["plot"].startswith("data:image/")


def test_errors_are_those_of_the_pipeline(serve):
    ask = serve(build_pipeline())
    for text, message in (
        ("", "must have some content"),
        ("a" * 90, "has 91 tokens; the model takes 24"),
        ("<b>" * 30, "&lt;b&gt;"),
    ):
        with pytest.raises(Exception, match=re.escape(message)) as caught:
            ask(text, *settle())
        assert "Traceback" not in str(caught.value)


def test_several_conditions_of_which_any_may_be_missing(serve):
    processor = GenextProcessor(
        tokenizer=build_processor().tokenizer,
        target_tokenizer=build_processor().target_tokenizer,
        label_names={"accent": ["us", "uk", "in"], "speed": ["slow", "fast"]},
        vector_size=9,
    )
    encoder = {
        "text": GenextTextConditionerConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
        ),
        "tags": GenextLabelConditionerConfig(label_counts=[3, 2], hidden_size=8),
        "meaning": GenextVectorConditionerConfig(vector_size=9, hidden_size=12),
    }
    pipe = compose(encoder, processor, condition_dropout=0.1)
    space = StaticEmbeddingModel.from_words(["here", "there"], np.stack([VECTOR, -VECTOR]).astype(np.float32))
    ask = serve(pipe, space=space)
    search = {"num_return_sequences": 2, "num_beams": 4, "max_new_tokens": 5, "return_scores": True}
    numbers = ", ".join(map(str, VECTOR))
    whole = {"text": "cat", "label": {"accent": "uk", "speed": "fast"}, "vector": VECTOR}
    expected = tell(pipe(whole, **search))
    for written in (numbers, f"[{numbers}]", numbers.replace(",", ""), "here"):
        assert read_table(ask("cat", "uk", "fast", written, *settle(1.0))) == expected
    missing = read_table(ask("", "(none)", "slow", "", *settle(1.0)))
    assert missing == tell(pipe({"label": {"speed": "slow"}}, **search)) and missing != expected
    assert read_table(ask("", "(none)", "(none)", "", *settle(1.0))) == tell(pipe({}, **search))
    assert read_table(ask("cat", "uk", "fast", numbers, *settle(3.0))) == tell(pipe(whole, guidance_scale=3.0, **search))
    with pytest.raises(Exception, match="A vector must be numbers, or a word of the space, got &#x27;nowhere&#x27;"):
        ask("cat", "uk", "fast", "nowhere", *settle(1.0))


def test_pictures_and_recordings(serve, tmp_path):
    search = {"num_return_sequences": 2, "num_beams": 4, "max_new_tokens": 5, "return_scores": True}
    torch.manual_seed(0)
    build, parts, _ = MODELS["vision"]
    pipe = pipeline(TASK, model=sharpen(build()), **parts)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, size=(12, 9, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    answer = serve(pipe)(gradio_client.handle_file(tmp_path / "a.png"), *settle())
    assert read_table(answer) == tell(pipe(str(tmp_path / "a.png"), **search))
    build, parts, _ = MODELS["speech"]
    pipe = pipeline(TASK, model=sharpen(build()), **parts)
    wavfile.write(tmp_path / "a.wav", 16_000, np.random.default_rng(0).normal(size=4_000).clip(-1, 1).astype(np.float32))
    answer = serve(pipe)(gradio_client.handle_file(tmp_path / "a.wav"), *settle())
    assert read_table(answer) == tell(pipe(str(tmp_path / "a.wav"), **search))


def test_a_port_that_is_taken_is_named(serve):
    serve(build_pipeline())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} of this machine is taken"):
            launch_page(build_page(build_pipeline()), port=port)


def test_nothing(serve):
    processor = GenextProcessor(target_tokenizer=build_processor().target_tokenizer)
    pipe = compose(GenextNullConditionerConfig(hidden_size=24), processor)
    found = read_table(serve(pipe)(*settle(outputs=5, sample=True, seed=3)))
    expected = pipe({}, seed=3, do_sample=True, num_return_sequences=5, max_new_tokens=5, return_scores=True)
    assert found == tell(expected) and len({row[0] for row in found}) > 1


def test_languages_and_prefixes(serve):
    model, tokenizer = build_nllb()
    pipe = pipeline(TASK, model=model, tokenizer=tokenizer)
    search = {"num_return_sequences": 2, "num_beams": 4, "max_new_tokens": 5, "return_scores": True}
    outputs, sample, *others = settle()
    ask = serve(pipe)
    found = read_table(ask("a cat", outputs, sample, "fra_Latn", "deu_Latn", *others, ""))
    assert found == tell(pipe("a cat", src_lang="fra_Latn", tgt_lang="deu_Latn", **search))
    assert read_table(ask("a cat", outputs, sample, "(none)", "(none)", *others, "vital ")) == tell(
        pipe("vital a cat", **search)
    )


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_single_outputs(serve, kind):
    processor = build_processor()
    names = {"class": ["noun", "verb", "adverb"], "labels": ["noun", "verb"], "regression": ["length", "age"]}[kind]
    torch.manual_seed(0)
    model = GenextForPrediction.from_encoder_pretrained(
        GenextTextConditionerConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
        ),
        head=GenextHeadConfig(kind=kind, output_names=names),
    )
    pipe = pipeline(TASK, model=sharpen(model), processor=processor)
    answer = serve(pipe)("violin")
    if kind == "regression":
        (expected,) = pipe("violin")
        rows = [[name, expected["value"][name], expected["uncertainty"][name]] for name in names]
        for found, row in zip(answer["data"], rows, strict=True):
            assert found[0] == row[0] and found[1:] == pytest.approx(row[1:], abs=1e-3)
        return
    expected = (
        {one["label"]: one["score"] for one in pipe("violin", top_k=3)} if kind == "class" else pipe("violin")[0]["scores"]
    )
    found = {one["label"]: one["confidence"] for one in answer["confidences"]}
    assert found == pytest.approx(expected, abs=1e-5) and len(found) == len(names)


def test_drawn_images(serve):
    torch.manual_seed(0)
    model = GenextForPrediction.from_encoder_pretrained(
        {"label": GenextLabelConditionerConfig(label_counts=[3], hidden_size=16)},
        head={"kind": "image", "output_shape": [4, 6], "num_levels": 5},
        condition_dropout=0.2,
    )
    pipe = pipeline(TASK, model=sharpen(model), processor=GenextProcessor(label_names={"digit": ["0", "1", "2"]}))
    ask = serve(pipe)
    for asked, settings in (
        ((3, 7, 1.0, 1.0), {"num_return_sequences": 3, "seed": 7, "temperature": 1.0}),
        ((2, 8, 0.5, 2.0), {"num_return_sequences": 2, "seed": 8, "temperature": 0.5, "guidance_scale": 2.0}),
    ):
        shown = ask("2", *asked)
        expected = [answer["generated_image"] for answer in pipe({"label": {"digit": "2"}}, **settings)]
        assert len(shown) == len(expected)
        for one, picture in zip(shown, expected, strict=True):
            found = Image.open(one["image"]).convert(picture.mode)
            assert found.size == (6 * 32, 4 * 32)
            np.testing.assert_array_equal(np.asarray(found)[16::32, 16::32], np.asarray(picture))


def test_drawn_vectors(serve):
    torch.manual_seed(0)
    head = GenextHeadConfig(kind="mixture", output_names=["length", "width"], num_components=2)
    model = GenextForPrediction.from_encoder_pretrained(GenextNullConditionerConfig(hidden_size=8), head=head)
    pipe = pipeline(TASK, model=sharpen(model), processor=GenextProcessor(label_names={}))
    answer = serve(pipe)(4, 7, 1.0)
    expected = [list(drawn["value"].values()) for drawn in pipe({}, seed=7, num_return_sequences=4)]
    assert answer["headers"] == ["length", "width"]
    np.testing.assert_allclose(answer["data"], expected, atol=1e-3)


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: make test-demo")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if not all(programs):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    # Every name of the network is unknown to it.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,640"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def command(tmp_path):
    """The real command, on a model's folder: its address, and the pipeline of that folder."""
    build_pipeline().save_pretrained(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_genext.demo", str(tmp_path / "model"), "--port", "0", "--share", "never"],
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        lines = iter(process.stdout.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        yield address, pipeline(TASK, model=str(tmp_path / "model"))
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(condition, seconds=240):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen")


def test_a_browser_types_a_word_and_reads_the_answer(browser, command):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    address, pipe = command
    browser.get(address)
    (box,) = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#text textarea, #text input"))
    box.send_keys("violin", Keys.ENTER)
    expected = pipe("violin", num_beams=4)[0]["generated_text"]

    def read():
        return browser.find_element(By.TAG_NAME, "body").text

    assert expected
    wait_for(lambda: expected in read())
    # What is wrong is said on the page, and the next question is answered again.
    box.clear()
    box.send_keys("a" * 90)
    browser.find_element(By.ID, "run").click()
    wait_for(lambda: "has 91 tokens; the model takes 24. Shorten it" in read())
    assert "Traceback" not in read()
    # What is folded away and not filled in changes nothing.
    (more,) = [part for part in browser.find_elements(By.TAG_NAME, "button") if part.text.startswith("More")]
    more.click()
    wait_for(lambda: "seed of samples" in read())
    box.clear()
    box.send_keys("cat", Keys.ENTER)
    expected = pipe("cat", num_beams=4)[0]["generated_text"]
    wait_for(lambda: expected in read())
    # Nothing came from elsewhere.
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded and [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []
