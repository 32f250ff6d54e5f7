"""Writes the tables of benchmarks/README.md from the files in benchmarks/results/.

python benchmarks/report.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() != HERE.parent)]

from recipes.results import replace_marked


def _training(results: dict[str, Any]) -> str:
    lines = [
        "| way to train | target tokens/s | ratio | its best rate | validation loss after equal time |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in results["contenders"].items():
        lines.append(
            f"| {name} | {row['tokens_per_second']:,.0f} | {row['ratio']:.2f} | {row['learning_rate']:g} "
            f"| {row['validation_loss']:.4f} |"
        )
    lines += [
        "",
        f"{results['hardware']}; {results['seconds_of_training']:.0f} s of training each, compiling included; "
        f"median of {len(next(iter(results['contenders'].values()))['tokens_per_second_rounds'])} rounds that take turns.",
        "",
        f"Forward and backward pass take {results['mflop_per_target_token']:.1f} MFLOP per real target token, so "
        f"`GenextTrainer` computes {results['gflops_per_second']:.0f} GFLOP/s with {results['num_threads']} thread(s), the "
        "optimizer not counted.",
        "",
        "Self CPU time of a step that is not compiled, by operation:",
        "",
        "| operation | share |",
        "|---|---:|",
        *(f"| {name} | {share:.0%} |" for name, share in results["profile"].items()),
    ]
    return "\n".join(lines)


def _whisper(results: dict[str, Any]) -> str:
    lines = [
        "| search | way | CPU s | times as fast | words as spoken | text as Transformers' |",
        "|---|---|---:|---:|---|---|",
    ]
    told = {True: "yes", False: "no"}
    for search, ways in results["searches"].items():
        for way, row in ways.items():
            lines.append(
                f"| {search} | {way} | {row['cpu_seconds']:.2f} | {row['ratio']:.2f} | {told[row['is_as_spoken']]} "
                f"| {told[row['is_as_the_peer']]} |"
            )
    return "\n".join([*lines, "", f"{results['hardware']}; medians of {results['rounds']} rounds in turns."])


def _allocator(results: dict[str, Any]) -> str:
    lines = [
        "| model of g2p | freed memory is | target tokens per CPU s | ratio | time in the system | page faults a step | GiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for size, row in results["sizes"].items():
        for way, ratio in (("given back", 1.0), ("kept", row["ratio"])):
            found = row[way]
            lines.append(
                f"| {size} | {way} | {found['tokens_per_cpu_second']:,.0f} | {ratio:.2f} | {found['system_share']:.0%} "
                f"| {found['page_faults_per_step']:,.0f} | {found['peak_bytes'] / 2**30:.1f} |"
            )
    note = f"{results['hardware']}; {results['steps']} steps each, medians of {results['rounds']} round(s) in turns."
    return "\n".join([*lines, "", note])


def _ranks(results: dict[str, Any]) -> str:
    lines = ["| ranks, one thread each | target tokens/s | ratio |", "|---|---:|---:|"]
    for count, row in results["ranks"].items():
        lines.append(f"| {count} | {row['tokens_per_second']:,.0f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def _imports(results: dict[str, Any]) -> str:
    lines = ["| import | CPU seconds |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {seconds:.2f} |" for name, seconds in results["cpu_seconds"].items()])


def _vectors(results: dict[str, Any]) -> str:
    lines = [
        f"| {results['words']:,} x {results['size']} from {results['file_bytes'] / 1e6:,.0f} MB of text "
        "| CPU seconds | ratio | peak memory, MiB |",
        "|---|---:|---:|---:|",
    ]
    for name, row in results["readers"].items():
        lines.append(f"| {name} | {row['cpu_seconds']:.2f} | {row['ratio']:.2f} | {row['peak_bytes'] / 2**20:,.0f} |")
    opening = results["opening"]
    return "\n".join(
        [
            *lines,
            "",
            f"From `AutoModel.from_pretrained` to the first `space[word]`: {1e3 * opening['wall_seconds']:.0f} ms, with "
            f"{opening['resident_bytes'] / 2**20:.0f} MiB more in memory beside a matrix of "
            f"{opening['matrix_bytes'] / 2**20:.0f} MiB; medians of {len(opening['runs'])} processes.",
            "",
            f"{results['hardware']}.",
        ]
    )


def _skip_gram(results: dict[str, Any]) -> str:
    lines = [
        "| size | threads | words per CPU second, gensim | ours | ratio | words per second of wall time, gensim | ours | ratio "
        "| peak MiB, gensim | ours |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results.get("rows", []):
        cells = [f"{row['size']}", f"{row['threads']}"]
        for kind in ("cpu", "wall"):
            cells += [f"{row[kind]['gensim']:,.0f}", f"{row[kind]['hf_genext']:,.0f}", f"**{row[kind]['ratio']:.2f}**"]
        peak = row.get("peak_mib", {})
        cells += [f"{peak[name]:,.0f}" if name in peak else "" for name in ("gensim", "hf_genext")]
        lines.append("| " + " | ".join(cells) + " |")
    if results.get("rows"):
        rounds = len(results["rows"][0]["cpu"]["rounds"]["gensim"])
        lines += ["", f"{results['hardware']}; one epoch of {results['rows'][0]['words']:,} words; medians of {rounds} rounds."]
    if "growth" in results:
        lines += [
            "",
            "| words of text | CPU seconds per million | peak MiB |",
            "|---:|---:|---:|",
            *(
                f"| {row['words']:,.0f} | {row['cpu_seconds_per_million']:.2f} | {row['peak_mib']:,.0f} |"
                for row in results["growth"]
            ),
        ]
    return "\n".join(lines)


def _embedding_quality(results: dict[str, Any]) -> str:
    lines = [
        "| objective | size | seeds | WordSim-353, gensim | ours | standard error "
        "| SimLex-999, gensim | ours | standard error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["table"]:
        if "wordsim353" not in row:
            continue
        cells = [row["kind"].replace("_", "-"), str(row["size"]), str(row["wordsim353"]["seeds"])]
        for metric in ("wordsim353", "simlex999"):
            cells += [f"{row[metric][name]:.4f}" for name in ("gensim", "hf_genext", "standard_error")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _embedding_ranks(results: dict[str, Any]) -> str:
    lines = ["| ranks, one thread each | words/s | ratio | WordSim-353 | SimLex-999 |", "|---|---:|---:|---:|---:|"]
    for count, row in results["ranks"].items():
        scores = [f"{row[name]:.4f} ± {row['deviation'].get(name, 0.0):.4f}" for name in ("wordsim353", "simlex999")]
        lines.append(f"| {count} | {row['words_per_second']:,.0f} | {row['ratio']:.2f} | {' | '.join(scores)} |")
    return "\n".join(lines)


def _compositions(results: dict[str, Any]) -> str:
    rows = {(row["bottleneck"], row["length"]): row for row in results["generation"]}
    names = list(dict.fromkeys(name for name, _ in rows))
    lines = [
        f"| condition, tokens | {' | '.join(f'{name}: ms a step | cached KiB a row' for name in names)} |",
        f"|---:|{'---:|---:|' * len(names)}",
    ]
    for length in sorted({length for _, length in rows}):
        cells = [rows[name, length] for name in names]
        shown = [f"{row['milliseconds_per_step']:.1f} | {row['memory_bytes_per_row'] / 1024:,.0f}" for row in cells]
        lines.append(f"| {length} | {' | '.join(shown)} |")
    if "start" in results:
        names = list(dict.fromkeys(name for row in results["start"].values() for name in row["losses"]))
        lines += ["", f"| nats a token | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
        for kind, row in results["start"].items():
            losses, more = row["losses"], row["differences"]
            # No minus before nothing.
            shown = [f"{losses[name]:.4f} ({round(more[name], 4) + 0.0:+.4f})" if name in losses else "" for name in names[1:]]
            facts = f"{kind}, {row['parameters'] / 1e6:.1f}M parameters, {row['tokens']:,} tokens of {row['texts']} texts"
            lines.append(f"| {facts} | {losses['alone']:.4f} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", f"{results['hardware']}; medians of {len(results['generation'][0]['rounds'])} rounds."])


def _cached_encoders(results: dict[str, Any]) -> str:
    lines = [
        "| recipe | precision | CPU seconds, without | with | ratio | wall time, ratio | filling, CPU seconds | MB | steps "
        "| losses differ by | by other padding alone | in float64 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["recipes"].items():
        for precision, times in row["times"].items():
            cells = [
                name,
                {"fp32": "float32", "bf16": "bfloat16"}[precision],
                *(f"{times['ways'][way]['cpu_seconds']:.1f}" for way in ("without", "with")),
                f"**{times['cpu_ratio']:.2f}**",
                f"{times['wall_ratio']:.2f}",
                f"{times['filling_cpu_seconds']:.1f}",
                f"{times['bytes'] / 1e6:,.0f}",
                f"{row['steps']}",
            ]
            differences = ("difference", "difference_of_other_padding", "difference_in_float64")
            cells += [f"{row[name]:.0e}" if precision == "fp32" else "" for name in differences]
            lines.append("| " + " | ".join(cells) + " |")
    rows = results["recipes"].values()
    rounds = len(next(iter(rows))["times"]["fp32"]["ways"]["with"]["cpu_rounds"])
    texts = " and ".join(f"{row['texts']:,}" for row in rows)
    return "\n".join([*lines, "", f"{results['hardware']}; {texts} texts; medians of {rounds} rounds that take turns."])


def _generation(results: dict[str, Any]) -> str:
    lines = ["| model | search | inputs at once | way | ms an input | ratio | equal tokens | beside bare CTranslate2 |"]
    lines.append("|---|---|---:|---|---:|---:|---:|---:|")

    def show(model: dict[str, Any], search: str, size: str, row: dict[str, Any]) -> None:
        layers = model["num_hidden_layers"]
        norm = ", query and key norm" if model["use_qk_norm"] else ""
        for way, spent in row["milliseconds_per_input"].items():
            cells = [f"{layers}+{layers} layers, {model['hidden_size']}{norm}", search, size, way, f"{spent:.2f}"]
            has_ratio = way in row["ratio"]
            cells += [f"**{row['ratio'][way]:.2f}**", f"{row['equal_tokens'][way]:.4f}"] if has_ratio else ["1.00", ""]
            cells.append(f"{row['over_bare'][way]:.2f}" if way in row["over_bare"] else "")
            lines.append(f"| {' | '.join(cells)} |")

    for model in results["models"]:
        for row in model["batches"]:
            show(model, row["search"], str(row["batch_size"]), row)
        size = max(model["list"]["inputs"].values())
        show(model, "greedy, pipeline", f"a list of {size:,}", model["list"])
    first = results["models"][0]
    rounds, listed = (len(row["rounds"]["torch"]) for row in (first["batches"][0], first["list"]))
    note = f"medians of {rounds} rounds that take turns, {listed} for the list, of which the plain pipeline answers a part"
    return "\n".join([*lines, "", f"{results['hardware']}; CPU seconds, {note}."])


def _batch_jobs(results: dict[str, Any]) -> str:
    lines = ["| rows | CPU ms a row | peak memory, MiB |", "|---:|---:|---:|"]
    lines += [
        f"| {job['rows']:,} | {job['cpu_milliseconds_per_row']:.2f} | {job['peak_mib']:,.0f} |" for job in results["jobs"]
    ]
    layers, start = results["model"]["num_hidden_layers"], results["start"]
    note = f"{layers}+{layers} layers of {results['model']['hidden_size']}"
    begin = f"A job of one row takes {start['cpu_seconds']:.1f} CPU seconds and {start['peak_mib']:,.0f} MiB"
    return "\n".join([*lines, "", f"{results['hardware']}; {note}. {begin}."])


def _image_sampling(results: dict[str, Any]) -> str:
    lines = ["| model | parameters | images per CPU second | ratio |", "|---|---:|---:|---:|"]
    for name, row in results["rows"].items():
        lines.append(f"| {name} | {row['parameters']:,} | {row['images_per_second']:,.0f} | {row['ratio']:.2f} |")
    rounds = len(next(iter(results["rows"].values()))["rounds"])
    told = f"{results['hardware']}; {results['images']:,} images in one call, medians of {rounds} rounds that take turns."
    return "\n".join([*lines, "", told])


def _smoke_runs(results: dict[str, Any]) -> str:
    lines = ["| recipe | seconds |", "|---|---:|"]
    for name, row in results["recipes"].items():
        lines.append(f"| {name} | {row['seconds']:.0f} |" if row["seconds"] else f"| {name} | did not run: {row['said']} |")
    return "\n".join([*lines, "", f"{results['hardware']}; wall time, imports and scoring included."])


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "training": _training,
    "allocator": _allocator,
    "whisper": _whisper,
    "ranks": _ranks,
    "imports": _imports,
    "vectors": _vectors,
    "skip_gram": _skip_gram,
    "embedding_quality": _embedding_quality,
    "embedding_ranks": _embedding_ranks,
    "compositions": _compositions,
    "cached_encoders": _cached_encoders,
    "generation": _generation,
    "batch_jobs": _batch_jobs,
    "image_sampling": _image_sampling,
    "smoke_runs": _smoke_runs,
}


def write_tables() -> None:
    """Put each table between its marks in benchmarks/README.md."""
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, render in TABLES.items():
        file = HERE / "results" / f"{name}.json"
        if file.is_file():
            table = render(json.loads(file.read_text(encoding="utf-8")))
            text = replace_marked(text, name, table)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_tables()
