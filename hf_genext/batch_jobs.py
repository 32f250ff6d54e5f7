"""Generation from files of any number of rows, which a kill at any moment only interrupts.

The rows of the input are parted into shards, and each rank answers some of them. A shard is written under another name and
renamed when it is whole, so that those that are there are whole; a job that is started again answers the rest. At the end the
shards are joined to one file, in the order of the input. Every row of the input is a row of the output, with its error where it
could not be answered.

Ranks share a file system, as all that they know of each other stands there.

Legend: rows, shards (rows that stand beside each other).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_genext.checkpoints import hold_folder
from hf_genext.conditions import ConditionColumns, look_up
from hf_genext.fast_decoding import get_setting
from hf_genext.genext.seeding_genext import check_seed
from hf_genext.media_columns import MEDIA_KINDS, find_path
from hf_genext.pipeline_inputs import Row
from hf_genext.row_shards import (
    KINDS_WRITTEN,
    ShardWriter,
    build_answer_schema,
    join_schemas,
    join_shards,
    list_shards,
    put_in_place,
)
from hf_genext.row_sources import ReadRow, RowSource, hash_file
from hf_genext.tables import is_nested, to_string

if TYPE_CHECKING:
    from accelerate import PartialState

    from hf_genext.pipelines import ConditionalGenerationPipeline


PLAN_NAME = "job.json"
JOINED_NAME = "joined.json"
SCHEMA_NAME = "schema.parquet"

_SIGNS_OF_MACHINE = ("out of memory", "allocate memory", "not enough memory", "CUDA", "HIP error", "MPS backend")
"""What runtime errors say where a machine failed."""


@dataclass(frozen=True)
class BatchJob:
    """What is to be done.

    Attributes:
        source: The rows.
        output: Where they go with their answers, a .parquet or .jsonl file.
        conditions: Which columns hold the conditions.
        arguments: Of a call of the pipeline.
        seed: Of sampling; a row draws by it and its place. Left out, one is drawn and kept with the job.
        rows_per_shard: What a kill can cost a rank.
        batch_size: The most rows that run at once; as the pipeline chooses it if left out.
        keep_columns: Columns of the input that the output has, too; all if left out.
        spaces: For each folder that a condition names the space: a mapping of words to vectors.
    """

    source: RowSource
    output: Path
    conditions: Sequence[ConditionColumns]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    rows_per_shard: int = 1000
    batch_size: int | None = None
    keep_columns: Sequence[str] | None = None
    spaces: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the shards lie."""
        return self.output.with_name(f"{self.output.name}.shards")


@dataclass(frozen=True)
class JobReport:
    """What became of a job.

    Attributes:
        rows: Rows of the output.
        failed: Those of them that have an error.
    """

    rows: int
    failed: int


def run_batch_job(pipe: ConditionalGenerationPipeline, job: BatchJob, ranks: PartialState | None = None) -> JobReport | None:
    """Answer every row of a source, or go on with that.

    Args:
        pipe: What answers them.
        job: What is to be done.
        ranks: The processes that share the work; this one alone if left out.

    Returns:
        The report, on the main process.

    Raises:
        ValueError: for settings that cannot be, or not those with which the job was begun; if none of the first rows can be
            answered.
        FileExistsError: if the output is there already, or files of others where the shards go.
        OSError: if it cannot be written; what was written stays.
    """
    is_main = ranks is None or ranks.is_main_process
    if is_main:
        _require_possible(job)
    with hold_folder(job.folder) if is_main else contextlib.nullcontext():
        try:
            if is_main:
                _begin(pipe, job)
            _wait(ranks)
            if not _is_joined(job):
                _answer_shards(pipe, job, ranks)
            _wait(ranks)
            return _finish(job) if is_main else None
        except Exception:
            if is_main and not list_shards(job.folder) and not _is_joined(job):
                shutil.rmtree(job.folder, ignore_errors=True)  # Nothing is done that another try could go on with.
            raise


def _require_possible(job: BatchJob) -> None:
    """Raise if there is something in the way.

    Raises:
        ValueError: for a kind of file that is not written, or numbers that cannot be.
        FileExistsError: if the output is there already, or files of others where the shards go.
    """
    if job.output.suffix not in KINDS_WRITTEN:
        raise ValueError(f"The output {str(job.output)!r} must end in {' or '.join(KINDS_WRITTEN)}.")
    if job.rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be 1 or more, got {job.rows_per_shard}.")
    if job.seed is not None:
        check_seed(job.seed)
    if job.arguments.get("return_alignments") and job.output.suffix != ".jsonl":
        raise ValueError("Alignments have no columns: with return_alignments write JSON lines, --output NAME.jsonl.")
    strange = [path.name for path in job.folder.iterdir() if not _is_own(path)] if job.folder.is_dir() else []
    if strange:
        raise FileExistsError(
            f"{str(job.folder)!r} is where the shards go, which are deleted at the end, and it holds {strange[0]!r}. Move "
            "that, or give another --output."
        )
    if job.output.exists() and not _is_joined(job):
        raise FileExistsError(
            f"The output {str(job.output)!r} is there already. Delete it, or give another; a job that was interrupted goes on "
            f"by its shards in {str(job.folder)!r}."
        )


def _is_own(path: Path) -> bool:
    """Whether a file in the folder of the shards can be of a job."""
    own = (PLAN_NAME, JOINED_NAME, SCHEMA_NAME)
    return path.name in own or path.name.startswith((".", "shard-")) or path.name.endswith((".unfinished", ".lock"))


def _wait(ranks: PartialState | None) -> None:
    if ranks is not None:
        ranks.wait_for_everyone()


# The plan


def _begin(pipe: Any, job: BatchJob) -> None:
    """Keep what the job is, or raise where another was begun here.

    Raises:
        ValueError: naming what differs.
    """
    asked = _describe(pipe, job)
    if _is_joined(job):
        _require_same(job, JOINED_NAME, asked)
        return
    for unfinished in job.folder.glob("*.unfinished"):
        unfinished.unlink()
    if list_shards(job.folder):
        _require_same(job, PLAN_NAME, asked)
    else:
        _write_plan(pipe, job, asked)


def _describe(pipe: Any, job: BatchJob) -> dict[str, Any]:
    """What makes a job the same as another, as it is kept."""
    asked = {
        "input": job.source.fingerprint(),
        "model": _describe_model(pipe),
        "conditions": [asdict(condition) for condition in job.conditions],
        "arguments": dict(job.arguments),
        "seed": job.seed,
        "rows_per_shard": job.rows_per_shard,
        "keep_columns": None if job.keep_columns is None else list(job.keep_columns),
    }
    return json.loads(json.dumps(asked, default=str))


def _write_plan(pipe: Any, job: BatchJob, asked: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    columns = job.source.list_columns(of_all_rows=True)
    if not columns and job.conditions:
        raise ValueError(f"No row of {job.source.name} has any column, so there is nothing to generate from.")
    missing = [name for condition in job.conditions for name in condition.columns if name not in columns]
    if missing:
        raise ValueError(
            f"There is no column {missing[0]!r} in {job.source.name}; it has {', '.join(map(repr, columns))}. Say which "
            "columns hold the conditions: --conditions.text COLUMN."
        )
    arguments = _list_arguments(pipe, job)
    has_several = _count_answers(pipe, arguments) > 1
    is_typed = job.output.suffix == ".parquet" or not job.source.has_lines_of_json
    schema = join_schemas(
        job.source.scan_schema() if is_typed else None,
        build_answer_schema(pipe, arguments, has_several=has_several, is_drawn=_is_drawn(pipe, arguments)),
        columns if job.keep_columns is None else job.keep_columns,
        job.output.suffix,
        columns,
    )
    with _writing(job):
        if schema is not None:
            pq.write_table(schema.empty_table(), job.folder / SCHEMA_NAME)
        seed = secrets.randbits(62) if job.seed is None else job.seed
        plan = {
            "id": secrets.token_hex(8),
            "asked": asked,
            "seed": seed,
            "rows": job.source.count(),
            "has_several": has_several,
        }
        _write_json(job.folder / PLAN_NAME, plan)


def _require_same(job: BatchJob, name_of_record: str, asked: dict[str, Any]) -> None:
    """Raise unless what is there is of this job."""
    record = job.folder / name_of_record
    if not record.is_file():
        raise ValueError(f"{str(job.folder)!r} holds shards without a {record.name}. Delete it, or give another --output.")
    begun = json.loads(record.read_text(encoding="utf-8"))["asked"]
    for name, value in asked.items():
        if value != begun.get(name):
            raise ValueError(
                f"The shards in {str(job.folder)!r} are those of another job: {name} was {begun.get(name)!r:.200}, and is "
                f"{value!r:.200}. Run that job again, delete the folder, or give another --output."
            )


def _list_arguments(pipe: Any, job: BatchJob) -> dict[str, Any]:
    """What a call of the pipeline gets; single outputs are drawn where a seed is given, as a call with `seed` draws them."""
    is_seeded = job.seed is not None and not pipe.model.can_generate()
    return {**({"do_sample": True} if is_seeded else {}), **job.arguments}


def _count_answers(pipe: Any, arguments: Mapping[str, Any]) -> int:
    """Answers of a row."""
    if not pipe.model.can_generate():
        return int(arguments.get("num_return_sequences") or arguments.get("top_k") or 1)
    return int(get_setting(pipe.model, arguments, "num_return_sequences") or 1)


def _is_drawn(pipe: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether single outputs are drawn from what a model predicts, so that nothing is said of how sure it is."""
    return not pipe.model.can_generate() and bool(pipe._sanitize_parameters(**arguments)[1].get("do_sample"))


def _describe_model(pipe: Any) -> Any:
    """What changes when a model does: the contents of a folder, or the revision of a repository."""
    if getattr(pipe.model, "_hf_peft_config_loaded", False):  # `name_or_path` is that of its base.
        weights = sorted(pipe.model.get_adapter_state_dict().items())
        adapter = {
            name: hashlib.sha256(weight.cpu().contiguous().view(torch.uint8).numpy()).hexdigest() for name, weight in weights
        }
        return {"base": _describe_folder(pipe), "adapter": adapter}
    return _describe_folder(pipe)


def _describe_folder(pipe: Any) -> Any:
    folder = Path(pipe.model.name_or_path)
    if not folder.is_dir():
        return {"name": str(folder), "revision": getattr(pipe.model.config, "_commit_hash", None)}
    paths = sorted([*folder.glob("*"), *folder.glob("target_tokenizer/*")])
    kinds = (".json", ".jinja", ".model", ".safetensors", ".txt")
    return {str(path.relative_to(folder)): hash_file(path) for path in paths if path.is_file() and path.suffix in kinds}


def _read_plan(job: BatchJob) -> dict[str, Any]:
    return json.loads((job.folder / PLAN_NAME).read_text(encoding="utf-8"))


def _write_json(path: Path, content: Any) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    put_in_place(unfinished, path)


@contextlib.contextmanager
def _writing(job: BatchJob) -> Iterator[None]:
    """Say what is to be done where a file cannot be written."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(job.folder).free
        raise OSError(
            f"The output cannot be written: {error.strerror or error} ({free / 1e6:,.1f} MB are free in "
            f"{str(job.folder.parent)!r}). What is written stays: make room, and run the same command again."
        ) from error


# The work


def _answer_shards(pipe: Any, job: BatchJob, ranks: PartialState | None) -> None:
    """Answer this rank's share of the shards that are not there."""
    import pyarrow.parquet as pq

    rank, world = (0, 1) if ranks is None else (ranks.process_index, ranks.num_processes)
    plan, present = _read_plan(job), set(list_shards(job.folder))
    has_schema = (job.folder / SCHEMA_NAME).is_file()
    writer = ShardWriter(job.folder, job.output.suffix, pq.read_schema(job.folder / SCHEMA_NAME) if has_schema else None)
    _wait(ranks)  # All ranks have seen the same shards before the first is added.
    is_new, place, missing = not present, 0, 0
    with tqdm(total=plan["rows"], unit="row", desc="generating", disable=rank != 0) as bar:
        for shard, (count, read) in enumerate(job.source.pieces(job.rows_per_shard)):
            if shard not in present:
                if missing % world == rank:
                    records = _answer_rows(pipe, job, plan, read(), place)
                    if is_new and shard == 0 and all(record["error"] is not None for record in records):
                        what = f"None of the rows {place:,} to {place + count - 1:,} could be answered"
                        raise ValueError(f"{what}; what is wrong with the first: {records[0]['error']}")
                    if _read_plan(job)["id"] != plan["id"]:
                        raise RuntimeError(f"Another job was begun in {str(job.folder)!r}; this rank is of one that ended.")
                    with _writing(job):
                        writer.write(shard, records)
                missing += 1
            place += count
            bar.update(count)


def _answer_rows(pipe: Any, job: BatchJob, plan: dict[str, Any], rows: Sequence[ReadRow], place: int) -> list[dict[str, Any]]:
    """Rows with their answers, or with their errors."""
    conditions = [_read_condition(row, job) for row in rows]
    good = [index for index, condition in enumerate(conditions) if not isinstance(condition, Exception)]
    answers: list[Any] = list(conditions)
    arguments = _list_arguments(pipe, job)
    # What is chosen from draws is an answer, which is the same each time, as a call of the pipeline gives it.
    is_chosen = job.seed is None and pipe.model.can_generate() and pipe.chooses_from_draws(**arguments)
    seeds = [(0, 0) if is_chosen else (plan["seed"], place + index) for index in good]
    given = [Row(conditions[index], seed=seed) for index, seed in zip(good, seeds, strict=True)]
    for index, answer in zip(good, pipe.answer_each(given, batch_size=job.batch_size, **arguments), strict=True):
        answers[index] = answer
    failed = [index for index in good if _is_of_machine(answers[index])]
    if failed:
        # One row may be too large for a machine. Where one fails that it has answered, it is not the rows: they are still to
        # be answered.
        if len(failed) == len(good):
            raise answers[failed[0]]
        sound = [index for index in good if not isinstance(answers[index], Exception)][:1]
        again = [Row(conditions[index], seed=seeds[good.index(index)]) for index in (*failed, *sound)]
        found = pipe.answer_each(again, batch_size=1, **arguments)
        if any(isinstance(answer, Exception) for answer in found[len(failed) :]):
            raise answers[failed[0]]
        for index, answer in zip(failed, found, strict=False):
            answers[index] = answer
    records = []
    for row, answer in zip(rows, answers, strict=True):
        record: dict[str, Any] = dict(row) if isinstance(row, dict) else {}
        if job.keep_columns is not None:
            record = {name: record.get(name) for name in job.keep_columns}
        if isinstance(answer, Exception):
            record["error"] = _describe_error(answer)
        else:
            record |= {"error": None, **_gather_answers(answer, has_several=plan["has_several"])}
        records.append(record)
    return records


def _gather_answers(answers: list[dict[str, Any]], *, has_several: bool) -> dict[str, Any]:
    """The answer of a row, or several of them by what they are called."""
    if not answers:
        return {}
    if not has_several:
        return answers[0]
    gathered: dict[str, Any] = {name: [answer[name] for answer in answers] for name in answers[0]}
    # A text is cut for all of its answers.
    return gathered | ({"truncated": True} if "truncated" in gathered else {})


def _is_of_machine(failure: Any) -> bool:
    """Whether a machine failed, and not a row: of memory that is short on a processor PyTorch has no class of its own."""
    if isinstance(failure, (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)):
        return True
    return isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in _SIGNS_OF_MACHINE)


def _describe_error(error: Exception) -> str:
    """What is wrong, in one line; of what was not foreseen, also what kind of error it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, TypeError, OSError)) and text else f"{type(error).__name__}: {text}"


def _read_condition(row: ReadRow, job: BatchJob) -> dict[str, Any] | Exception:
    """A row's condition as the pipeline takes it; what is missing is left out."""
    if isinstance(row, Exception):
        return row
    found: dict[str, Any] = {}
    for condition in job.conditions:
        values = [None if _is_blank(row.get(column)) else row.get(column) for column in condition.columns]
        if all(value is None for value in values):
            continue
        try:
            found[condition.kind] = _read_value(condition, values, job)
        except Exception as error:  # Whatever is wrong with a row is its answer.
            return error
    if not found and job.conditions:
        columns = ", ".join(repr(column) for condition in job.conditions for column in condition.columns)
        return ValueError(f"There is no condition: {columns} is empty.")
    return found


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _read_value(condition: ConditionColumns, values: list[Any], job: BatchJob) -> Any:
    (value, *_) = values
    if condition.kind == "label":
        return {
            name: label if label is None else to_string(label) for name, label in zip(condition.columns, values, strict=True)
        }
    if condition.kind == "vector":
        if condition.space is not None:
            vector = look_up(job.spaces[condition.space], to_string(value))
            if vector is None:
                raise ValueError(f"The space {condition.space!r} has no vector of {value!r}.")
            return vector
        return np.array(value.split() if isinstance(value, str) else value, dtype=np.float32)
    if condition.kind == "text":
        return to_string(value) if isinstance(value, (bool, int, float)) else value
    if condition.kind == "audio":
        value = _type_samples(value, job.source, condition.columns[0])
    if condition.kind in MEDIA_KINDS and isinstance(value, str):
        return find_path(value, job.source.folder)
    if condition.kind in MEDIA_KINDS and isinstance(value, Mapping) and not value.get("bytes") and value.get("path"):
        return {**value, "path": find_path(value["path"], job.source.folder)}
    if condition.sampling_rate is not None and not isinstance(value, (str, bytes)):
        value = value if isinstance(value, Mapping) else {"array": value}
        return (
            value if value.get("sampling_rate") or value.get("bytes") else {**value, "sampling_rate": condition.sampling_rate}
        )
    return value


def _type_samples(value: Any, source: RowSource, column: str) -> Any:
    """Samples in lists as an array of the kind of number that their column holds, by which they are scaled."""
    samples = value.get("array") if isinstance(value, Mapping) else value
    if source.has_lines_of_json or not isinstance(samples, list):
        return value
    kind = source.scan_schema().field(column).type
    kind = kind.field("array").type if isinstance(value, Mapping) else kind
    while is_nested(kind):
        kind = kind.value_type
    array = np.asarray(samples, kind.to_pandas_dtype())
    return {**value, "array": array} if isinstance(value, Mapping) else array


# The end


def _is_joined(job: BatchJob) -> bool:
    """Whether the output is whole, and only its shards are still to be deleted."""
    marker = job.folder / JOINED_NAME
    return marker.is_file() and job.output.is_file() and job.output.stat().st_size == json.loads(marker.read_text())["bytes"]


def _finish(job: BatchJob) -> JobReport:
    """Join the shards, and delete them."""
    if not _is_joined(job):
        shards = list_shards(job.folder)
        if not shards:
            raise ValueError(f"There are no rows in {job.source.name}.")
        if shards != list(range(len(shards))):
            raise RuntimeError(f"Shards are missing in {str(job.folder)!r}; run the same command again.")
        unfinished = job.folder / f"{job.output.name}.unfinished"
        with _writing(job):
            rows, failed = join_shards(job.folder, shards, unfinished, job.output.suffix)
            size, asked = unfinished.stat().st_size, _read_plan(job)["asked"]
            _write_json(job.folder / JOINED_NAME, {"bytes": size, "rows": rows, "failed": failed, "asked": asked})
            put_in_place(unfinished, job.output)
    joined = json.loads((job.folder / JOINED_NAME).read_text())
    for path in job.folder.iterdir():
        if path.name != JOINED_NAME:  # Without it a kill between two files would leave an output that nobody vouches for.
            path.unlink()
    shutil.rmtree(job.folder)
    return JobReport(joined["rows"], joined["failed"])


__all__ = ["BatchJob", "JobReport", "run_batch_job"]
