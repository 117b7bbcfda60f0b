"""Rows through a model to lines: in their order, a chunk at a time, with everything that the input says of a row."""

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
from llmstage.data.inference_rows import Asked, StandardInput
from llmstage.data.quarantine import BadRows, split_place
from llmstage.data.resumable_output import Growing, Pipe
from llmstage.data.rows import Row
from llmstage.errors import DataError, Interrupted
from llmstage.inference.inference_session import Ready
from llmstage.training.session import StopFlag

CHUNK_CHARACTERS = 4_000_000
"""A chunk ends early where its texts are longer than this together."""
IMAGES = 8
"""Rows with pictures count so many times."""

Numbered = tuple[int, Row, str]
"""(number in the input, row, place)"""


@dataclass(slots=True)
class Predicted:
    """What came of a run."""

    rows: int
    """Lines that were written, those of an earlier part of the run included."""
    resumed: int
    """Lines that an earlier part had written."""
    refused: int
    seconds: float
    """Of this part, without the loading of the model."""


def predict(ready: Ready, output: Growing | Pipe, stop: StopFlag, bad_rows: BadRows, chunk_rows: int) -> Predicted:
    """Every row to a line. Raises DataError for a bad row where data.on_bad_row says so and for a file that changes,
    Interrupted after a signal; the draft is then what the same command goes on from."""
    started, resumed, refused = time.perf_counter(), output.lines, 0
    limit = ready.run.data.limit
    told = time.perf_counter()
    done = 0
    for chunk in chunks(ready, output.rows, limit, chunk_rows):
        lines = []
        answers = ready.answer([row for _, row, _ in chunk], [number for number, _, _ in chunk])
        for (number, row, place), said in zip(chunk, answers, strict=True):
            if isinstance(said, str):
                refused += 1
                shown, line = split_place(place)
                bad_rows.report(
                    shown,
                    f"predicted {number}",
                    line,
                    said,
                    json.dumps(row, ensure_ascii=False, default=str)[:500],
                    number,
                )
            else:
                lines.append(line_of(row, said))
        check(ready, output)
        output.add(lines, chunk[-1][0] + 1)
        done += len(chunk)
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            console.note(f"{output.rows:,} rows, {done / (told - started):,.0f} rows/s")
        if stop.name:
            output.close()
            raise Interrupted(f"Stopped by {stop.name} after {output.rows:,} rows; the same command goes on.")
    check(ready, output)
    output.finish()
    return Predicted(output.lines, resumed, refused, time.perf_counter() - started)


def check(ready: Ready, output: Growing | Pipe) -> None:
    try:
        if ready.asked is not None:
            ready.asked.check_unchanged()
    except DataError:
        output.drop()
        raise


def chunks(ready: Ready, skip: int, limit: int | None, size: int) -> Iterator[list[Numbered]]:
    """The rows behind the first `skip` of the input. Where a chunk ends depends on the rows alone, so that a run that goes
    on computes in the same batches."""
    weight = IMAGES if ready.run.task.reads_images else 1
    chunk: list[Numbered] = []
    characters = 0
    assert ready.source is not None
    for ordinal, (row, place) in enumerate(ready.source):
        number = row.number if isinstance(row, Asked) else ordinal
        if limit is not None and ordinal >= limit:
            break
        if number < skip:
            continue
        chunk.append((number, row, place))
        characters += sum(len(value) if isinstance(value, str) else 500 for value in row.values())
        if len(chunk) * weight >= size or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def line_of(row: Row, said: dict[str, Any]) -> dict[str, Any]:
    """The row's own columns, then what was predicted. A column that has the name of a part of the prediction and says
    something else goes on as `input_<name>`."""
    own = row.record if isinstance(row, Asked) else {}
    kept = {name if name not in said or said[name] == value else f"input_{name}": value for name, value in own.items()}
    return kept | said


def key_of(ready: Ready) -> str:
    """A fingerprint of everything that decides the lines; it has nothing of data.on_bad_row, so that a run stopped by a bad
    row goes on once it may pass it over."""
    run, place = ready.run, ready.pieces.place
    weights = sorted(place.model_dir.glob("*.safetensors")) if place and place.model_dir else []
    told = [
        [digest_of_file(path) for path in weights], run.model.path, asdict(run.task), asdict(run.generation), ready.pieces.context,
        ready.pieces.packing, run.trainer.eval_precision, run.trainer.eval_batch_tokens, run.data.limit, run.stage.name,
        asdict(run.stage), options_of(run.data, ready.task.columns) | {"on_bad_row": ""}, ready.pieces.processor.digest(),
        ready.asked.digest() if ready.asked is not None else "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reads_standard_input(ready: Ready) -> bool:
    return any(isinstance(file, StandardInput) or file.shown == "-" for file, _ in ready.asked.files)
