"""Uses the passages that a search returns: puts them into the prompt, answers with one of them, or refuses to answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmstage import console
from llmstage.errors import ModelError
from llmstage.inference.inference_session import InferenceSession
from llmstage.inference.retrieval.bm25_terms import is_chinese
from llmstage.inference.retrieval.retriever import Retriever, SearchResult
from llmstage.paths import cache_dir
from llmstage.tokenization.chat_template import Conversation, TemplateRefused, encode_conversations, text_of
from llmstage.tokenization.tokenizer import Processor

Message = dict[str, Any]
INSTRUCTION = {True: "请根据以下资料回答问题。", False: "Answer the question with the help of these passages."}
REFUSAL = {
    True: "抱歉，我没有找到这个问题的答案，将为您转接人工客服。",
    False: "I am sorry, I do not know the answer to that. I am handing you over to a colleague.",
}
"""The default texts; the key is whether the question is Chinese."""
MIN_PASSAGE_TOKENS = 16
"""A passage that is cut to fewer tokens is left out."""


@dataclass(slots=True)
class GroundedPrompt:
    """The result of a retrieval. `text`: the final answer; None where the model answers `messages`, which contain the passages."""

    messages: list[Message]
    sources: list[SearchResult] = field(default_factory=list)
    answered_by: Literal["model", "passage", "refusal"] = "model"
    text: str | None = None

    def response_fields(self) -> dict[str, Any]:
        """Return the fields that a reply has besides its text."""
        return {"sources": [result.as_dict() for result in self.sources], "answered_by": self.answered_by}


class Grounding:
    """Retrieval for a conversation. `processor`: the tokenizer of the model that replies; it counts the tokens of passages."""

    def __init__(self, retriever: Retriever, processor: Processor) -> None:
        self.retriever, self.processor, self.cfg = retriever, processor, retriever.cfg
        self.supports_system = self.accepts([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])

    def accepts(self, messages: list[Message]) -> bool:
        """Return whether the model's chat template accepts the messages."""
        (encoded,) = encode_conversations(self.processor, [Conversation(messages)])
        return not isinstance(encoded, TemplateRefused)

    def ground(self, messages: list[Message], num_free: int) -> GroundedPrompt:
        """Search for the last question only, not for the conversation before it.

        `num_free`: tokens that passages may take; retrieval.max_tokens is a further limit.
        """
        question = next(
            (text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), ""
        )
        if not question.strip():
            return GroundedPrompt(messages)
        cfg, chinese = self.cfg, is_chinese(question)
        results = [result for result in self.retriever.search(question) if result.score >= cfg.refuse_below]
        if not results and cfg.refuse_below > -1:
            refusal = cfg.refusal if cfg.refusal is not None else REFUSAL[chinese]
            return GroundedPrompt(messages, answered_by="refusal", text=refusal)
        if cfg.answer == "extract" and results and results[0].score >= cfg.extract_above:
            best = results[0]
            text = cfg.template.format(text=best.text, title=best.title, path=best.path)
            return GroundedPrompt(messages, results, "passage", text)
        instruction = cfg.instruction if cfg.instruction is not None else INSTRUCTION[chinese]
        num_passage_tokens = min(cfg.max_tokens, num_free) - self.count_tokens(f"{instruction}\n\n\n")
        passages = self.fit_passages(results, num_passage_tokens)
        if not passages:
            return GroundedPrompt(messages)
        block = "\n\n".join(
            [instruction, *(prompt_text(number, passage) for number, passage in enumerate(passages, start=1))]
        )
        return GroundedPrompt(self.insert_block(messages, block), passages)

    def fit_passages(self, results: list[SearchResult], num_tokens: int) -> list[SearchResult]:
        """Return the passages that fit into `num_tokens` together; the last one is cut where at least a part of it fits."""
        passages: list[SearchResult] = []
        for number, result in enumerate(results, start=1):
            size = self.count_tokens(f"{prompt_text(number, result)}\n\n")
            if size > num_tokens:
                overhead = self.count_tokens(f"{prompt_text(number, replace(result, text=''))}\n\n")
                ids = self.processor.plain_ids([result.text])[0][: max(0, num_tokens - overhead)]
                # The cut may fall between two bytes of a character; decode() writes U+FFFD for it.
                text = self.processor.decode(ids).rstrip("\ufffd").strip()
                if len(ids) >= MIN_PASSAGE_TOKENS and text:
                    passages.append(replace(result, text=text))
                break
            passages.append(result)
            num_tokens -= size
        return passages

    def count_tokens(self, text: str) -> int:
        return len(self.processor.plain_ids([text])[0])

    def insert_block(self, messages: list[Message], block: str) -> list[Message]:
        """Put the passages into the system message, which stays when a long conversation loses its first turns.

        Where the chat template has no system message, the passages precede the question.
        """
        if self.supports_system:
            if messages[0]["role"] == "system":
                system = f"{text_of(messages[0]['content'])}\n\n{block}"
                return [{"role": "system", "content": system}, *messages[1:]]
            return [{"role": "system", "content": block}, *messages]
        last = max(index for index, message in enumerate(messages) if message["role"] == "user")
        question = {"role": "user", "content": f"{block}\n\n{text_of(messages[last]['content'])}"}
        return [*messages[:last], question, *messages[last + 1 :]]


def make_grounding(session: InferenceSession) -> Grounding | None:
    """Return the retrieval of a run; None where retrieval.path is not set."""
    run = session.run
    if not run.retrieval.path:
        return None
    if session.task.auto_model != "AutoModelForCausalLM":
        raise ModelError(
            f"retrieval.path={run.retrieval.path}: task={run.task.name} does not converse, so nothing is looked up for it. Leave it out."
        )
    retriever = Retriever(run.retrieval, cache_dir(run.data.cache), offline=run.offline)
    console.note(f"retrieval from {retriever.description}")
    return Grounding(retriever, session.components.processor)


def prompt_text(number: int, result: SearchResult) -> str:
    """Return a passage as it appears in the prompt."""
    return f"[{number}] {result.title}\n{result.text}" if result.title else f"[{number}] {result.text}"
