"""Requests to tasks that answer rows: checked as rows of a file are, answered together with whatever else waits."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from fastapi import HTTPException

from llmstage.data.chat_formats import to_messages
from llmstage.data.images import BASE64, DATA_URI
from llmstage.data.row_checks import complaint
from llmstage.data.rows import Columns, Row
from llmstage.inference.inference_session import Ready
from llmstage.inference.server.row_worker import Answers
from llmstage.inference.server.schemas import RowsForm, TextsForm


class Rows:
    """`name`: of the model; `answers`: the thread behind."""

    def __init__(self, ready: Ready, answers: Answers, name: str) -> None:
        self.ready, self.answers, self.name = ready, answers, name
        self.columns: Columns = ready.task.columns.without(ready.task.target_columns)
        self.task, self.route, self.embeds = ready.run.task.name, ready.task.route, ready.task.embeds
        self.converses = "messages" in self.columns.required

    def routes(self) -> list[str]:
        """Of this task beside those that write, in the order in which someone would try them."""
        return [f"/v1/{name}" for name in (self.route, "embed" if self.embeds else "") if name]

    def described(self) -> dict[str, Any] | None:
        """What a row holds and where it is sent; None where rows are not answered."""
        if not self.route:
            return None
        told = {word: list(getattr(self.columns, word)) for word in ("required", "optional", "images")}
        return {"route": self.route, **told, "either": [list(group) for group in self.columns.either]}

    async def answer(self, form: RowsForm) -> dict[str, Any]:
        given = form.input if isinstance(form.input, list) else [form.input]
        rows = [self.row(value, number) for number, value in enumerate(given)]
        said = await asyncio.gather(*map(asyncio.wrap_future, self.answers.ask(rows)))
        for number, answer in enumerate(said):
            if isinstance(answer, str):
                raise HTTPException(400, f"input[{number}]: {answer}.")
        data = [{"index": number, **answer} for number, answer in enumerate(said) if isinstance(answer, dict)]
        return {"object": "list", "model": self.name, "data": data}

    def row(self, value: str | dict[str, Any], number: int) -> Row:
        """A row in the task's words. Raises 400 where it is none."""
        words = (*self.columns.required, *self.columns.optional)
        if isinstance(value, str):
            texts = self.columns.required or tuple(group[0] for group in self.columns.either[-1:])
            if len(texts) != 1 or texts[0] in self.columns.images:
                raise HTTPException(400, f"input[{number}]: a row is an object here, with {', '.join(words)}.")
            value = {texts[0]: value}
        unknown = [word for word in value if word not in words]
        if unknown:
            raise HTTPException(
                400, f"input[{number}].{unknown[0][:80]} is not known here. A row has: {', '.join(words)}."
            )
        row: Row = dict(value)
        if "messages" in self.columns.required:
            made = to_messages(row, replies=False)
            if isinstance(made, str):
                raise HTTPException(400, f"input[{number}]: {made}.")
            row = made
        for word in self.columns.images:
            picture = row.get(word)
            # A place on the server's disk or in the web must not be read for whoever asks.
            if isinstance(picture, str) and not picture.startswith(DATA_URI) and not BASE64.fullmatch(picture):
                raise HTTPException(400, f"input[{number}].{word}: send the picture itself, as base64 or a data: URI.")
            if isinstance(picture, str) and not picture.startswith(DATA_URI):
                row[word] = f"{DATA_URI};base64,{picture}"
        reason = complaint(row, {}, self.columns, self.ready.run.data.max_row_mb)
        task = self.ready.task
        reason = reason or task.check_row(task.dummy_target(row))
        if reason:
            raise HTTPException(400, f"input[{number}]: {reason}.")
        return row

    async def embed(self, form: TextsForm) -> dict[str, Any]:
        texts = [form.input] if isinstance(form.input, str) else form.input
        vectors, tokens = await asyncio.to_thread(self.vectors, texts)
        data = [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)]
        return {
            "object": "list",
            "model": self.name,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    @torch.no_grad()
    def vectors(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """(a vector of length 1 for each text, tokens read)"""
        task = self.ready.task
        ids = [task.processor.marked_ids(text, None, task.context)[0] for text in texts]
        with self.ready.machine.autocast(self.ready.precision):
            made = task.text_vectors(self.ready.model, ids)
        made = torch.nn.functional.normalize(made.float(), dim=-1)
        return made.cpu().tolist(), sum(map(len, ids))
