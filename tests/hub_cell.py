"""A client of the test Hub, run in a process of its own by `test_publishing.py`: one job, told as JSON, answered as JSON.

It runs where the package is installed and where it is not, so it imports nothing of ours but where a job needs it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    pipeline,
)

torch.set_num_threads(1)
TASK = "conditional-generation"
WORDS = ["cat", "violin", "at", "tacit"]


def describe(model, processor) -> dict:
    """The ids and logits that a model gives for some words, by which any other weights are told from it."""
    inputs = processor(text=WORDS, padding=True, return_tensors="pt")
    start = torch.arange(4, 4 + 5).repeat(len(WORDS), 1)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=7, do_sample=False)
        logits = model(**inputs, decoder_input_ids=start).logits
    return {"ids": ids.tolist(), "logits": logits.tolist()}


def describe_pipeline(pipe) -> dict:
    """What a pipeline gives, and what its model does."""
    return {"texts": pipe(WORDS, batch_size=2), **describe(pipe.model, pipe.processor)}


def open_kind(kind: str, place: str, hub: dict):
    """Open a repository or folder through Transformers' doors."""
    if kind in ("pipeline", "adapter", "composed"):
        pipe = pipeline(TASK, model=place, device="cpu", **hub)
        told = describe_pipeline(pipe)
        if kind == "adapter":
            # The other way to open one; where a repository's code is trusted it stands behind the same arguments.
            assert describe(AutoModelForSeq2SeqLM.from_pretrained(place, **hub), pipe.processor) == describe(
                pipe.model, pipe.processor
            )
        return told, pipe, (pipe.model, pipe.processor, pipe)
    if kind == "prediction":
        pipe = pipeline(TASK, model=place, device="cpu", **hub)
        model = AutoModelForSequenceClassification.from_pretrained(place, **hub)
        inputs = pipe.processor(text=WORDS, padding=True, return_tensors="pt")
        return {"logits": model(**inputs).logits.tolist(), "answers": pipe(WORDS)}, pipe, (pipe.model, model, pipe)
    if kind == "space":
        space = AutoModel.from_pretrained(place, **hub)
        return {"logits": space.encode(["sun moon", "star"]).tolist(), "word": space["sun"].tolist()}, space, (space,)
    config, processor = AutoConfig.from_pretrained(place, **hub), AutoProcessor.from_pretrained(place, **hub)
    model = AutoModelForSeq2SeqLM.from_pretrained(place, **hub)
    encoder = AutoModel.from_pretrained(place, **hub)
    inputs = processor(text=WORDS, padding=True, return_tensors="pt")
    told = {**describe(model, processor), "memory": encoder(**inputs).last_hidden_state.tolist()}
    return told, (model, processor), (config, model, encoder, processor)


def save_kind(opened, folder: str) -> None:
    """Save what was opened, as a user would."""
    for part in opened if isinstance(opened, tuple) else (opened,):
        part.save_pretrained(folder)


def build_adapter(place: str, hub: dict, seed: int):
    """A model with an adapter of which no part is zero."""
    import peft

    from hf_genext import build_lora_config

    base = AutoModelForSeq2SeqLM.from_pretrained(place, **hub)
    model = peft.get_peft_model(base, build_lora_config(base, r=2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.4, generator=generator)
    return model.eval()


def build(kind: str, seed: int):
    """A small thing of a kind, other for each seed."""
    import specimens

    from hf_genext import ConditionalGenerationPipeline, GenextForConditionalGeneration, StaticEmbeddingModel

    if kind == "space":
        vectors = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).numpy()
        return StaticEmbeddingModel.from_words(["sun", "moon", "star"], vectors)
    pipe = specimens.build_pipeline()
    if kind == "prediction":
        config = pipe.model.config
        config.head = specimens.GenextHeadConfig(kind="class", output_names=["noun", "verb", "other"])
        model = specimens.GenextForPrediction(config)
    elif kind == "composed":
        words = [word for word in WORDS if word != "at"]
        space = StaticEmbeddingModel.from_words(
            words, torch.randn(len(words), 8, generator=torch.Generator().manual_seed(seed))
        )
        space.save_pretrained("space")
        processor = specimens.GenextProcessor(
            tokenizer=transformers.AutoTokenizer.from_pretrained("space"), target_tokenizer=pipe.processor.target_tokenizer
        )
        decoder = specimens.GenextDecoderConfig(
            vocab_size=len(processor.target_tokenizer), hidden_size=32, intermediate_size=40, num_attention_heads=2
        )
        model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=space, decoder=decoder, num_latents=2)
        pipe = ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)
    else:
        model = pipe.model
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25, generator=generator)
    pipe.model = model.eval()
    return ConditionalGenerationPipeline(model=model, processor=pipe.processor, tokenizer=pipe.tokenizer)


def push(job: dict) -> dict:
    """Build something, push it, and tell what it gives."""
    kind, repo, hub = job["kind"], job["repo"], job.get("hub", {})
    if kind == "adapter":
        base_hub = job.get("base_hub", {})
        model = build_adapter(job["base"], base_hub, job.get("seed", 0))
        processor = AutoProcessor.from_pretrained(job["base"], **base_hub)
        told = describe(model, processor)
        if job.get("by") == "function":
            from hf_genext.publishing import push_adapter

            push_adapter(model, repo, **hub)
        else:
            model.push_to_hub(repo, **hub)
        return told
    built = build("pipeline" if kind == "model" else kind, job.get("seed", 0))
    if "home" in job:
        built.save_pretrained(job["home"])
        for name, text in job.get("files", {}).items():
            path = Path(job["home"], name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        built = pipeline(TASK, model=job["home"], device="cpu")
    if kind == "space":
        answer = built.push_to_hub(repo, **hub)
        told = {"logits": built.encode(["sun moon", "star"]).tolist(), "word": built["sun"].tolist()}
    elif kind == "prediction":
        answer = built.push_to_hub(repo, **hub)
        inputs = built.processor(text=WORDS, padding=True, return_tensors="pt")
        with torch.no_grad():
            told = {"logits": built.model(**inputs).logits.tolist(), "answers": built(WORDS)}
    elif kind == "model":
        answer = built.model.push_to_hub(repo, **hub)
        built.processor.push_to_hub(repo, **{name: value for name, value in hub.items() if name != "create_pr"})
        inputs = built.processor(text=WORDS, padding=True, return_tensors="pt")
        with torch.no_grad():
            memory = built.model.get_encoder()(**inputs).last_hidden_state
        told = {**describe(built.model, built.processor), "memory": memory.tolist()}
    else:
        answer = built.push_to_hub(repo, **hub)
        told = describe_pipeline(built)
    return {**told, "answer": str(answer)}


def read(job: dict) -> dict:
    """Open something, tell what it gives, and save it where that is asked for."""
    hub = job.get("hub", {})
    told, opened, objects = open_kind(job["kind"], job["repo"], hub)
    told["modules"] = sorted({type(each).__module__.split(".")[0] for each in objects})
    told["engine"] = getattr(getattr(opened, "engine_model", None), "engine", "torch")
    if "save" in job:
        save_kind(opened, job["save"])
    if job.get("twice"):
        told["again"] = open_kind(
            job["kind"], job["save"], {name: hub[name] for name in ("trust_remote_code",) if name in hub}
        )[0]
        told["first"] = open_kind(job["kind"], job["repo"], hub)[0]
    if "push" in job:
        opened.push_to_hub(job["push"])
    return told


def run(job: dict) -> dict:
    """Run a program in a folder where `out/g2p` is a model, and tell what that gives."""
    torch.manual_seed(0)
    built = build("pipeline", job.get("seed", 0))
    built.save_pretrained("out/g2p")
    exec(job["program"], {"built": built})
    return describe_pipeline(built)


def main() -> None:
    """Do what the first argument says."""
    job = json.loads(Path(sys.argv[1]).read_text())
    installed = importlib.util.find_spec("hf_genext") is not None
    assert installed == (job["world"] == "installed"), f"hf_genext is {'' if installed else 'not '}installed"
    if installed:
        import hf_genext  # noqa: F401
    transformers.utils.logging.disable_progress_bar()
    told = {"push": push, "read": read, "run": run}[job["do"]](job)
    Path(sys.argv[2]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
