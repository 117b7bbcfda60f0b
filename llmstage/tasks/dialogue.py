"""Multi-turn conversations. The targets are the assistant turns, their ends included."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from llmstage.config.task import Dialogue as DialogueConfig
from llmstage.data.conversation_windows import windows
from llmstage.data.encoding.collate import labels_for, pack
from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.rows import Columns, Row
from llmstage.demo.dialogue import dialogue_rows
from llmstage.evaluation.metrics.generation import chrf, distinct_n, exact_match, most_frequent_reply, rouge_l
from llmstage.evaluation.metrics.language_model import Unigram, language_model_scores
from llmstage.evaluation.metrics.score import Score, proportion
from llmstage.models.generation import generate_replies
from llmstage.models.lm_loss import correct_positions, sum_by_segment, token_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_loss
from llmstage.tokenization.chat_template import TemplateRefused, Turn, conversation, reply_prompt

ROLES = ("system", "user", "assistant", "tool")


class Dialogue(Task):
    """A conversation longer than the context is split into windows of complete turns; each answer is a target once."""

    columns = Columns(required=("messages",), optional=("recalls", "language"), content=("messages",))
    auto_model = "AutoModelForCausalLM"
    packs = True
    reference_columns = ("reference", "correct", "log_probability", "tokens", "recall", "prompt", "turn")
    demo_size = 2400

    cfg: DialogueConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return dialogue_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return "messages is not a list of {role, content}"
        for number, message in enumerate(messages, 1):
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                return f"message {number} has parts that are no text (an image?), which task=dialogue does not read"
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                return f"message {number} has no text in content"
            if message.get("role") not in ROLES:
                return f"message {number} has the role {message.get('role')!r}; known are {', '.join(ROLES)}"
        answers = [message for message in messages if message["role"] == "assistant"]
        if not answers:
            return "no message has the role assistant: there is no target"
        return None if any(map(has_answer, answers)) else "every assistant message is empty"

    def texts(self, row: Row) -> list[str]:
        return [message["content"] for message in row["messages"]]

    def cache_key(self) -> dict[str, Any]:
        return {"system": self.cfg.system}

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        conversations = [self._with_system(row["messages"]) for row in rows]
        texts = [message["content"] for messages in conversations for message in messages]
        content_ids = iter(self.processor.plain_ids(texts))
        return [
            self._encode(row, messages, [next(content_ids) for _ in messages])
            for row, messages in zip(rows, conversations, strict=True)
        ]

    def _with_system(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.cfg.system and messages[0]["role"] != "system":
            return [{"role": "system", "content": self.cfg.system}, *messages]
        return messages

    def _encode(self, row: Row, messages: list[dict[str, Any]], contents: list[list[int]]) -> list[Example]:
        shift = len(messages) - len(row["messages"])
        try:
            turns = conversation(self.processor, messages, contents)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        recalls = {int(item["turn"]) + shift: item for item in row.get("recalls") or []}
        examples = []
        lengths = [len(turn) for turn in turns]
        reserved = lengths[0] if turns[0].role == "system" else 1
        covered: set[int] = set()
        for first, last, answers in windows(
            lengths, [turn.role == "assistant" for turn in turns], self.context, reserved
        ):
            examples.append(self._window(messages, turns, first, last, answers, recalls, shift))
            covered.update(range(first, last + 1))
        examples[-1].cut += sum(length for index, length in enumerate(lengths) if index not in covered)
        return examples

    def dummy_target(self, row: Row) -> Row:
        messages = row["messages"] if isinstance(row["messages"], list) else []
        return row | {"messages": [*messages, {"role": "assistant", "content": "?"}]}

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        """Return examples for the next reply; a final assistant message is ignored."""
        return [[self._reply_example(row["messages"])] for row in rows]

    def _reply_example(self, messages: list[dict[str, Any]]) -> Example:
        history = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if self.cfg.system and history[:1] != [] and history[0]["role"] != "system":
            history = [{"role": "system", "content": self.cfg.system}, *history]
        max_prompt_tokens = max(1, self.context - min(self.generation.max_new_tokens, self.context // 2))
        try:
            prompt, end = reply_prompt(self.processor, history, max_prompt_tokens)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        reply = {"turn": len(history), "start": len(prompt), "stop": len(prompt) + 1, "text": ""}
        arrays = {"input_ids": [*prompt, *end[:1]], "target": [0] * len(prompt) + [1] * len(end[:1])}
        return Example(arrays, ref={"replies": [reply], "messages": history, "first": 0, "bytes": 0})

    def _window(
        self,
        messages: list[dict[str, Any]],
        turns: list[Turn],
        first: int,
        last: int,
        answers: list[int],
        recalls: dict[int, Any],
        shift: int,
    ) -> Example:
        """Return the turns first..last as one example. Targets are the assistant turns in `answers`.

        `recalls`: the recall annotation by turn. `shift`: number of system messages added in front of the row's messages.
        """
        # A later window repeats the system message.
        keep_system = first > 0 and turns[0].role == "system"
        indices = ([0] if keep_system else []) + list(range(first, last + 1))
        needs_bos = first > 0 and not keep_system and self.processor.bos_id in turns[0].before[:1]
        # A later window begins with bos, as the conversation does.
        ids: list[int] = turns[0].before[:1] if needs_bos else []
        target: list[int] = [0] * len(ids)
        replies = []
        # Join the turns and record where each answer starts and stops.
        for index in indices:
            turn, is_target = turns[index], index in answers
            ids += turn.before
            target += [0] * len(turn.before)
            if is_target:
                reply = {"turn": index - shift, "start": len(ids), "text": messages[index]["content"]}
                replies.append({**reply, **({"recall": recalls[index]} if index in recalls else {})})
            ids += turn.content + turn.after
            target += [int(is_target)] * (len(turn.content) + len(turn.after))
            if is_target:
                replies[-1]["stop"] = len(ids)
        cut = max(0, len(ids) - self.context)
        cut_targets = 0
        if cut:  # a single answer with its question is longer than the context
            # First drop tokens before the answer, but keep eight of them; then cut the end.
            start = replies[0]["start"]
            num_dropped = min(cut, max(0, start - 8))
            ids, target = ids[num_dropped:], target[num_dropped:]
            cut_targets = sum(target[self.context :])
            ids, target = ids[: self.context], target[: self.context]
            replies = [
                {**reply, "start": reply["start"] - num_dropped, "stop": reply["stop"] - num_dropped}
                for reply in replies
            ]
        window_messages = [dict(message) for message in messages[first : last + 1]]
        return Example(
            {"input_ids": ids, "target": target},
            ref={
                "replies": replies,
                "messages": window_messages,
                "first": first - shift if first else 0,
                "bytes": sum(len(reply["text"].encode()) for reply in replies),
            },
            cut=cut,
            cut_targets=cut_targets,
            lost_end=cut_targets > 0,
        )

    def num_targets(self, example: Example) -> int:
        return sum(example.arrays["target"][1:])

    def collate(self, rows: list[list[Example]]) -> Batch:
        ids = [[example.input_ids for example in row] for row in rows]
        packed = pack(ids, self.processor.pad_id, causal=True)
        labels = labels_for([[self._labels(example) for example in row] for row in rows], IGNORE_INDEX)
        refs = [example.ref for row in rows for example in row]
        return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)

    @staticmethod
    def _labels(example: Example) -> list[int]:
        """Return the ids of target tokens, else IGNORE_INDEX. The first position has no context, so it is no target."""
        pairs = zip(example.input_ids, example.arrays["target"], strict=True)
        return [token if is_target and position else IGNORE_INDEX for position, (token, is_target) in enumerate(pairs)]

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        count = len(batch.refs)
        nll, correct, tokens = (
            sum_by_segment(values, losses.where, batch.segments, count)
            for values in (losses.nll, losses.correct, losses.correct | True)
        )
        items = [{"nll": a, "correct": int(b), "tokens": int(c)} for a, b, c in zip(nll, correct, tokens, strict=True)]
        if generate:
            self._generate(model, batch, items, correct_positions(losses, batch.segments, count))
        return items

    def _generate(
        self, model: nn.Module, batch: Batch, items: list[dict[str, Any]], correct_positions: list[set[int]]
    ) -> None:
        """Add the generated reply to each turn, from the true messages before it.

        If each token of an answer, its end included, is the most probable one after the true tokens before it, greedy
        decoding gives this answer (by induction). Only the other answers are generated.
        """
        assert batch.segments is not None
        ids, segments = batch.inputs["input_ids"].cpu(), batch.segments.cpu()
        greedy = self.generation.temperature == 0 and self.generation.num_beams == 1
        prompts, targets_of_prompts = [], []
        for number, (item, ref) in enumerate(zip(items, batch.refs, strict=True)):
            example_ids = ids[segments == number].tolist()
            item["replies"], item["ended"] = [None] * len(ref["replies"]), [True] * len(ref["replies"])
            for index, reply in enumerate(ref["replies"]):
                may_skip = greedy and reply["stop"] - reply["start"] <= self.generation.max_new_tokens
                if may_skip and correct_positions[number].issuperset(range(reply["start"], reply["stop"])):
                    item["replies"][index] = self.processor.decode(example_ids[reply["start"] : reply["stop"]])
                else:
                    prompts.append(example_ids[: reply["start"]])
                    targets_of_prompts.append((number, index))
        for (number, index), (text, ended) in zip(
            targets_of_prompts, generate_replies(model, self.processor, prompts, self.generation), strict=True
        ):
            items[number]["replies"][index], items[number]["ended"][index] = text, ended

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        replies, references, recalls = answers_of(predictions, refs)
        scores: dict[str, Score] = {}
        for name, closed in (("recall_closed", True), ("recall_numbers", False)):
            hits = [hit for _, hit, item in recalls if bool(item["closed"]) is closed]
            if hits:
                scores[name] = proportion(hits)
        if replies:
            scores |= {
                "chrf": chrf(replies, references),
                "rouge_l": rouge_l(replies, references),
                "exact_match": exact_match(replies, references),
            }
            scores |= {"distinct_1": distinct_n(replies, 1), "distinct_2": distinct_n(replies, 2)}
        return scores | language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return the scores of the most frequent training reply (on the rows with generated text) and of a unigram model."""
        train_replies = [
            message["content"]
            for row_of_window in train
            for message in row_of_window["messages"]
            if message["role"] == "assistant"
        ]
        end = conversation(self.processor, [{"role": role, "content": "a"} for role in ("user", "assistant")])[-1].after
        unigram = Unigram(([*ids, *end] for ids in self.processor.plain_ids(train_replies)), len(self.processor))
        reply_ids = (self.processor.plain_ids([reply["text"] for reply in ref["replies"]]) for ref in refs)
        sums = unigram.measure([token for ids in replies for token in [*ids, *end]] for replies in reply_ids)
        # The first window of a row begins with turn 0; from this, the row of each window and the rows with generated text.
        row_of_window = np.fromiter(itertools.accumulate(int(ref["first"] == 0) for ref in refs), dtype=np.int64)
        is_generated = np.isin(row_of_window, evenly_spaced(np.unique(row_of_window), self.generate_rows))
        generated = [ref for ref, is_taken in zip(refs, is_generated, strict=True) if is_taken]
        answers = [reply["text"] for ref in generated for reply in ref["replies"]]
        scores = most_frequent_reply(train_replies, answers) | language_model_scores(
            *sums, [ref["bytes"] for ref in refs]
        )
        return {"most frequent reply, token frequencies": scores}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Return a chart of recall by distance and a table of recall by type of fact."""
        _, _, recalls = answers_of(predictions, refs)
        if not recalls:
            return []
        series = []
        for name, closed in (("names, items, cities, days", True), ("numbers and dates", False)):
            by_distance: dict[int, list[bool]] = defaultdict(list)
            for distance, hit, item in recalls:
                if bool(item["closed"]) is closed:
                    by_distance[distance].append(hit)
            points = [(distance, proportion(hits)) for distance, hits in sorted(by_distance.items())]
            if points:
                series.append(
                    {
                        "name": name,
                        "x": [x for x, _ in points],
                        "y": [score.value for _, score in points],
                        "low": [score.low for _, score in points],
                        "high": [score.high for _, score in points],
                    }
                )
        hits_by_type: dict[str, list[bool]] = defaultdict(list)
        for _, hit, item in recalls:
            hits_by_type[str(item["kind"])].append(hit)
        rows = []
        for fact_type, hits in sorted(hits_by_type.items()):
            score = proportion(hits)
            rows.append([fact_type, f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}", str(len(hits))])
        return [
            {
                "kind": "lines",
                "title": "Recall by distance",
                "x_label": "turns since the fact was last stated",
                "y_label": "share recalled exactly",
                "series": series,
                "y_range": [0, 1],
                "note": "A reply recalls a fact if it contains the correct value and no other value of the same type from the conversation.",
            },
            {
                "kind": "table",
                "title": "Recall by type of fact",
                "columns": ["fact", "recalled", "95 % (Wilson)", "questions"],
                "rows": rows,
            },
        ]

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        return errors_by_loss([item["nll"] for item in predictions], [item["tokens"] for item in predictions])

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        lines = []
        for number, reply in enumerate(ref["replies"]):
            if "replies" not in prediction:
                break
            reply_text = prediction["replies"][number]
            position = reply["turn"] - ref["first"]
            line = {
                "turn": reply["turn"],
                "prediction": reply_text,
                "reference": reply["text"],
                "ended": prediction["ended"][number],
                "correct": reply_text.strip() == reply["text"].strip(),
                "prompt": ref["messages"][:position] if position > 0 else ref["messages"],
            }
            if "recall" in reply:
                line["recall"] = {**reply["recall"], "hit": recalled(reply_text, reply["recall"])}
            lines.append(line)
        if not lines:
            lines.append({"prediction": None, "reference": [reply["text"] for reply in ref["replies"]]})
        lines[0] |= {"log_probability": -prediction["nll"], "tokens": prediction["tokens"]}
        return lines

    @property
    def generate_rows(self) -> int:
        return self.cfg.generate_rows


def has_answer(message: dict[str, Any]) -> bool:
    """Return whether an assistant message says something: text, reasoning or a tool call."""
    return bool(message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content"))


def recalled(reply: str, recall: dict[str, Any]) -> bool:
    """Return whether the reply contains the correct value and no other value of its type from the conversation."""
    return recall["answer"] in reply and not any(
        wrong_value in reply.replace(recall["answer"], "") for wrong_value in recall.get("others") or []
    )


def answers_of(
    predictions: list[Any], refs: list[Any]
) -> tuple[list[str], list[str], list[tuple[int, bool, dict[str, Any]]]]:
    """Return (generated replies, reference replies, recalls).

    `recalls`: (distance, hit, annotation) of the replies that must recall a fact.
    """
    replies: list[str] = []
    references: list[str] = []
    recalls = []
    for prediction, ref in zip(predictions, refs, strict=True):
        for text, reply in zip(prediction.get("replies", []), ref["replies"], strict=False):
            replies.append(text)
            references.append(reply["text"])
            if "recall" in reply:
                recalls.append((int(reply["recall"]["distance"]), recalled(text, reply["recall"]), reply["recall"]))
    return replies, references, recalls


TASK = Dialogue
