"""Chat and text completions in OpenAI's forms. A request becomes jobs of the generation worker; their deltas become the reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llmstage.config.stage import Serve
from llmstage.inference.retrieval.grounding import GroundedPrompt, Grounding
from llmstage.inference.server.chat_schemas import ChatCompletionRequest
from llmstage.inference.server.generation_worker import GenerationWorker, Job, TextDelta
from llmstage.inference.server.response_formats import ChatFormat, CompletionFormat, ResponseFormat
from llmstage.inference.server.schemas import CompletionRequest, SamplingParams, error_body
from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt
from llmstage.tokenization.tokenizer import Processor
from llmstage.tokenization.tool_calls import ReplyParser, TextParser, reply_form
from llmstage.tokenization.tool_template import uses_tools

UNLIMITED = 1 << 30
"""A token limit for reply_prompt() that no conversation reaches, so that it drops no turn."""


@dataclass(slots=True)
class RunningJob:
    """A text that is generated, the queue of its deltas, and the parser that reads it."""

    job: Job
    deltas: asyncio.Queue[TextDelta]
    parser: ReplyParser


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
        self.reply_form, self.tools_refused = reply_form(processor, worker.eos_token_ids)

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a chat completion, by the model or, with retrieval, by a passage or a refusal."""
        body.check()
        messages = body.normal_messages()
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        tools = body.prompt_tools()
        max_tokens = body.max_completion_tokens or body.max_tokens
        field_name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        self.check_max_tokens(max_tokens, field_name)
        self.check_template(body, messages)
        try:
            prompt_ids, grounded = await asyncio.to_thread(
                self.prompt, messages, max_tokens, tools, body.chat_template_kwargs
            )
        except TemplateRefused as error:
            raise HTTPException(400, f"messages: {error}.") from None
        response_format = ChatFormat(self.model_name, grounded.response_fields() if grounded else {})
        if grounded is None or grounded.text is None:
            prompt_ids, parser = self.open_reply(body, prompt_ids, tools)
            jobs = self.jobs([prompt_ids], body, max_tokens, [parser], self.reply_form.mark_ids)
            return await self.respond(jobs, body, request, response_format)
        # Retrieval has the answer: the job gets its text here and is never submitted.
        deltas: asyncio.Queue[TextDelta] = asyncio.Queue()
        job = Job(prompt_ids, self.token_limit(max_tokens, prompt_ids), deltas.put_nowait)
        job.output_ids = self.processor.plain_ids([grounded.text])[0]
        fits = len(job.output_ids) <= job.max_tokens
        job.output_ids = job.output_ids[: job.max_tokens]
        text = grounded.text if fits else self.processor.decode(job.output_ids)
        job.on_delta(TextDelta(text, finish_reason="stop" if fits else "length"))
        return await self.respond(
            [RunningJob(job, deltas, TextParser())], body, request, response_format, finished=True
        )

    def check_template(self, body: ChatCompletionRequest, messages: list[dict[str, Any]]) -> None:
        """Raise HTTPException 400 for what the chat template of this model does not read."""
        if uses_tools(messages, body.prompt_tools()) and self.tools_refused:
            raise HTTPException(400, f"tools: {self.tools_refused}.")
        for name in body.chat_template_kwargs or {}:
            if name not in str(self.processor.tokenizer.chat_template):
                raise HTTPException(400, f"chat_template_kwargs.{name[:80]}: the chat template does not read it.")

    def open_reply(
        self, body: ChatCompletionRequest, prompt_ids: list[int], tools: list[Any] | None
    ) -> tuple[list[int], ReplyParser]:
        """Return the prompt with the beginning of the reply that tool_choice asks for, and the parser of the reply."""
        text = self.processor.tokenizer.decode(prompt_ids)
        forced = ""
        if tools and body.tool_choice not in (None, "auto"):
            beginning = self.reply_form.forced_text(body.forced_function(), text)
            if beginning is None:
                raise HTTPException(
                    400,
                    "tool_choice: calls cannot be forced, since the chat template of this model does not show their form.",
                )
            forced = beginning
            prompt_ids = [*prompt_ids, *self.processor.markup_ids(forced)]
        return prompt_ids, self.reply_form.parser(text, tools, forced=forced, max_calls=body.max_calls())

    def prompt(
        self, messages: list[dict[str, Any]], max_tokens: int | None, tools: list[Any] | None,
        template_kwargs: dict[str, Any] | None,
    ) -> tuple[list[int], GroundedPrompt | None]:  # fmt: skip
        """Return the prompt's token ids and the result of the retrieval.

        Text of users and of passages is encoded without special tokens: `<|assistant|>` in it is plain text.
        Raises TemplateRefused.
        """

        def ids_of(messages: list[dict[str, Any]]) -> list[int]:
            prompt_ids, _ = reply_prompt(
                self.processor, messages, UNLIMITED, tools=tools, template_kwargs=template_kwargs
            )
            return prompt_ids

        prompt_ids = ids_of(messages)
        if self.grounding is None:
            return prompt_ids, None
        max_length = self.worker.max_length
        reserved = min(max_tokens or self.cfg.max_tokens or max_length, max_length // 4)
        grounded = self.grounding.ground(messages, max_length - len(prompt_ids) - reserved)
        return prompt_ids if grounded.messages is messages else ids_of(grounded.messages), grounded

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Answer a text completion of one or more prompts."""
        self.check_max_tokens(body.max_tokens, "max_tokens")
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        before, _ = self.processor.special_ids()  # a start token, where the tokenizer puts one before a text
        prompts = [[*before, *ids] for ids in await asyncio.to_thread(self.processor.plain_ids, texts)]
        if any(not prompt_ids for prompt_ids in prompts):
            raise HTTPException(400, "prompt: it is empty, and this model has no token to begin with.")
        jobs = self.jobs(prompts, body, body.max_tokens, [TextParser() for _ in prompts])
        return await self.respond(jobs, body, request, CompletionFormat(self.model_name))

    def jobs(
        self, prompts: list[list[int]], body: SamplingParams, max_tokens: int | None, parsers: list[ReplyParser],
        marks: frozenset[int] = frozenset(),
    ) -> list[RunningJob]:  # fmt: skip
        """Return a job, the queue of its deltas and its parser for each prompt. Raises ContextLengthExceeded."""
        loop = asyncio.get_running_loop()
        jobs: list[RunningJob] = []
        for prompt_ids, parser in zip(prompts, parsers, strict=True):
            deltas: asyncio.Queue[TextDelta] = asyncio.Queue()

            def on_delta(delta: TextDelta, queue: asyncio.Queue[TextDelta] = deltas) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, delta)  # an asyncio queue belongs to the loop's thread

            temperature = self.temperature if body.temperature is None else body.temperature
            # A reply that ends with its first call has to be read while it is generated.
            streamed = bool(body.stream) or parser.max_calls is not None
            job = Job(
                prompt_ids, self.token_limit(max_tokens, prompt_ids), on_delta, temperature, body.top_p or self.top_p,
                body.seed, body.stop_strings(), self.cfg.timeout, streamed, marks,
            )  # fmt: skip
            jobs.append(RunningJob(job, deltas, parser))
        return jobs

    def token_limit(self, max_tokens: int | None, prompt_ids: list[int]) -> int:
        """Return how many tokens a reply may have. Raises ContextLengthExceeded."""
        num_free = self.worker.max_length - len(prompt_ids)
        if num_free < 1:
            raise ContextLengthExceeded(
                400,
                f"The prompt has {len(prompt_ids)} tokens, and this model reads {self.worker.max_length} tokens of prompt and "
                f"reply together (context_length_exceeded).",
            )
        return min(max_tokens or self.cfg.max_tokens or num_free, num_free)

    def check_max_tokens(self, max_tokens: int | None, field_name: str) -> None:
        if max_tokens is not None and self.cfg.max_tokens is not None and max_tokens > self.cfg.max_tokens:
            raise HTTPException(
                400,
                f"{field_name}={max_tokens} is more than this server writes: {self.cfg.max_tokens} (stage.max_tokens).",
            )

    async def respond(
        self, jobs: list[RunningJob], body: SamplingParams, request: Request, response_format: ResponseFormat,
        *, finished: bool = False,
    ) -> Response:  # fmt: skip
        """Submit the jobs and return the reply. `finished`: the queues already have all deltas, and nothing is submitted."""
        if body.stream and len(jobs) > 1:
            raise HTTPException(400, "stream: one prompt at a time can be streamed.")
        # All prompts of a request or none: where the queue is full in between, the submitted ones are cancelled.
        submitted: list[Job] = []
        try:
            for running in [] if finished else jobs:
                self.worker.submit(running.job)
                submitted.append(running.job)
        except Exception:
            for job in submitted:
                job.cancelled = True
            raise
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return StreamingResponse(
                self.stream(jobs[0], response_format, include_usage=include_usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        # Wait for the replies, but not longer than the client does.
        replies: Any = asyncio.gather(*(read_reply(running) for running in jobs))
        disconnected = asyncio.ensure_future(wait_for_disconnect(request))
        await asyncio.wait({replies, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        disconnected.cancel()
        if not replies.done():
            replies.cancel()
            for running in jobs:
                running.job.cancelled = True
            return Response(status_code=499)
        error = next((delta.error for delta in replies.result() if delta.error), None)
        if error:
            raise HTTPException(500, error)
        choices = [
            response_format.choice(index, running.parser.reply, finish_reason_of(running.parser, delta.finish_reason))
            for index, (running, delta) in enumerate(zip(jobs, replies.result(), strict=True))
        ]
        head = response_format.head(response_format.object_name)
        usage = token_usage([running.job for running in jobs])
        return JSONResponse({**head, "choices": choices, "usage": usage, **response_format.extra_fields})

    async def stream(
        self, running: RunningJob, response_format: ResponseFormat, *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Yield server-sent events. A client that disconnects closes the generator, which cancels the job."""
        job, parser = running.job, running.parser
        try:
            head = response_format.head(response_format.chunk_name)
            if response_format.first_choice is not None:
                yield server_sent_event({**head, "choices": [response_format.first_choice]})
            while True:
                delta = await running.deltas.get()
                if delta.error:
                    yield server_sent_event(error_body(delta.error, "server_error"))
                    return
                num_calls = len(parser.reply.calls)
                ended = delta.finish_reason
                for part in [*parser.feed(delta.text), *(parser.finish() if ended else [])]:
                    for choice in response_format.deltas(part, num_calls):
                        yield server_sent_event({**head, "choices": [choice]})
                    num_calls += part.call is not None
                if ended or parser.done:
                    extra = {} if include_usage else response_format.extra_fields
                    last = response_format.last(parser.reply, finish_reason_of(parser, ended))
                    yield server_sent_event({**head, "choices": [last], **extra})
                    break
            if include_usage:
                usage = token_usage([job])
                yield server_sent_event({**head, "choices": [], "usage": usage, **response_format.extra_fields})
            yield "data: [DONE]\n\n"
        finally:
            job.cancelled = True


def server_sent_event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


def token_usage(jobs: list[Job]) -> dict[str, int]:
    """Return the token counts of a reply. An end token counts as a completion token."""
    num_prompt = sum(len(job.prompt_ids) for job in jobs)
    num_output = sum(len(job.output_ids) for job in jobs)
    return {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}


async def read_reply(running: RunningJob) -> TextDelta:
    """Read the text of a job into its parser, and return the last delta."""
    while True:
        delta = await running.deltas.get()
        running.parser.feed(delta.text)
        if delta.finish_reason or delta.error:
            running.parser.finish()
            return delta
        if running.parser.done:
            running.job.cancelled = True
            return delta


def finish_reason_of(parser: ReplyParser, finish_reason: str | None) -> str:
    """Return OpenAI's reason why a reply ended."""
    return "tool_calls" if parser.reply.calls and finish_reason != "length" else finish_reason or "stop"


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
