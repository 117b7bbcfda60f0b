"""Chat and text completions in OpenAI's forms. A request becomes jobs of the generation worker; their deltas become the reply."""

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
from llmstage.inference.retrieval.grounding import GroundedPrompt, Grounding
from llmstage.inference.server.generation_worker import GenerationWorker, Job, TextDelta
from llmstage.inference.server.schemas import ChatCompletionRequest, CompletionRequest, SamplingParams, error_body
from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt
from llmstage.tokenization.tokenizer import Processor

UNLIMITED = 1 << 30
"""A token limit for reply_prompt() that no conversation reaches, so that it drops no turn."""
JobAndDeltas = tuple[Job, "asyncio.Queue[TextDelta]"]


class ContextLengthExceeded(HTTPException):
    """The prompt has more tokens than the model reads."""

    code = "context_length_exceeded"


class CompletionHandler:
    """Answers chat and text completions.

    `system`: the system message of conversations that have none; `temperature`, `top_p`: the values where a request has none;
    `grounding`: searches passages for the last question; None turns retrieval off.
    """

    def __init__(
        self,
        worker: GenerationWorker,
        processor: Processor,
        cfg: Serve,
        model_name: str,
        *,
        system: str | None,
        temperature: float,
        top_p: float,
        grounding: Grounding | None = None,
    ) -> None:
        self.worker, self.processor, self.cfg, self.model_name = worker, processor, cfg, model_name
        self.system, self.temperature, self.top_p, self.grounding = system, temperature, top_p, grounding

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a chat completion, by the model or, with retrieval, by a passage or a refusal."""
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise HTTPException(
                400, "max_tokens and max_completion_tokens are two names of one field; give one of them."
            )
        messages = [message.to_dict() for message in body.messages]
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        max_tokens = body.max_completion_tokens or body.max_tokens
        try:
            prompt_ids, grounded = await asyncio.to_thread(self.prompt, messages, max_tokens)
        except TemplateRefused as error:
            raise HTTPException(400, f"messages: {error}.") from None
        field_name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        response_format = ChatFormat(self.model_name, grounded.response_fields() if grounded else {})
        if grounded is None or grounded.text is None:
            jobs = self.jobs([prompt_ids], body, max_tokens, field_name)
            return await self.respond(jobs, body, request, response_format)
        # Retrieval has the answer: the job gets its text here and is never submitted.
        self.check_max_tokens(max_tokens, field_name)
        deltas: asyncio.Queue[TextDelta] = asyncio.Queue()
        job = Job(prompt_ids, max_tokens or self.cfg.max_tokens, deltas.put_nowait)
        job.output_ids = self.processor.plain_ids([grounded.text])[0]
        fits = len(job.output_ids) <= job.max_tokens
        job.output_ids = job.output_ids[: job.max_tokens]
        text = grounded.text if fits else self.processor.decode(job.output_ids)
        job.on_delta(TextDelta(text, finish_reason="stop" if fits else "length"))
        return await self.respond([(job, deltas)], body, request, response_format, finished=True)

    def prompt(self, messages: list[dict[str, Any]], max_tokens: int | None) -> tuple[list[int], GroundedPrompt | None]:
        """Return the prompt's token ids and the result of the retrieval.

        Text of users and of passages is encoded without special tokens: `<|assistant|>` in it is plain text.
        Raises TemplateRefused.
        """
        prompt_ids, _ = reply_prompt(self.processor, messages, UNLIMITED)
        if self.grounding is None:
            return prompt_ids, None
        max_length = self.worker.max_length
        reserved = min(max_tokens or self.cfg.max_tokens, max_length // 4)  # tokens that passages leave for the reply
        grounded = self.grounding.ground(messages, max_length - len(prompt_ids) - reserved)
        if grounded.messages is not messages:
            prompt_ids, _ = reply_prompt(self.processor, grounded.messages, UNLIMITED)
        return prompt_ids, grounded

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Answer a text completion of one or more prompts."""
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        bos = [] if self.processor.bos_id is None else [self.processor.bos_id]
        prompts = [[*bos, *ids] for ids in await asyncio.to_thread(self.processor.plain_ids, texts)]
        if any(not prompt_ids for prompt_ids in prompts):
            raise HTTPException(400, "prompt: it is empty, and this model has no token to begin with.")
        jobs = self.jobs(prompts, body, body.max_tokens, "max_tokens")
        return await self.respond(jobs, body, request, CompletionFormat(self.model_name))

    def jobs(
        self, prompts: list[list[int]], body: SamplingParams, max_tokens: int | None, field_name: str
    ) -> list[JobAndDeltas]:
        """Return a job and the queue of its deltas for each prompt. Raises ContextLengthExceeded."""
        self.check_max_tokens(max_tokens, field_name)
        loop = asyncio.get_running_loop()
        jobs: list[JobAndDeltas] = []
        for prompt_ids in prompts:
            num_free = self.worker.max_length - len(prompt_ids)
            if num_free < 1:
                raise ContextLengthExceeded(
                    400,
                    f"The prompt has {len(prompt_ids)} tokens, and this model reads {self.worker.max_length} tokens of prompt and "
                    f"reply together (context_length_exceeded).",
                )
            deltas: asyncio.Queue[TextDelta] = asyncio.Queue()

            def on_delta(delta: TextDelta, queue: asyncio.Queue[TextDelta] = deltas) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, delta)  # an asyncio queue belongs to the loop's thread

            temperature = self.temperature if body.temperature is None else body.temperature
            job = Job(
                prompt_ids, min(max_tokens or self.cfg.max_tokens, num_free), on_delta, temperature, body.top_p or self.top_p,
                body.seed, body.stop_strings(), self.cfg.timeout, bool(body.stream),
            )  # fmt: skip
            jobs.append((job, deltas))
        return jobs

    def check_max_tokens(self, max_tokens: int | None, field_name: str) -> None:
        if max_tokens is not None and max_tokens > self.cfg.max_tokens:
            raise HTTPException(
                400,
                f"{field_name}={max_tokens} is more than this server writes: {self.cfg.max_tokens} (stage.max_tokens).",
            )

    async def respond(
        self, jobs: list[JobAndDeltas], body: SamplingParams, request: Request, response_format: ResponseFormat,
        *, finished: bool = False,
    ) -> Response:  # fmt: skip
        """Submit the jobs and return the reply. `finished`: the queues already have all deltas, and nothing is submitted."""
        if body.stream and len(jobs) > 1:
            raise HTTPException(400, "stream: one prompt at a time can be streamed.")
        # All prompts of a request or none: where the queue is full in between, the submitted ones are cancelled.
        submitted: list[Job] = []
        try:
            for job, _ in [] if finished else jobs:
                self.worker.submit(job)
                submitted.append(job)
        except Exception:
            for job in submitted:
                job.cancelled = True
            raise
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return StreamingResponse(
                self.stream(*jobs[0], response_format, include_usage=include_usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        # Wait for the texts, but not longer than the client does.
        texts_ready: Any = asyncio.gather(*(collect_text(deltas) for _, deltas in jobs))
        disconnected = asyncio.ensure_future(wait_for_disconnect(request))
        await asyncio.wait({texts_ready, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        disconnected.cancel()
        if not texts_ready.done():
            texts_ready.cancel()
            for job, _ in jobs:
                job.cancelled = True
            return Response(status_code=499)
        texts = texts_ready.result()
        error = next((last.error for _, last in texts if last.error), None)
        if error:
            raise HTTPException(500, error)
        choices = [response_format.choice(index, text, last.finish_reason) for index, (text, last) in enumerate(texts)]
        head = response_format.head(response_format.object_name)
        usage = token_usage([job for job, _ in jobs])
        return JSONResponse({**head, "choices": choices, "usage": usage, **response_format.extra_fields})

    async def stream(
        self, job: Job, deltas: asyncio.Queue[TextDelta], response_format: ResponseFormat, *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Yield server-sent events. A client that disconnects closes the generator, which cancels the job."""
        try:
            head = response_format.head(response_format.chunk_name)
            if response_format.first_choice is not None:
                yield server_sent_event({**head, "choices": [response_format.first_choice]})
            while True:
                delta = await deltas.get()
                if delta.error:
                    yield server_sent_event(error_body(delta.error, "server_error"))
                    return
                if delta.text:
                    yield server_sent_event({**head, "choices": [response_format.delta(delta.text)]})
                if delta.finish_reason:
                    extra = {} if include_usage else response_format.extra_fields
                    yield server_sent_event({**head, "choices": [response_format.last(delta.finish_reason)], **extra})
                    break
            if include_usage:
                usage = token_usage([job])
                yield server_sent_event({**head, "choices": [], "usage": usage, **response_format.extra_fields})
            yield "data: [DONE]\n\n"
        finally:
            job.cancelled = True


class ResponseFormat:
    """One of OpenAI's two reply forms. `extra_fields`: fields that OpenAI lacks, in the full reply or its last event."""

    object_name: str
    chunk_name: str
    id_prefix: str
    first_choice: dict[str, Any] | None = None

    def __init__(self, model_name: str, extra_fields: dict[str, Any] | None = None) -> None:
        self.model_name, self.created = model_name, int(time.time())
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.extra_fields = extra_fields or {}

    def head(self, object_name: str) -> dict[str, Any]:
        return {"id": self.id, "object": object_name, "created": self.created, "model": self.model_name}

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def last(self, finish_reason: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatFormat(ResponseFormat):
    object_name, chunk_name, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
    first_choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}  # noqa: RUF012

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}

    def delta(self, text: str) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}

    def last(self, finish_reason: str) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason}


class CompletionFormat(ResponseFormat):
    object_name, chunk_name, id_prefix = "text_completion", "text_completion", "cmpl"

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def delta(self, text: str) -> dict[str, Any]:
        return self.choice(0, text, None)

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self.choice(0, "", finish_reason)


def server_sent_event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


def token_usage(jobs: list[Job]) -> dict[str, int]:
    """Return the token counts of a reply. An end token counts as a completion token."""
    num_prompt = sum(len(job.prompt_ids) for job in jobs)
    num_output = sum(len(job.output_ids) for job in jobs)
    return {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}


async def collect_text(deltas: asyncio.Queue[TextDelta]) -> tuple[str, TextDelta]:
    """Return the full text of a job and its last delta."""
    parts = []
    while True:
        delta = await deltas.get()
        parts.append(delta.text)
        if delta.finish_reason or delta.error:
            return "".join(parts), delta


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
