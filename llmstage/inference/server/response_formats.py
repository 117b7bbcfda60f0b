"""OpenAI's two forms of a reply, whole and as the events of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any

from llmstage.tokenization.tool_calls import Reply, ReplyDelta


class ResponseFormat(ABC):
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

    @abstractmethod
    def choice(self, index: int, reply: Reply, finish_reason: str | None) -> dict[str, Any]:
        """Return the choice of a complete reply."""

    @abstractmethod
    def deltas(self, delta: ReplyDelta, call_index: int) -> list[dict[str, Any]]:
        """Return the choices of events with more of a reply. `call_index`: the number of calls before it."""

    @abstractmethod
    def last(self, reply: Reply, finish_reason: str) -> dict[str, Any]:
        """Return the choice of the last event."""


class ChatFormat(ResponseFormat):
    object_name, chunk_name, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
    first_choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}  # noqa: RUF012

    def choice(self, index: int, reply: Reply, finish_reason: str | None) -> dict[str, Any]:
        content = None if reply.calls and not reply.content else reply.content
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        if reply.calls:
            message["tool_calls"] = [call.to_openai() for call in reply.calls]
        return {
            **{"index": index, "message": message | malformed_field(reply)},
            **{"logprobs": None, "finish_reason": finish_reason},
        }

    def deltas(self, delta: ReplyDelta, call_index: int) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        if delta.reasoning:
            parts.append({"reasoning_content": delta.reasoning})
        if delta.content:
            parts.append({"content": delta.content})
        if delta.call:
            # As OpenAI streams a call: first its id and name, then the text of its arguments.
            call = {"index": call_index, **delta.call.to_openai()}
            arguments = call["function"]["arguments"]
            head = {**call, "function": {"name": delta.call.name, "arguments": ""}}
            parts.append({"tool_calls": [head]})
            parts.append({"tool_calls": [{"index": call_index, "function": {"arguments": arguments}}]})
        return [{"index": 0, "delta": part, "logprobs": None, "finish_reason": None} for part in parts]

    def last(self, reply: Reply, finish_reason: str) -> dict[str, Any]:
        return {"index": 0, "delta": malformed_field(reply), "logprobs": None, "finish_reason": finish_reason}


class CompletionFormat(ResponseFormat):
    object_name, chunk_name, id_prefix = "text_completion", "text_completion", "cmpl"

    def choice(self, index: int, reply: Reply, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": reply.content, "logprobs": None, "finish_reason": finish_reason}

    def deltas(self, delta: ReplyDelta, call_index: int) -> list[dict[str, Any]]:
        return [self.choice(0, Reply(delta.content), None)] if delta.content else []

    def last(self, reply: Reply, finish_reason: str) -> dict[str, Any]:
        return self.choice(0, Reply(), finish_reason)


def malformed_field(reply: Reply) -> dict[str, int]:
    """Return the number of calls that were begun and are no JSON, where there are some; OpenAI has no such field."""
    return {"malformed_tool_calls": reply.malformed} if reply.malformed else {}
