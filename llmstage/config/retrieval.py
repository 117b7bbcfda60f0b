"""The `retrieval` group: passages that are retrieved before a conversational model replies."""

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
    """Where passages are retrieved, how, and how they are used."""

    path: Annotated[str, RETRIEVES] | None = None
    """A folder of .md, .txt, .jsonl, .json and .csv files, or one file. A row has a text (answer, text, content, …)
    and may have a title (question, title, …); a question may be a list of phrasings."""
    encoding: Annotated[str, GIVEN] = "utf-8"
    """Text encoding of the files, where no byte order mark gives it."""
    passage_words: Annotated[int, Range(8, 100_000), GIVEN] = 120
    """Most words of a passage into which texts are split; a Chinese character counts as a word."""
    method: Annotated[Literal["bm25", "dense", "hybrid"], GIVEN] = "bm25"
    """bm25: words in common; dense: vectors of retrieval.encoder; hybrid: the two rankings fused."""
    encoder: Annotated[str, GIVEN, DENSE] | None = None
    """The model whose mean hidden states are compared: a run folder, a Hugging Face directory or a hub id."""
    top_k: Annotated[int, AT_LEAST_1, GIVEN] = 3
    """Most passages in a prompt, which are also returned as sources."""
    max_tokens: Annotated[int, AT_LEAST_1, GIVEN] = 512
    """Most tokens that passages and instruction add to a prompt; fewer where question and reply need the space."""
    instruction: Annotated[str, GIVEN] | None = None
    """Instruction above the passages in the prompt; null: to use the passages, in the language of the question."""
    answer: Annotated[Literal["model", "extract"], GIVEN] = "model"
    """model: the model generates the answer from the passages; extract: where the best passage scores
    retrieval.extract_above or more, its text is the answer."""
    extract_above: Annotated[float, Range(-1, 1), GIVEN, EXTRACTS] = 0.3
    """Lowest score of a passage that is the answer by itself; docs/retrieval.md explains scores."""
    template: Annotated[str, GIVEN, EXTRACTS] = "{text}"
    """Format of such an answer, with {text}, {title} and {path} of the passage."""
    refuse_below: Annotated[float, Range(-1, 1), GIVEN] = 0.1
    """Passages with a lower score are not used. A question without any other passage is handed over instead of
    answered; -1: never."""
    refusal: Annotated[str, GIVEN, REFUSES] | None = None
    """The reply to such a question; null: that a person takes over, in the language of the question."""

    def check(self) -> list[str]:
        """Return complaints about a missing encoder and an invalid template."""
        complaints = []
        if self.path and self.method != "bm25" and not self.encoder:
            complaints.append(
                f"retrieval.method={self.method} needs a model that makes vectors: retrieval.encoder=<run folder or Hugging Face directory>."
            )
        try:
            self.template.format(text="", title="", path="")
        except (KeyError, IndexError, ValueError, AttributeError):
            complaints.append(
                f"retrieval.template={self.template}: only {{text}}, {{title}} and {{path}} can stand in it (a brace itself: {{{{)."
            )
        return complaints
