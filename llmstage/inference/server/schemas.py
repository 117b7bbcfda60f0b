"""Request bodies of the server and the error body of its replies, as pydantic models and plain dictionaries.

Chat and text completions are a part of OpenAI's API. Unknown fields are refused, because silently ignoring a field
would give a wrong answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RequestBody(StrictModel):
    """Base of every request body."""

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def check_text(cls, value: Any) -> Any:
        """Refuse lone surrogates: JSON allows them, but they are not text and no tokenizer accepts them."""
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError(
                "a text holds half of a character (an escape like \\ud83d without its other half)"
            ) from None
        return value


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: bool = False


Count = Annotated[int, Field(ge=1)]


class SamplingParams(RequestBody):
    """Fields that chat and text completions share.

    Fields that the server does not implement (`n`, the penalties) accept only the values that change nothing, null among them.
    """

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
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def stop_strings(self) -> list[str]:
        """Return the stop strings as a list, without empty ones."""
        strings = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [string for string in strings if string]


class CompletionRequest(SamplingParams):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = 1
    logprobs: None = None
    suffix: None = None


class RowsRequest(RequestBody):
    """Rows with the task's columns. A plain string is accepted where the task reads one text column."""

    input: str | dict[str, Any] | Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=256)]


class EmbeddingRequest(RequestBody):
    input: str | Annotated[list[str], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float"] | None = "float"
    user: str | None = None


def error_body(
    message: str, error_type: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}
