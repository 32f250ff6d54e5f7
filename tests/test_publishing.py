"""Pushing: what goes along, what opens it with and without the package, and what happens when the Hub fails.

The Hub is a server of our own on 127.0.0.1. Every push and every reading is a process of its own: where the package is
installed it is asked for no flag, and where it is not, `build_reader_environment` has made a Python that cannot import it.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from reader_environment import build_reader_environment
from specimens import build_processor
from test_hub import RESULTS
from transformers import pipeline

from hf_genext import ConditionalGenerationPipeline, GenextProcessor
from hf_genext.hub import render_model_card

TESTS = Path(__file__).parent


class Bench:
    """A Hub, the Pythons of both worlds, and a folder for what the processes write."""

    def __init__(self, hub: HubServer, folder: Path, readers: Path) -> None:
        self.hub, self.folder, self.readers, self.count = hub, folder, readers, 0

    def find_reader(self, *wanted: str) -> Path:
        """The Python of somebody without the package, made when it is first needed."""
        place = self.readers / "-".join(wanted)
        return place / "bin" / "python" if place.exists() else build_reader_environment(place, *wanted)

    def start(self, job: dict, token: str | None = "hf_of_me", timeout: float = 240) -> subprocess.CompletedProcess:
        """Run a job in a process whose caches are its own."""
        self.count += 1
        folder = self.folder / f"job{self.count}"
        folder.mkdir()
        job = {"world": "installed", "kind": "pipeline", **job}
        self.answer = folder / "answer.json"
        (folder / "job.json").write_text(json.dumps(job))
        environment = self.hub.environment(folder / "home", token)
        if job["world"] == "installed":
            environment["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
            python = sys.executable
        else:
            python = str(self.find_reader("transformers", "torch", *(["peft"] if job["kind"] == "adapter" else [])))
        return subprocess.run(
            [python, str(TESTS / "hub_cell.py"), str(folder / "job.json"), str(self.answer)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def run(self, job: dict, token: str | None = "hf_of_me") -> dict:
        """What a job that goes well answers."""
        done = self.start(job, token)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(self.answer.read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with HubServer() as hub:
        yield Bench(hub, tmp_path_factory.mktemp("jobs"), tmp_path_factory.mktemp("readers"))


def assert_same(told, expected):
    """Texts and ids equal, numbers equal but for the order of a sum; and weights that are not at random."""
    compared = [name for name in expected if name in told and name != "answer"]
    assert compared
    for name in compared:
        if name in ("logits", "memory", "word"):
            assert np.asarray(told[name]).std() > 0.01
            np.testing.assert_allclose(told[name], expected[name], atol=1e-5)
        elif name == "answers":
            for ours, theirs in zip(told[name], expected[name], strict=True):
                assert [answer["label"] for answer in ours] == [answer["label"] for answer in theirs]
        else:
            assert told[name] == expected[name]


WORLDS = {"installed": ({}, ["hf_genext"]), "bare": ({"trust_remote_code": True}, ["transformers_modules"])}
"""What is passed, and whose the classes then are."""


# A few cells


def test_what_is_pushed_opens_without_the_package_and_saves_again(bench, tmp_path):
    pushed = bench.run({"do": "push", "repo": "me/first"})
    files = bench.hub.repositories["me/first"].files()
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "pipelines.py"} <= set(files)
    arguments, classes = WORLDS["bare"]
    # Without a token: the repository is public. Opened, saved and opened again in one process, then the first one once more.
    job = {"do": "read", "world": "bare", "repo": "me/first", "hub": arguments, "save": str(tmp_path / "saved"), "twice": True}
    told = bench.run(job, token=None)
    assert told["modules"] == classes
    for opened in (told, told["again"], told["first"]):
        assert_same(opened, pushed)
    # What was saved there opens here, without a flag: `pipeline()` of this process has the package.
    pipe = pipeline("conditional-generation", model=str(tmp_path / "saved"), device="cpu")
    assert type(pipe) is ConditionalGenerationPipeline
    assert pipe(["cat", "violin", "at", "tacit"]) == pushed["texts"]


# Faults


@pytest.mark.slow
def test_who_may_not_push_is_told_so_and_nothing_changes(bench):
    hub = bench.hub
    done = bench.start({"do": "push", "repo": "another/model"})
    assert done.returncode == 1
    assert "403 Forbidden" in done.stderr and "another" in done.stderr
    assert "another/model" not in hub.repositories


@pytest.mark.slow
@pytest.mark.parametrize(("token", "said"), [(None, "401"), ("hf_of_nobody", "401")])
def test_a_push_without_a_valid_token_says_so(bench, token, said):
    done = bench.start({"do": "push", "repo": "me/unauthorised"}, token=token)
    assert done.returncode == 1
    assert said in done.stderr
    assert "me/unauthorised" not in bench.hub.repositories


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "fault", "said"),
    [
        ("POST .*/commit/", {"status": 412}, "412"),
        ("POST .*/preupload/", {"status": 403}, "403"),
        ("POST .*/commit/", {"status": 500, "times": 99}, "500"),
        ("PUT /lfs/", {"status": 403, "times": 99}, "403"),
    ],
)
def test_a_push_that_fails_says_so_leaves_the_repository_and_can_be_repeated(bench, pattern, fault, said):
    hub, repo = bench.hub, f"me/failing-{said}-{pattern[:3].strip().lower()}-{len(bench.hub.faults)}"
    before = bench.run({"do": "push", "repo": repo, "seed": 1})
    seed = 100 + bench.count  # The Hub takes no file twice, so what fails must be new to it.
    head = hub.repositories[repo].refs["main"]
    made = hub.fail(pattern, **fault)
    done = bench.start({"do": "push", "repo": repo, "seed": seed})
    hub.faults.clear()
    assert done.returncode == 1
    # Of a large file huggingface_hub names the file last, and the status in the error that caused it.
    assert made.seen and re.search(rf"{said} [A-Z]", done.stderr), done.stderr[-4000:]
    assert hub.repositories[repo].refs["main"] == head
    assert_same(bench.run({"do": "read", "repo": repo}), before)
    after = bench.run({"do": "push", "repo": repo, "seed": seed})
    told = bench.run({"do": "read", "repo": repo})
    assert_same(told, after)
    assert told["logits"] != before["logits"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("PUT /lfs/", {"cut_after": 1000}),
        ("PUT /lfs/", {"status": 500}),
        ("POST .*/preupload/", {"cut_after": 10}),
    ],
)
def test_a_line_that_is_cut_is_taken_up_again(bench, pattern, fault):
    hub, repo = bench.hub, f"me/cut-{bench.count}"
    made = hub.fail(pattern, **fault)
    pushed = bench.run({"do": "push", "repo": repo, "seed": 40 + bench.count})
    hub.faults.clear()
    assert made.seen >= 2
    assert_same(bench.run({"do": "read", "repo": repo}), pushed)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 99])
def test_a_cut_commit_leaves_all_or_nothing(bench, times):
    hub, repo = bench.hub, f"me/cut-commit-{times}"
    before = bench.run({"do": "push", "repo": repo, "seed": 1})
    made = hub.fail("POST .*/commit/", cut_after=2000, times=times)
    done = bench.start({"do": "push", "repo": repo, "seed": 2})
    hub.faults.clear()
    assert made.seen
    if done.returncode:
        assert "disconnected" in done.stderr or "RemoteProtocolError" in done.stderr or "Connection" in done.stderr
        assert_same(bench.run({"do": "read", "repo": repo}), before)
    else:
        assert times == 1
        assert_same(bench.run({"do": "read", "repo": repo}), json.loads(bench.answer.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_what_cannot_be_read_is_an_error_and_never_random_weights(bench, world):
    hub, arguments = bench.hub, WORLDS[world][0]
    bench.run({"do": "push", "repo": "me/hidden", "hub": {"private": True}})
    for token in (None, "hf_of_another"):
        done = bench.start({"do": "read", "world": world, "repo": "me/hidden", "hub": arguments}, token=token)
        assert done.returncode == 1
        assert "not a valid model identifier" in done.stderr or "not a local folder" in done.stderr
    done = bench.start({"do": "read", "world": world, "repo": "me/hidden", "hub": {**arguments, "revision": "nowhere"}})
    assert done.returncode == 1 and "nowhere" in done.stderr
    hub.fail("GET /lfs/", status=500, times=99)
    done = bench.start({"do": "read", "world": world, "repo": "me/hidden", "hub": arguments})
    hub.faults.clear()
    assert done.returncode == 1


@pytest.mark.slow
def test_without_the_flag_a_reader_is_asked_for_it(bench):
    bench.run({"do": "push", "repo": "me/asked"})
    done = bench.start({"do": "read", "world": "bare", "repo": "me/asked"})
    assert done.returncode == 1 and "trust_remote_code=True" in done.stderr


# The whole matrix


ACCESS = {
    "public": ({}, None, {}),
    "private": ({"private": True}, None, {"token": "hf_of_me"}),
    "revision": ({"revision": "v1"}, None, {"revision": "v1"}),
}
"""How something is pushed, the token of the reader's environment, and what the reader passes."""


@pytest.fixture(scope="module")
def shelf(bench):
    """What was pushed, by kind and access, each with weights of its own; pushed when it is first asked for."""
    pushed = {}

    def fetch(kind, access):
        if (kind, access) not in pushed:
            base = fetch("pipeline", access)[0] if kind == "adapter" and access != "revision" else "me/pipeline"
            if kind == "adapter" and access == "revision":
                fetch("pipeline", "revision")
            repo = f"me/{kind}{'-private' if access == 'private' else ''}"
            if access == "revision":
                fetch(kind, "public")  # The main branch holds other weights.
            seed = 7 * len(pushed) + 1
            job = {"do": "push", "kind": kind, "repo": repo, "hub": ACCESS[access][0], "seed": seed, "base": base}
            if kind == "adapter":
                job["base_hub"] = {"revision": "v1"} if access == "revision" else {}
            pushed[kind, access] = repo, bench.run(job)
        return pushed[kind, access]

    return fetch


@pytest.mark.slow
@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", ["model", "pipeline", "adapter", "prediction", "space", "composed"])
def test_every_cell_gives_what_was_pushed(bench, shelf, tmp_path, kind, world, access):
    repo, pushed = shelf(kind, access)
    arguments, classes = WORLDS[world]
    _, token, access_arguments = ACCESS[access]
    job = {"do": "read", "kind": kind, "world": world, "repo": repo, "hub": {**arguments, **access_arguments}}
    told = bench.run({**job, "save": str(tmp_path / "saved")}, token=token)
    assert_same(told, pushed)
    assert told["modules"] == classes
    if access == "revision":
        with pytest.raises(AssertionError):
            assert_same(told, shelf(kind, "public")[1])
    # Saved there, and opened by another process: of an adapter with its base, so with what opens that.
    again = {**job, "repo": str(tmp_path / "saved"), "hub": arguments if kind != "adapter" else job["hub"]}
    assert_same(bench.run(again, token=token), pushed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "pipeline", "prediction", "space", "composed"])
def test_what_one_world_saves_or_pushes_the_other_opens(bench, shelf, tmp_path, kind):
    repo, pushed = shelf(kind, "public")
    read = {"do": "read", "kind": kind, "repo": repo}
    # From a reader's folder, and a reader's own push, to one who has the package, and to another reader.
    pushes = {} if kind == "model" else {"push": f"me/{kind}-by-reader"}
    bench.run({**read, "world": "bare", "hub": {"trust_remote_code": True}, "save": str(tmp_path / "bare"), **pushes})
    for place in (str(tmp_path / "bare"), *pushes.values()):
        for world, (arguments, _) in WORLDS.items():
            assert_same(bench.run({**read, "repo": place, "world": world, "hub": arguments}), pushed)
    if kind == "model":  # A model that was opened alone has kept the pipeline's code.
        told = bench.run({**read, "kind": "pipeline", "repo": str(tmp_path / "bare"), "world": "bare", "hub": arguments})
        assert_same(told, pushed)
    # A flag that is not needed does no harm: the classes are the package's.
    told = bench.run({**read, "hub": {"trust_remote_code": True}})
    assert told["modules"] == ["hf_genext"]
    assert_same(told, pushed)


@pytest.mark.slow
def test_a_pull_request_a_message_and_a_branch_are_what_they_are_in_transformers(bench):
    hub = bench.hub
    before = bench.run({"do": "push", "repo": "me/asked-for", "seed": 1})
    proposed = bench.run(
        {"do": "push", "repo": "me/asked-for", "seed": 2, "hub": {"create_pr": True, "commit_message": "Better weights"}},
    )
    repository = hub.repositories["me/asked-for"]
    assert repository.messages[repository.refs["refs/pr/1"]] == "Better weights"
    assert_same(bench.run({"do": "read", "repo": "me/asked-for"}), before)
    told = bench.run(
        {"do": "read", "world": "bare", "repo": "me/asked-for", "hub": {"revision": "refs/pr/1", "trust_remote_code": True}}
    )
    assert_same(told, proposed)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_an_adapter_that_is_pushed_by_the_function_has_a_card_of_facts(bench, shelf, world):
    base, _ = shelf("pipeline", "public")
    job = {"do": "push", "kind": "adapter", "repo": "me/by-function", "base": base, "by": "function"}
    pushed = bench.run({**job, "hub": {"commit_message": "An adapter"}})
    repository = bench.hub.repositories["me/by-function"]
    card = ModelCard(repository.files()["README.md"].decode())
    assert (card.data.base_model, card.data.library_name) == (base, "peft")
    assert "- r: 2" in card.text and "More Information Needed" not in card.text
    assert "An adapter" in repository.messages.values()
    told = bench.run({"do": "read", "kind": "adapter", "world": world, "repo": "me/by-function", "hub": WORLDS[world][0]})
    assert_same(told, pushed)


@pytest.mark.slow
def test_what_stands_beside_the_model_goes_along(bench, tmp_path):
    card = render_model_card(RESULTS, title="G2P", task="t", example="cat", license="mit", pictures={"Curve": "curve.png"})
    files = {"README.md": card, "curve.png": "png", "results.json": json.dumps(RESULTS), "ctranslate2/model.bin": "engine"}
    pushed = bench.run({"do": "push", "repo": "me/beside", "home": str(tmp_path / "home"), "files": files})
    repository = bench.hub.repositories["me/beside"].files()
    assert {"curve.png", "results.json", "ctranslate2/model.bin"} <= set(repository)
    assert b'model="me/beside"' in repository["README.md"]
    assert_same(bench.run({"do": "read", "repo": "me/beside", "world": "bare", "hub": {"trust_remote_code": True}}), pushed)


@pytest.mark.slow
def test_a_token_of_the_call_opens_the_exports_of_a_private_repository(bench):
    pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'hf_genext[onnx]'")
    program = (
        "from hf_genext import pipeline\nfrom hf_genext.export import export_model\n"
        "export_model('out/g2p')\n"
        "pipeline('conditional-generation', model='out/g2p').push_to_hub('me/exported', private=True)\n"
    )
    pushed = bench.run({"do": "run", "program": program})
    told = bench.run({"do": "read", "repo": "me/exported", "hub": {"token": "hf_of_me"}}, token=None)
    assert told["engine"] == "onnx"
    assert_same(told, pushed)


def test_the_token_that_opened_a_processor_is_not_saved(tmp_path):
    build_processor().save_pretrained(tmp_path / "first")
    opened = GenextProcessor.from_pretrained(tmp_path / "first", token="hf_of_me")
    assert opened.access == {"token": "hf_of_me"}
    opened.save_pretrained(tmp_path / "second")
    assert "hf_of_me" not in repr(opened)
    stored = pickle.dumps(opened)
    assert b"hf_of_me" not in stored and pickle.loads(stored).access == {}
    assert not [path for path in (tmp_path / "second").rglob("*") if path.is_file() and b"hf_of_me" in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_outputs_that_a_model_may_give_are_those_of_the_revision_and_of_whoever_may_read(bench, tmp_path, world):
    repo = f"me/allowed-{world}"
    for revision, output in (("main", "K AE T"), ("v1", "AH")):
        hub = {"private": True} | ({} if revision == "main" else {"revision": revision})
        home = str(tmp_path / revision)
        files = {"allowed_outputs.json": json.dumps([output])}
        pushed = bench.run({"do": "push", "repo": repo, "home": home, "files": files, "hub": hub})
        assert pushed["texts"] == [[{"generated_text": output}]] * 4
        reading = {**WORLDS[world][0], "token": "hf_of_me"} | ({} if revision == "main" else {"revision": revision})
        told = bench.run({"do": "read", "repo": repo, "world": world, "hub": reading}, token=None)
        assert told["texts"] == pushed["texts"]
    # A processor that does not open is not taken from another revision.
    repository = bench.hub.repositories[repo]
    repository.commit("v1", {**repository.files("v1"), "processor_config.json": b"{"}, "damage")
    done = bench.start({"do": "read", "repo": repo, "world": world, "hub": reading}, token=None)
    assert done.returncode == 1
    assert f"Transformers did not open the processor of {repo!r}" in done.stderr


# Programs


@pytest.mark.slow
def test_the_commands_of_the_readme_push_what_opens_anywhere(bench):
    section = (TESTS.parent / "README.md").read_text().split("## Share it")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", ""]
    push, adapter, shell = (text for _, text in blocks)
    pushed = bench.run({"do": "run", "program": push})
    assert bench.hub.repositories["me/g2p"].private
    reading = {"do": "read", "repo": "me/g2p"}
    told = bench.run({**reading, "world": "bare", "hub": {"trust_remote_code": True}})
    assert_same(told, pushed)
    assert_same(bench.run(reading), pushed)
    # In place of the folder's model, and with something that is trained.
    build = "from hub_cell import build_adapter\npeft_model = build_adapter('me/g2p', {}, 3)\n"
    bench.run({"do": "run", "program": build + adapter})
    told = bench.run({"do": "read", "kind": "adapter", "repo": "me/g2p-names"})
    assert told["logits"] != pushed["logits"]
    scripts = Path(sys.executable).parent
    program = f"import os, subprocess\nos.environ['PATH'] = {str(scripts)!r} + os.pathsep + os.environ['PATH']\n"
    program += f"subprocess.run({shell.replace('me/g2p', 'me/uploaded')!r}, shell=True, check=True)\n"
    pushed = bench.run({"do": "run", "program": program, "seed": 4})
    told = bench.run({"do": "read", "repo": "me/uploaded", "world": "bare", "hub": {"trust_remote_code": True}})
    assert_same(told, pushed)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_what_a_trainer_pushes_opens_anywhere(bench, world):
    program = (
        "from hf_genext import GenextTrainer, GenextTrainingArguments\n"
        "args = GenextTrainingArguments(output_dir='out/trained', hub_model_id='me/trained', report_to=[], use_cpu=True)\n"
        "trainer = GenextTrainer(model=built.model, args=args, processing_class=built.processor)\n"
        "trainer.push_to_hub()\n"
    )
    pushed = bench.run({"do": "run", "program": program, "seed": 9})
    told = bench.run({"do": "read", "repo": "me/trained", "world": world, "hub": WORLDS[world][0]})
    assert_same(told, pushed)


@pytest.mark.slow
def test_saving_with_push_to_hub_pushes_the_processor_too(bench):
    program = "built.save_pretrained('out/saved', push_to_hub=True, repo_id='me/saved', private=True, max_shard_size='100KB')\n"
    pushed = bench.run({"do": "run", "program": program, "seed": 5})
    assert bench.hub.repositories["me/saved"].private
    told = bench.run({"do": "read", "repo": "me/saved", "world": "bare", "hub": {"trust_remote_code": True}})
    assert_same(told, pushed)
