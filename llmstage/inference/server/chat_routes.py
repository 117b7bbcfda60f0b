"""Requests to a model that writes, in OpenAI's forms: what they ask becomes jobs of the writer, what it says a reply."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llmstage.config.stage import Serve
from llmstage.inference.retrieval.grounding import Grounded, Grounding
from llmstage.inference.server.generation_worker import Job, Piece, Writer
from llmstage.inference.server.schemas import ChatForm, CompletionForm, Sampling
from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt
from llmstage.tokenization.tokenizer import Processor

ENDLESS = 1 << 30


class TooLong(HTTPException):
    """More tokens than the model reads."""

    code = "context_length_exceeded"


class Chat:
    """`system`: put in front of conversations that have no system message; `temperature`, `top_p`: where a request has none.
    `grounding`: looks up what the last question asks for; None: nothing is looked up."""

    def __init__(
        self,
        writer: Writer,
        processor: Processor,
        cfg: Serve,
        name: str,
        *,
        system: str | None,
        temperature: float,
        top_p: float,
        grounding: Grounding | None = None,
    ) -> None:
        self.writer, self.processor, self.cfg, self.name, self.grounding = writer, processor, cfg, name, grounding
        self.system, self.temperature, self.top_p = system, temperature, top_p

    async def reply(self, form: ChatForm, request: Request) -> Response:
        if form.max_tokens is not None and form.max_completion_tokens is not None:
            raise HTTPException(
                400, "max_tokens and max_completion_tokens are two names of one thing; give one of them."
            )
        messages = [message.plain() for message in form.messages]
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        wanted = form.max_completion_tokens or form.max_tokens
        try:
            prompt, grounded = await asyncio.to_thread(self.prompt, messages, wanted)
        except TemplateRefused as error:
            raise HTTPException(400, f"messages: {error}.") from None
        key = "max_completion_tokens" if form.max_completion_tokens else "max_tokens"
        shape = ChatShape(self.name, grounded.told() if grounded else {})
        if grounded is None or grounded.text is None:
            return await self.respond(self.jobs([prompt], form, wanted, key), form, request, shape)
        self.check_wanted(wanted, key)
        told: asyncio.Queue[Piece] = asyncio.Queue()
        job = Job(prompt, wanted or self.cfg.max_tokens, told.put_nowait)
        job.new = self.processor.plain_ids([grounded.text])[0]
        whole = len(job.new) <= job.max_tokens
        job.new = job.new[: job.max_tokens]
        said = grounded.text if whole else self.processor.decode(job.new)
        job.told(Piece(said, finish="stop" if whole else "length"))
        return await self.respond([(job, told)], form, request, shape, written=True)

    def prompt(self, messages: list[dict[str, Any]], wanted: int | None) -> tuple[list[int], Grounded | None]:
        """(ids that the model reads, what was looked up). What users write, and passages, are encoded as plain text:
        <|assistant|> in them is no control token. Raises TemplateRefused."""
        prompt, _ = reply_prompt(self.processor, messages, ENDLESS)
        if self.grounding is None:
            return prompt, None
        longest = self.writer.longest
        reply = min(wanted or self.cfg.max_tokens, longest // 4)  # room that passages leave for what is written
        grounded = self.grounding.ground(messages, longest - len(prompt) - reply)
        if grounded.messages is not messages:
            prompt, _ = reply_prompt(self.processor, grounded.messages, ENDLESS)
        return prompt, grounded

    async def complete(self, form: CompletionForm, request: Request) -> Response:
        texts = [form.prompt] if isinstance(form.prompt, str) else form.prompt
        start = [] if self.processor.bos_id is None else [self.processor.bos_id]
        prompts = [[*start, *ids] for ids in await asyncio.to_thread(self.processor.plain_ids, texts)]
        if any(not prompt for prompt in prompts):
            raise HTTPException(400, "prompt: it is empty, and this model has no token to begin with.")
        return await self.respond(
            self.jobs(prompts, form, form.max_tokens, "max_tokens"), form, request, TextShape(self.name)
        )

    def jobs(
        self, prompts: list[list[int]], form: Sampling, wanted: int | None, key: str
    ) -> list[tuple[Job, asyncio.Queue[Piece]]]:
        self.check_wanted(wanted, key)
        loop = asyncio.get_running_loop()
        made = []
        for prompt in prompts:
            room = self.writer.longest - len(prompt)
            if room < 1:
                raise TooLong(
                    400,
                    f"The prompt has {len(prompt)} tokens and this model reads {self.writer.longest} with what it writes (context_length_exceeded).",
                )
            told: asyncio.Queue[Piece] = asyncio.Queue()

            def tell(piece: Piece, queue: asyncio.Queue[Piece] = told) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, piece)

            temperature = self.temperature if form.temperature is None else form.temperature
            job = Job(
                prompt, min(wanted or self.cfg.max_tokens, room), tell, temperature, form.top_p or self.top_p, form.seed,
                form.stops(), self.cfg.timeout, bool(form.stream),
            )  # fmt: skip
            made.append((job, told))
        return made

    def check_wanted(self, wanted: int | None, key: str) -> None:
        if wanted is not None and wanted > self.cfg.max_tokens:
            raise HTTPException(
                400, f"{key}={wanted} is more than this server writes: {self.cfg.max_tokens} (stage.max_tokens)."
            )

    async def respond(
        self, made: list[tuple[Job, asyncio.Queue[Piece]]], form: Sampling, request: Request, shape: Shape,
        *, written: bool = False,
    ) -> Response:  # fmt: skip
        """`written`: what is told stands in the queues already, and no model is asked."""
        if form.stream and len(made) > 1:
            raise HTTPException(400, "stream: one prompt at a time can be streamed.")
        added: list[Job] = []
        try:
            for job, _ in [] if written else made:
                self.writer.add(job)
                added.append(job)
        except Exception:
            for job in added:
                job.cancelled = True
            raise
        if form.stream:
            usage = bool(form.stream_options and form.stream_options.include_usage)
            return StreamingResponse(
                self.stream(*made[0], shape, usage=usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        whole: Any = asyncio.gather(*(collect(queue) for _, queue in made))
        gone = asyncio.ensure_future(left(request))
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not whole.done():
            whole.cancel()
            for job, _ in made:
                job.cancelled = True
            return Response(status_code=499)
        texts = whole.result()
        failed = next((piece.error for _, piece in texts if piece.error), None)
        if failed:
            raise HTTPException(500, failed)
        jobs = [job for job, _ in made]
        choices = [shape.choice(index, text, piece.finish) for index, (text, piece) in enumerate(texts)]
        return JSONResponse({**shape.head(shape.whole), "choices": choices, "usage": counted(jobs), **shape.beside})

    async def stream(self, job: Job, queue: asyncio.Queue[Piece], shape: Shape, *, usage: bool) -> AsyncIterator[str]:
        """Server-sent events. A client that leaves ends the generator, and with it the writing."""
        try:
            head = shape.head(shape.part)
            if shape.opening is not None:
                yield event({**head, "choices": [shape.opening]})
            while True:
                piece = await queue.get()
                if piece.error:
                    yield event(
                        {"error": {"message": piece.error, "type": "server_error", "param": None, "code": None}}
                    )
                    return
                if piece.text:
                    yield event({**head, "choices": [shape.delta(piece.text)]})
                if piece.finish:
                    last = {} if usage else shape.beside
                    yield event({**head, "choices": [shape.end(piece.finish)], **last})
                    break
            if usage:
                yield event({**head, "choices": [], "usage": counted([job]), **shape.beside})
            yield "data: [DONE]\n\n"
        finally:
            job.cancelled = True


class Shape:
    """How one of OpenAI's two forms is written. `beside`: fields of ours in the whole reply, or in its last event."""

    whole: str
    part: str
    prefix: str
    opening: dict[str, Any] | None = None

    def __init__(self, model: str, beside: dict[str, Any] | None = None) -> None:
        self.model, self.id, self.created = model, f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self.beside = beside or {}

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def end(self, finish: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatShape(Shape):
    whole, part, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}  # noqa: RUF012

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def delta(self, text: str) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}

    def end(self, finish: str) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}


class TextShape(Shape):
    whole, part, prefix = "text_completion", "text_completion", "cmpl"

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def delta(self, text: str) -> dict[str, Any]:
        return self.choice(0, text, None)

    def end(self, finish: str) -> dict[str, Any]:
        return self.choice(0, "", finish)


def event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"


def counted(jobs: list[Job]) -> dict[str, int]:
    """Tokens read and written; an end token is one of those written."""
    read, written = sum(len(job.prompt) for job in jobs), sum(len(job.new) for job in jobs)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def collect(queue: asyncio.Queue[Piece]) -> tuple[str, Piece]:
    """The whole text, and the piece that ended it."""
    parts = []
    while True:
        piece = await queue.get()
        parts.append(piece.text)
        if piece.finish or piece.error:
            return "".join(parts), piece


async def left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
