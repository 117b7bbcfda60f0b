"""The `retrieval` group: answers and articles that are looked up before a model that converses replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import AT_LEAST_1, Range


def _retrieves(run: RunFacts) -> str | None:
    return None if run.stage.retrieves else f"stage={run.stage.name} looks nothing up; stage=chat and stage=serve do"


def _given(run: RunFacts) -> str | None:
    return None if run.retrieval.path else "retrieval.path names no answers or articles"


def _dense(run: RunFacts) -> str | None:
    return "retrieval.method=bm25 compares words" if run.retrieval.method == "bm25" else None


def _extracts(run: RunFacts) -> str | None:
    return "retrieval.answer=model has the model write every answer" if run.retrieval.answer == "model" else None


def _refuses(run: RunFacts) -> str | None:
    return None if run.retrieval.refuse_below > -1 else "retrieval.refuse_below=-1 refuses nothing"


RETRIEVES, GIVEN, DENSE, EXTRACTS, REFUSES = map(ReadBy, (_retrieves, _given, _dense, _extracts, _refuses))


@dataclass(slots=True)
class RetrievalConfig:
    """Where answers are looked up, how, and what becomes of them."""

    path: Annotated[str, RETRIEVES] | None = None
    """A folder of .md, .txt, .jsonl, .json, .csv files, or one file. A row has a text (answer, text, content, …) and perhaps a
    title (question, title, …); a question may be a list of ways to ask it."""
    encoding: Annotated[str, GIVEN] = "utf-8"
    """Of the files, where no byte order mark says so."""
    passage_words: Annotated[int, Range(8, 100_000), GIVEN] = 120
    """Longest passage into which texts are cut, in words; a Chinese character counts as a word."""
    method: Annotated[Literal["bm25", "dense", "hybrid"], GIVEN] = "bm25"
    """bm25: words in common; dense: vectors of retrieval.encoder; hybrid: the two ranks fused."""
    encoder: Annotated[str, GIVEN, DENSE] | None = None
    """The model whose mean hidden states are compared: a run folder, a Hugging Face directory or a hub id."""
    top_k: Annotated[int, AT_LEAST_1, GIVEN] = 3
    """Passages that are shown to the model and come back as sources, at most."""
    max_tokens: Annotated[int, AT_LEAST_1, GIVEN] = 512
    """Tokens that passages and instruction add to a prompt at most; fewer where question and reply need the room."""
    instruction: Annotated[str, GIVEN] | None = None
    """What the model is told above the passages; null: that it shall use them, in the language of the question."""
    answer: Annotated[Literal["model", "extract"], GIVEN] = "model"
    """model: the model writes, with the passages before it; extract: where the best passage scores retrieval.extract_above or
    more, its text is the answer."""
    extract_above: Annotated[float, Range(-1, 1), GIVEN, EXTRACTS] = 0.3
    """The score from which a passage answers by itself; see docs/retrieval.md for what a score is."""
    template: Annotated[str, GIVEN, EXTRACTS] = "{text}"
    """How such an answer is put: {text}, {title} and {path} of the passage stand in it."""
    refuse_below: Annotated[float, Range(-1, 1), GIVEN] = 0.1
    """Passages that score less are not used, and a question for which no other is found is handed over instead of answered;
    -1: never."""
    refusal: Annotated[str, GIVEN, REFUSES] | None = None
    """What is said then; null: that a person takes over, in the language of the question."""

    def check(self) -> list[str]:
        wrong = []
        if self.path and self.method != "bm25" and not self.encoder:
            wrong.append(
                f"retrieval.method={self.method} needs a model that makes vectors: retrieval.encoder=<run folder or Hugging Face directory>."
            )
        try:
            self.template.format(text="", title="", path="")
        except (KeyError, IndexError, ValueError, AttributeError):
            wrong.append(
                f"retrieval.template={self.template}: only {{text}}, {{title}} and {{path}} can stand in it (a brace itself: {{{{)."
            )
        return wrong
