"""What is done with what was found: passages before the model, a passage as the answer, or the question handed over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmstage import console
from llmstage.errors import ModelError
from llmstage.inference.inference_session import Ready
from llmstage.inference.retrieval.bm25_terms import is_chinese
from llmstage.inference.retrieval.library import Found, Library
from llmstage.paths import cache_dir
from llmstage.tokenization.chat_template import TemplateRefused, conversation, text_of
from llmstage.tokenization.tokenizer import Processor

Message = dict[str, Any]
INSTRUCTION = {True: "请根据以下资料回答问题。", False: "Answer the question with the help of these passages."}
REFUSAL = {
    True: "抱歉，我没有找到这个问题的答案，将为您转接人工客服。",
    False: "I am sorry, I do not know the answer to that. I am handing you over to a colleague.",
}
"""Whether the question is Chinese -> text."""
LEAST_TOKENS = 16
"""A passage of which fewer would fit is left out."""


@dataclass(slots=True)
class Grounded:
    """`text`: the answer, where the model is not asked; else None, and `messages` hold the passages."""

    messages: list[Message]
    sources: list[Found] = field(default_factory=list)
    by: Literal["model", "passage", "refusal"] = "model"
    text: str | None = None

    def told(self) -> dict[str, Any]:
        """What a reply says beside its text."""
        return {"sources": [found.as_dict() for found in self.sources], "answered_by": self.by}


class Grounding:
    """`processor`: of the model that replies, which counts the tokens of passages."""

    def __init__(self, library: Library, processor: Processor) -> None:
        self.library, self.processor, self.cfg = library, processor, library.cfg
        self.takes_system = self.accepts([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])

    def accepts(self, messages: list[Message]) -> bool:
        try:
            conversation(self.processor, messages)
        except TemplateRefused:
            return False
        return True

    def ground(self, messages: list[Message], room: int) -> Grounded:
        """`messages` end with the question; the conversation before it is not searched for. `room`: tokens that passages may
        take beside what retrieval.max_tokens says."""
        question = next(
            (text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), ""
        )
        if not question.strip():
            return Grounded(messages)
        cfg, chinese = self.cfg, is_chinese(question)
        found = [one for one in self.library.search(question) if one.score >= cfg.refuse_below]
        if not found and cfg.refuse_below > -1:
            return Grounded(messages, by="refusal", text=cfg.refusal if cfg.refusal is not None else REFUSAL[chinese])
        if cfg.answer == "extract" and found and found[0].score >= cfg.extract_above:
            first = found[0]
            told = cfg.template.format(text=first.text, title=first.title, path=first.path)
            return Grounded(messages, found, "passage", told)
        instruction = cfg.instruction if cfg.instruction is not None else INSTRUCTION[chinese]
        shown = self.fitting(found, min(cfg.max_tokens, room) - self.count(f"{instruction}\n\n\n"))
        if not shown:
            return Grounded(messages)
        block = "\n\n".join([instruction, *(written(number, one) for number, one in enumerate(shown, start=1))])
        return Grounded(self.before(messages, block), shown)

    def fitting(self, found: list[Found], left: int) -> list[Found]:
        """The passages that fit into so many tokens; the last one is cut where most of it would."""
        shown: list[Found] = []
        for number, one in enumerate(found, start=1):
            size = self.count(f"{written(number, one)}\n\n")
            if size > left:
                over = self.count(f"{written(number, replace(one, text=''))}\n\n")
                kept = self.processor.plain_ids([one.text])[0][: max(0, left - over)]
                text = (
                    self.processor.decode(kept).rstrip("\ufffd").strip()
                )  # a character of which some bytes are cut off
                if len(kept) >= LEAST_TOKENS and text:
                    shown.append(replace(one, text=text))
                break
            shown.append(one)
            left -= size
        return shown

    def count(self, text: str) -> int:
        return len(self.processor.plain_ids([text])[0])

    def before(self, messages: list[Message], block: str) -> list[Message]:
        """The passages in the system message, which long conversations keep; where a template takes none, above the question."""
        if self.takes_system:
            if messages[0]["role"] == "system":
                own = f"{text_of(messages[0]['content'])}\n\n{block}"
                return [{"role": "system", "content": own}, *messages[1:]]
            return [{"role": "system", "content": block}, *messages]
        last = max(at for at, message in enumerate(messages) if message["role"] == "user")
        asked = {"role": "user", "content": f"{block}\n\n{text_of(messages[last]['content'])}"}
        return [*messages[:last], asked, *messages[last + 1 :]]


def make_grounding(ready: Ready) -> Grounding | None:
    """None where retrieval.path names nothing."""
    run = ready.run
    if not run.retrieval.path:
        return None
    if ready.task.auto_model != "AutoModelForCausalLM":
        raise ModelError(
            f"retrieval.path={run.retrieval.path}: task={run.task.name} does not converse, so nothing is looked up for it. Leave it out."
        )
    library = Library(run.retrieval, cache_dir(run.data.cache), offline=run.offline)
    console.note(f"looking things up in {library.told}")
    return Grounding(library, ready.pieces.processor)


def written(number: int, found: Found) -> str:
    """A passage as the model reads it."""
    return f"[{number}] {found.title}\n{found.text}" if found.title else f"[{number}] {found.text}"
