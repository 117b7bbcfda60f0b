"""Request bodies of chat completions: messages, tools, and the fields of OpenAI's API around them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import Field

from llmstage.data.chat_messages import BadChat, to_message_list
from llmstage.inference.server.schemas import Count, SamplingParams, StrictModel
from llmstage.tokenization.call_reader import FUNCTION_NAME
from llmstage.tokenization.template_rendering import RESERVED

Empty = Annotated[list[Any], Field(max_length=0)]


class TextPart(StrictModel):
    """A part of a message. Only text parts are accepted."""

    type: Literal["text"]
    text: str


class CalledFunction(StrictModel):
    name: str
    arguments: str


class MessageToolCall(StrictModel):
    """A tool call in a message of the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(StrictModel):
    """A message, also as this server and OpenAI's return it: null fields of a reply are accepted."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    malformed_tool_calls: int | None = None
    refusal: None = None
    function_call: None = None
    audio: None = None
    annotations: Empty | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the message for to_message_list(), with `system` for OpenAI's role `developer`."""
        fields = self.model_dump(exclude_none=True, exclude={"malformed_tool_calls", "annotations"})
        return {**fields, "role": "system" if self.role == "developer" else self.role}


class Function(StrictModel):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=f"^{FUNCTION_NAME}$", max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(StrictModel):
    type: Literal["function"]
    function: Function

    def to_schema(self) -> dict[str, Any]:
        """Return the schema as chat templates take it."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        function.setdefault("parameters", {"type": "object", "properties": {}})  # many templates read it
        return {"type": "function", "function": function}


class FunctionName(StrictModel):
    name: str


class NamedTool(StrictModel):
    type: Literal["function"]
    function: FunctionName


class TextFormat(StrictModel):
    type: Literal["text"]


class ChatCompletionRequest(SamplingParams):
    """A chat completion. A neutral value of a field that the server does not implement is accepted."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: Annotated[list[Tool], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Further arguments of the chat template, as in vLLM."""
    # Fields that change nothing here.
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Fields of which only the values that change nothing are served.
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = False
    top_logprobs: Literal[0] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    prediction: None = None
    audio: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @property
    def function_names(self) -> list[str]:
        return [tool.function.name for tool in self.tools or []]

    def prompt_tools(self) -> list[dict[str, Any]] | None:
        """Return the tools that the prompt describes; None for none. With tool_choice=none the model does not see them."""
        return None if self.tool_choice == "none" or not self.tools else [tool.to_schema() for tool in self.tools]

    def forced_function(self) -> str | None:
        """Return the function that must be called; None where it is open."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.function_names[0] if self.tool_choice == "required" and len(self.function_names) == 1 else None

    def max_calls(self) -> int | None:
        """Return the number of calls after which a reply ends; None where it is open."""
        return 1 if self.parallel_tool_calls is False or isinstance(self.tool_choice, NamedTool) else None

    def normal_messages(self) -> list[dict[str, Any]]:
        """Return the messages in the normal form of data/chat_formats.py. Raise HTTPException 400."""
        messages = []
        for number, message in enumerate(self.messages):
            try:
                messages += to_message_list([message.to_dict()], Counter())
            except BadChat as error:
                reason = re.sub(r"^message \d+: ", "", str(error))
                raise HTTPException(400, f"messages.{number}: {reason}.") from None
        return messages

    def check(self) -> None:
        """Raise HTTPException 400 for fields that contradict each other."""
        problem = None
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            problem = "max_tokens and max_completion_tokens are two names of one field; give one of them"
        names = self.function_names
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated:
            problem = f"tools: two functions have the name '{repeated}'"
        if not names and self.tool_choice not in (None, "none", "auto"):
            problem = "tool_choice: there are no tools to choose from"
        if isinstance(self.tool_choice, NamedTool) and names and self.tool_choice.function.name not in names:
            problem = f"tool_choice: no tool has the name '{self.tool_choice.function.name[:80]}'"
        reserved = RESERVED.intersection(self.chat_template_kwargs or {})
        if reserved:
            problem = f"chat_template_kwargs.{min(reserved)} is not an argument of a chat template"
        if problem:
            raise HTTPException(400, f"{problem}.")


__all__ = ["ChatCompletionRequest", "Message", "Tool"]
