"""Requests that predict rows or embed texts. Rows are checked as rows of a data file are, and queued for the row worker."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from fastapi import HTTPException

from llmstage.data.chat_formats import to_messages
from llmstage.data.images import BASE64, DATA_URI
from llmstage.data.row_checks import complaint
from llmstage.data.rows import Columns, Row
from llmstage.inference.failures import ModelFailed, log_failure
from llmstage.inference.inference_session import InferenceSession
from llmstage.inference.server.row_worker import RowWorker
from llmstage.inference.server.schemas import EmbeddingRequest, RowsRequest


class RowHandler:
    """Turns requests into rows and predictions into replies. `model_name`: the name by which clients call the model."""

    def __init__(self, session: InferenceSession, worker: RowWorker, model_name: str) -> None:
        self.session, self.worker, self.model_name = session, worker, model_name
        self.columns: Columns = session.task.columns.without(session.task.target_columns)
        self.task, self.route, self.embeds = session.run.task.name, session.task.route, session.task.embeds
        self.converses = "messages" in self.columns.required

    def routes(self) -> list[str]:
        """Return the task's routes besides the completions, the one that a new user would try first at the front."""
        return [f"/v1/{name}" for name in (self.route, "embed" if self.embeds else "") if name]

    def row_schema(self) -> dict[str, Any] | None:
        """Return the columns of a row and the route that takes it; None where the task has no such route."""
        if not self.route:
            return None
        columns = {group: list(getattr(self.columns, group)) for group in ("required", "optional", "images")}
        return {"route": self.route, **columns, "either": [list(group) for group in self.columns.either]}

    async def predict(self, body: RowsRequest) -> dict[str, Any]:
        values = body.input if isinstance(body.input, list) else [body.input]
        rows = [self.to_row(value, number) for number, value in enumerate(values)]
        predictions = await asyncio.gather(*map(asyncio.wrap_future, self.worker.submit(rows)))
        for number, prediction in enumerate(predictions):
            if isinstance(prediction, str):
                raise HTTPException(400, f"input[{number}]: {prediction}.")
        data = [{"index": number, **pred} for number, pred in enumerate(predictions) if isinstance(pred, dict)]
        return {"object": "list", "model": self.model_name, "data": data}

    def to_row(self, value: str | dict[str, Any], number: int) -> Row:
        """Return a row with the task's columns. Raises HTTPException 400 where the value is not such a row."""
        columns = (*self.columns.required, *self.columns.optional)
        if isinstance(value, str):
            text_columns = self.columns.required or tuple(group[0] for group in self.columns.either[-1:])
            if len(text_columns) != 1 or text_columns[0] in self.columns.images:
                raise HTTPException(400, f"input[{number}]: a row is an object here, with {', '.join(columns)}.")
            value = {text_columns[0]: value}
        unknown = [column for column in value if column not in columns]
        if unknown:
            raise HTTPException(
                400, f"input[{number}].{unknown[0][:80]} is not known here. A row has: {', '.join(columns)}."
            )
        row: Row = dict(value)
        if "messages" in self.columns.required:
            converted = to_messages(row, replies=False)
            if isinstance(converted, str):
                raise HTTPException(400, f"input[{number}]: {converted}.")
            row = converted
        for column in self.columns.images:
            image = row.get(column)
            # A path or an address would make the server read its own disk or the web for any client.
            if isinstance(image, str) and not image.startswith(DATA_URI) and not BASE64.fullmatch(image):
                raise HTTPException(
                    400, f"input[{number}].{column}: send the picture itself, as base64 or a data: URI."
                )
            if isinstance(image, str) and not image.startswith(DATA_URI):
                row[column] = f"{DATA_URI};base64,{image}"
        reason = complaint(row, {}, self.columns, self.session.run.data.max_row_mb)
        task = self.session.task
        reason = reason or task.check_row(task.dummy_target(row))
        if reason:
            raise HTTPException(400, f"input[{number}]: {reason}.")
        return row

    async def embed(self, body: EmbeddingRequest) -> dict[str, Any]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        try:
            vectors, num_tokens = await asyncio.to_thread(self.embeddings, texts)
        except Exception as error:
            log_failure("embedding texts", error)
            raise ModelFailed from None
        data = [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)]
        return {
            "object": "list",
            "model": self.model_name,
            "data": data,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    @torch.no_grad()
    def embeddings(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Return a vector of length 1 for each text, and the number of tokens read."""
        task = self.session.task
        ids = [task.processor.marked_ids(text, None, task.context)[0] for text in texts]
        with self.session.machine.autocast(self.session.precision):
            vectors = task.text_vectors(self.session.model, ids)  # [N, D]
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
        return vectors.cpu().tolist(), sum(map(len, ids))
