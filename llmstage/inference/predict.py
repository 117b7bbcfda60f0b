"""Predicts the rows of a file in their order, a chunk at a time, and writes each with its input columns as a line."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.data.file_source import options_of
from llmstage.data.inference_rows import InferenceRow, StandardInput
from llmstage.data.resumable_output import ResumableOutput, StdoutOutput
from llmstage.data.rows import BadRows, Row, parse_location
from llmstage.errors import DataError, Interrupted
from llmstage.inference.inference_session import InferenceSession
from llmstage.training.session import StopFlag

MAX_CHUNK_CHARACTERS = 4_000_000
"""A chunk ends early where its texts together are longer than this."""
IMAGE_WEIGHT = 8
"""A row with images counts as this many rows of a chunk."""

NumberedRow = tuple[int, Row, str]
"""(number in the input, row, location as `file:line`)"""


@dataclass(slots=True)
class Predicted:
    """The counts of a run, for report.json."""

    rows: int
    """Lines written, including those of an earlier part of the run."""
    resumed: int
    """Lines that an earlier part wrote."""
    refused: int
    """Rows that the task cannot encode."""
    seconds: float
    """Duration of this part, without the loading of the model."""


def predict(
    session: InferenceSession,
    output: ResumableOutput | StdoutOutput,
    stop: StopFlag,
    bad_rows: BadRows,
    chunk_rows: int,
) -> Predicted:
    """Write a line for every row.

    Raises DataError for a bad row where data.on_bad_row is error and for a file that changes, and Interrupted after a signal. The
    same command then continues from the draft.
    """
    started, resumed, refused = time.perf_counter(), output.lines, 0
    last_note, num_done = started, 0
    for chunk in chunks(session, output.rows, session.run.data.limit, chunk_rows):
        lines = []
        predictions = session.predict([row for _, row, _ in chunk], [number for number, _, _ in chunk])
        for (number, row, location), prediction in zip(chunk, predictions, strict=True):
            if isinstance(prediction, str):
                refused += 1
                file_name, line = parse_location(location)
                raw = json.dumps(row, ensure_ascii=False, default=str)[:500]
                bad_rows.report(file_name, f"predicted {number}", line, prediction, raw, number)
            else:
                lines.append(output_line(row, prediction))
        check_unchanged(session, output)  # before the lines are saved: they would be predictions of another file
        output.add(lines, chunk[-1][0] + 1)
        num_done += len(chunk)
        if time.perf_counter() - last_note > 10:
            last_note = time.perf_counter()
            console.note(f"{output.rows:,} rows, {num_done / (last_note - started):,.0f} rows/s")
        if stop.name:
            output.close()
            raise Interrupted(f"Stopped by {stop.name} after {output.rows:,} rows; the same command continues.")
    check_unchanged(session, output)
    output.finish()
    return Predicted(output.lines, resumed, refused, time.perf_counter() - started)


def check_unchanged(session: InferenceSession, output: ResumableOutput | StdoutOutput) -> None:
    """Drop the output and raise DataError where an input file has changed."""
    try:
        if session.file_source is not None:
            session.file_source.check_unchanged()
    except DataError:
        output.drop()
        raise


def chunks(session: InferenceSession, skip: int, limit: int | None, size: int) -> Iterator[list[NumberedRow]]:
    """Yield the rows after the first `skip` rows of the input.

    The end of a chunk depends on the rows alone, so that a resumed run computes the same batches.
    """
    weight = IMAGE_WEIGHT if session.run.task.reads_images else 1
    chunk: list[NumberedRow] = []
    num_characters = 0
    assert session.source is not None
    for ordinal, (row, location) in enumerate(session.source):
        number = row.number if isinstance(row, InferenceRow) else ordinal
        if limit is not None and ordinal >= limit:
            break
        if number < skip:
            continue
        chunk.append((number, row, location))
        num_characters += sum(len(value) if isinstance(value, str) else 500 for value in row.values())
        if len(chunk) * weight >= size or num_characters >= MAX_CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def output_line(row: Row, prediction: dict[str, Any]) -> dict[str, Any]:
    """Return the input columns of a row and its prediction.

    An input column with the name of a prediction field and another value gets the name `input_<name>`. A column of the task that
    the prediction repeats is left out where the line has it under the name that the file gives it.
    """
    columns = row.record if isinstance(row, InferenceRow) else {}
    values = list(columns.values())
    repeated = {name for name in prediction if name in row and name not in columns and row[name] in values}
    prediction = {name: value for name, value in prediction.items() if name not in repeated or value != row[name]}
    renamed = {
        name if name not in prediction or prediction[name] == value else f"input_{name}": value
        for name, value in columns.items()
    }
    return renamed | prediction


def output_fingerprint(session: InferenceSession) -> str:
    """Return a hash of everything that determines the lines.

    data.on_bad_row is not a part of it: a run that stopped at a bad row can continue with on_bad_row=quarantine.
    """
    run, source = session.run, session.components.model_source
    weights = sorted(source.model_dir.glob("*.safetensors")) if source and source.model_dir else []
    inputs = [
        [file_digest(path) for path in weights], run.model.path, asdict(run.task), asdict(run.generation), session.components.context,
        session.components.packing, run.trainer.eval_precision, run.trainer.eval_batch_tokens, run.data.limit, run.stage.name,
        asdict(run.stage), options_of(run.data, session.task.columns) | {"on_bad_row": ""}, session.components.processor.digest(),
        session.file_source.digest() if session.file_source is not None else "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(inputs, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reads_standard_input(session: InferenceSession) -> bool:
    """Return whether the rows come from standard input, which cannot be read a second time."""
    source = session.file_source
    return source is not None and any(
        isinstance(file, StandardInput) or file.display_name == "-" for file, _ in source.files
    )
