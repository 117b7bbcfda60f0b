"""Multi-turn conversations. The targets are the assistant turns, their ends included."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from llmstage.config.task import Dialogue as DialogueConfig
from llmstage.data.encoding.collate import labels_for, pack
from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.rows import Columns, Row
from llmstage.demo.dialogue import dialogue_rows
from llmstage.evaluation.metrics.generation import chrf, distinct_n, exact_match, most_frequent_reply, rouge_l
from llmstage.evaluation.metrics.language_model import Unigram, language_model_scores
from llmstage.evaluation.metrics.score import Score, proportion
from llmstage.evaluation.metrics.tool_calls import CalledTurn, tool_call_scores
from llmstage.models.generation import end_ids, generate_replies
from llmstage.models.lm_loss import correct_positions, sum_by_segment, token_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_loss
from llmstage.tokenization.chat_template import (
    Conversation,
    EncodedConversation,
    EncodedReply,
    TemplateRefused,
    encode_conversations,
    prepare_tools,
    reply_prompt,
    stop_ids,
    turn_end,
)
from llmstage.tokenization.context_windows import Window, fit, texts_of
from llmstage.tokenization.rendered_conversation import fit_rendered, is_rendered, parse_rendered, rendered_prompt
from llmstage.tokenization.tokenizer import Processor
from llmstage.tokenization.tool_calls import ReplyForm
from llmstage.tokenization.tool_template import TAGS, uses_tools

ROLES = ("system", "user", "assistant", "tool")


class Dialogue(Task):
    """A conversation longer than the context is split into windows of complete turns; each answer is a target once."""

    columns = Columns(required=("messages",), optional=("recalls", "language"), content=("messages",))
    auto_model = "AutoModelForCausalLM"
    packs = True
    learns_text = True
    reference_columns = (
        "reference",
        "reference_tool_calls",
        "correct",
        "log_probability",
        "tokens",
        "recall",
        "prompt",
        "turn",
    )
    demo_size = 2400

    cfg: DialogueConfig
    _form: tuple[str, ReplyForm] | None = None
    has_tools = False
    """Whether the training rows have tools, so that the chat template that is saved must write them."""

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return dialogue_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return "messages is not a list of {role, content}"
        if is_rendered(messages):  # its replies are found by the marks of the tokenizer's template, in encode()
            return None
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

    def fit_labels(self, rows: Iterable[Row]) -> None:
        self.has_tools = any(uses_tools(row["messages"], row.get("tools")) for row in rows)

    def texts(self, row: Row) -> list[str]:
        tags = [TAGS] if uses_tools(row["messages"], row.get("tools")) else []
        tools = [json.dumps(tool, ensure_ascii=False) for tool in row.get("tools") or []]
        return [*tags, *tools, *(text for message in row["messages"] for text in texts_of(message))]

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        if self.has_tools:  # before rows are encoded, since those may come from a cache
            prepare_tools(processor)

    def cache_key(self) -> dict[str, Any]:
        return {"system": self.cfg.system, "ends": stop_ids(self.processor), "encoding": 3}

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        conversations = [self._conversation(row, row["messages"]) for row in rows if not is_rendered(row["messages"])]
        encoded = zip(conversations, encode_conversations(self.processor, conversations), strict=True)
        return [
            self._rendered_examples(row) if is_rendered(row["messages"]) else self._examples(row, *next(encoded))
            for row in rows
        ]

    def _conversation(self, row: Row, messages: list[dict[str, Any]]) -> Conversation:
        if self.cfg.system and messages and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.cfg.system}, *messages]
        return Conversation(messages, row.get("tools") or None, row.get("chat_template_kwargs") or None)

    def _examples(
        self, row: Row, conversation: Conversation, encoded: list[EncodedConversation] | TemplateRefused
    ) -> list[Example]:
        if isinstance(encoded, TemplateRefused):
            raise RowError(str(encoded))
        if not encoded:
            raise RowError("no message of the assistant is learned: learn is false, or the chat template marks none")
        try:
            windows, uncovered = fit(self.processor, conversation, encoded, self.context)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        examples = self._window_examples(row, conversation, windows, uncovered)
        for example in examples if len(encoded) > 1 else []:
            example.rewritten = True
        return examples

    def _rendered_examples(self, row: Row) -> list[Example]:
        """Return the examples of a text that a chat template has rendered."""
        if self.cfg.system:
            raise RowError("task.system cannot be added to a rendered text; leave it out")
        try:
            parsed = parse_rendered(self.processor, row["messages"][0]["content"])
            windows, uncovered = fit_rendered(self.processor, parsed, self.context)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        row = row | {"messages": parsed.messages}
        return self._window_examples(row, Conversation(parsed.messages), windows, uncovered)

    def _window_examples(
        self, row: Row, conversation: Conversation, windows: list[Window], uncovered: int
    ) -> list[Example]:
        """Return the windows of a row as examples. `uncovered`: tokens of the row in no window."""
        examples = [self._example(row, conversation, window) for window in windows]
        examples[0].ref["begins"] = True
        examples[-1].cut += uncovered
        return examples

    def _example(self, row: Row, conversation: Conversation, window: Window) -> Example:
        """Return a window as an example. Messages are counted as in the row, without a configured system message."""
        messages = conversation.messages
        shift = len(messages) - len(row["messages"])
        recalls = {int(item["turn"]): item for item in row.get("recalls") or []}
        replies = []
        for reply in window.replies:
            text = reply_text(reply, messages[reply.message])
            turn = reply.message - shift
            item: dict[str, Any] = {"turn": turn, "start": reply.start, "stop": reply.stop, "text": text}
            if reply.end_id is not None:
                item["end"] = reply.end_id
            if turn in recalls:
                item["recall"] = recalls[turn]
            if calls := messages[reply.message].get("tool_calls"):
                item["tool_calls"] = [[call["function"]["name"], call["function"]["arguments"]] for call in calls]
            replies.append(item)
        ref = {
            "replies": replies,
            "messages": [dict(message) for message in messages[window.first : window.last + 1]],
            "first": window.first - shift,
            "bytes": sum(len(reply["text"].encode()) for reply in replies),
        }
        if uses_tools(messages, conversation.tools):
            ref["tools"] = conversation.tools or []
        arrays = {"input_ids": window.ids, "target": window.target}
        return Example(arrays, ref, window.cut, window.cut_targets, window.cut_targets > 0)

    def dummy_target(self, row: Row) -> Row:
        messages = row["messages"] if isinstance(row["messages"], list) else []
        return row | {"messages": [*messages, {"role": "assistant", "content": "?"}]}

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        """Return examples for the next reply; a final assistant message is ignored."""
        return [[self._reply_example(row)] for row in rows]

    def _reply_example(self, row: Row) -> Example:
        messages = row["messages"]
        if is_rendered(messages):
            return self._rendered_reply_example(messages[0]["content"])
        conversation = self._conversation(row, messages[:-1] if messages[-1]["role"] == "assistant" else messages)
        history = conversation.messages
        max_prompt_tokens = max(1, self.context - min(self.generation.max_new_tokens, self.context // 2))
        try:
            prompt, end = reply_prompt(
                self.processor,
                history,
                max_prompt_tokens,
                tools=conversation.tools,
                template_kwargs=conversation.template_kwargs,
            )
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        example = self._prompt_example(prompt, end, history)
        if uses_tools(history, conversation.tools):
            example.ref["tools"] = conversation.tools or []
        return example

    def _rendered_reply_example(self, text: str) -> Example:
        room = max(1, self.context - min(self.generation.max_new_tokens, self.context // 2))
        try:
            prompt = rendered_prompt(self.processor, text, room)
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        return self._prompt_example(prompt, turn_end(self.processor), [{"role": "user", "content": text}])

    def _prompt_example(self, prompt: list[int], end: list[int], history: list[dict[str, Any]]) -> Example:
        """Return an example whose reply, after the prompt, is to be generated."""
        reply = {"turn": len(history), "start": len(prompt), "stop": len(prompt) + 1, "text": ""}
        arrays = {"input_ids": [*prompt, *end[:1]], "target": [0] * len(prompt) + [1] * len(end[:1])}
        return Example(arrays, ref={"replies": [reply], "messages": history, "first": 0, "bytes": 0, "begins": True})

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
        marks = self._reply_form(model).mark_ids
        ids, segments, ends = batch.inputs["input_ids"].cpu(), batch.segments.cpu(), end_ids(model)
        greedy = self.generation.temperature == 0 and self.generation.num_beams == 1
        prompts, targets_of_prompts = [], []
        for number, (item, ref) in enumerate(zip(items, batch.refs, strict=True)):
            example_ids = ids[segments == number].tolist()
            item["replies"], item["ended"] = [None] * len(ref["replies"]), [True] * len(ref["replies"])
            for index, reply in enumerate(ref["replies"]):
                stops = reply.get("end") in ends and reply["stop"] - reply["start"] <= self.generation.max_new_tokens
                answer = range(reply["start"], reply["stop"])
                if greedy and stops and correct_positions[number].issuperset(answer):
                    text = self.processor.decode(example_ids[answer.start : answer.stop - 1], marks=marks)
                    item["replies"][index] = shown_reply(text, reply["text"])
                else:
                    prompts.append(example_ids[: reply["start"]])
                    targets_of_prompts.append((number, index))
        for (number, index), (text, ended) in zip(
            targets_of_prompts,
            generate_replies(model, self.processor, prompts, self.generation, marks=marks),
            strict=True,
        ):
            reference = batch.refs[number]["replies"][index]["text"]
            items[number]["replies"][index], items[number]["ended"][index] = shown_reply(text, reference), ended
        for number, (item, ref) in enumerate(zip(items, batch.refs, strict=True)):
            if "tools" in ref:
                example_ids = ids[segments == number].tolist()
                item["parsed"] = [
                    self._parse(model, text, example_ids[: reply["start"]], ref["tools"])
                    for text, reply in zip(item["replies"], ref["replies"], strict=True)
                ]

    def _reply_form(self, model: nn.Module) -> ReplyForm:
        """Return how the model writes replies by the present chat template."""
        template = self.processor.tokenizer.chat_template
        if self._form is None or self._form[0] != template:
            self._form = (template, ReplyForm(self.processor, end_ids(model)))
        return self._form[1]

    def _parse(self, model: nn.Module, text: str, prompt_ids: list[int], tools: list[Any]) -> dict[str, Any]:
        """Return the parts of a reply where tools were offered."""
        reply = self._reply_form(model).parse(text, self.processor.tokenizer.decode(prompt_ids), tools)
        parsed: dict[str, Any] = {"content": reply.content, "tool_calls": [call.to_message() for call in reply.calls]}
        if reply.reasoning:
            parsed["reasoning_content"] = reply.reasoning
        return parsed | ({"malformed_tool_calls": reply.malformed} if reply.malformed else {})

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
        scores |= tool_call_scores(called_turns(predictions, refs))
        return scores | language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return the scores of the most frequent training reply (on the rows with generated text) and of a unigram model."""
        train_replies = [
            message["content"] for row in train for message in self._messages(row) if message["role"] == "assistant"
        ]
        end = turn_end(self.processor)
        unigram = Unigram(([*ids, *end] for ids in self.processor.plain_ids(train_replies)), len(self.processor))
        reply_ids = (self.processor.plain_ids([reply["text"] for reply in ref["replies"]]) for ref in refs)
        sums = unigram.measure([token for ids in replies for token in [*ids, *end]] for replies in reply_ids)
        # From the first window of each row, the row of each window and the rows with generated text.
        row_of_window = np.fromiter(itertools.accumulate(int("begins" in ref) for ref in refs), dtype=np.int64)
        is_generated = np.isin(row_of_window, evenly_spaced(np.unique(row_of_window), self.generate_rows))
        generated = [ref for ref, is_taken in zip(refs, is_generated, strict=True) if is_taken]
        answers = [reply["text"] for ref in generated for reply in ref["replies"]]
        scores = most_frequent_reply(train_replies, answers) | language_model_scores(
            *sums, [ref["bytes"] for ref in refs]
        )
        return {"most frequent reply, token frequencies": scores}

    def _messages(self, row: Row) -> list[dict[str, Any]]:
        """Return the messages of a row, also of a rendered text; none where its marks are missing."""
        if not is_rendered(row["messages"]):
            return list(row["messages"])
        try:
            return parse_rendered(self.processor, row["messages"][0]["content"]).messages
        except TemplateRefused:
            return []

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
            if "parsed" in prediction:
                line |= prediction["parsed"][number]
                if reply.get("tool_calls"):
                    line["reference_tool_calls"] = [
                        {"name": name, "arguments": arguments} for name, arguments in reply["tool_calls"]
                    ]
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


def reply_text(reply: EncodedReply, message: dict[str, Any]) -> str:
    """Return the text of a reply: the content, or with reasoning and tool calls what the template writes."""
    content: str = message["content"]
    return content if reply.text.strip() == content.strip() else reply.text


def shown_reply(text: str, reference: str) -> str:
    """Return a generated reply without the space that some templates write between their prompt and the reply."""
    return text if reference[:1].isspace() else text.removeprefix(" ")


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


def called_turns(predictions: list[Any], refs: list[Any]) -> list[CalledTurn]:
    """Return the calls of the generated replies, and of their references, where tools were offered."""
    turns = []
    for prediction, ref in zip(predictions, refs, strict=True):
        for parsed, reply in zip(prediction.get("parsed", []), ref["replies"], strict=False):
            functions = [call["function"] for call in parsed["tool_calls"]]
            calls = [(function["name"], function["arguments"]) for function in functions]
            references = [(name, arguments) for name, arguments in reply.get("tool_calls", [])]
            turns.append(CalledTurn(calls, references, parsed.get("malformed_tool_calls", 0)))
    return turns


TASK = Dialogue
