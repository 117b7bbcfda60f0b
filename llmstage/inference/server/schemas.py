"""What may stand in a request: the part of OpenAI's API that is served, and rows for the other tasks. Unknown fields are
refused, since a field that is passed over in silence is a wrong answer."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Asked(Form):
    """A whole request."""

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def check_text(cls, given: Any) -> Any:
        """JSON lets halves of characters through, which are no text and which no tokenizer takes."""
        try:
            json.dumps(given, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError(
                "a text holds half of a character (an escape like \\ud83d without its other half)"
            ) from None
        return given


class Part(Form):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class Message(Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Form):
    include_usage: bool = False
    include_obfuscation: bool = False


Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(strict=False)]


class Sampling(Asked):
    """What chat and completions share. Fields that have one harmless value are taken with that value only."""

    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    user: str | None = None
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0

    def stops(self) -> list[str]:
        told = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in told if text]


class ChatForm(Sampling):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: Literal[False] | None = False


class CompletionForm(Sampling):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = 1
    logprobs: None = None
    suffix: None = None


class RowsForm(Asked):
    """Rows in the task's words; a text alone where the task reads one."""

    input: str | dict[str, Any] | Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=256)]


class TextsForm(Asked):
    input: str | Annotated[list[str], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float"] | None = "float"
    user: str | None = None
