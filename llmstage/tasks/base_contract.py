"""Check that a task keeps the contract of tasks/base.py, so that a mistake in a task of the user's own is reported as one.

create_task() checks the class before the run. The other functions check what a method of the task has returned, each time
it is called; they look at types and counts only, which costs nothing beside the method itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transformers

from llmstage.config import GenerationConfig
from llmstage.config.task import TaskConfig
from llmstage.data.rows import Columns
from llmstage.errors import OwnCodeError, UserError
from llmstage.evaluation.metrics.score import Score
from llmstage.naming import load_module
from llmstage.tasks.base import Batch, Example, LossSum, Task


def create_task(cfg: TaskConfig, generation: GenerationConfig) -> Task:
    """Return the task that `task.name` names. Raise UserError for a module that does not define one."""
    module = load_module("tasks", cfg.name, trusted=True)
    factory = getattr(module, "TASK", None)
    is_class = isinstance(factory, type)
    if not callable(factory) or (is_class and not issubclass(factory, Task)):
        value = "has no TASK" if factory is None else f"has TASK = {factory!r}"
        raise UserError(f"{module.__name__} {value}: its last line must be TASK = <the class>, a subclass of Task.")
    name = f"{module.__name__}.{factory.__name__ if is_class else 'TASK'}"
    if is_class and factory.__abstractmethods__:
        missing = ", ".join(f"{method}()" for method in sorted(factory.__abstractmethods__))
        raise UserError(f"{name} does not implement {missing}, which every task needs. docs/extend.md shows them.")
    task = factory(cfg, generation)  # a function that chooses between classes by an option is a TASK too
    if not isinstance(task, Task):
        raise UserError(f"{name} returned {type_name(task)}; it must return a Task.")
    if not isinstance(getattr(task, "columns", None), Columns):
        raise UserError(f"{name} has no `columns`: write columns = Columns(required=(…)), the columns of its rows.")
    auto_model = getattr(task, "auto_model", None)
    if not hasattr(transformers, str(auto_model)):
        value = "has no `auto_model`" if auto_model is None else f"has auto_model = {auto_model!r}, which is unknown"
        raise UserError(f"{name} {value}: name a class of transformers, such as AutoModelForSequenceClassification.")
    return task


def refuse(task: Task, method: str, returned: str, expected: str) -> OwnCodeError:
    """Return the error for a method that returned something else than its contract says."""
    name = f"{type(task).__module__}.{type(task).__name__}.{method}()"
    return OwnCodeError(f"{name} returned {returned}; it must return {expected}.")


def type_name(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def check_texts(task: Task, texts: Any) -> list[str]:
    """Return the texts of a row. A single text would be read letter by letter."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise refuse(task, "texts", f"{type_name(texts)} {texts!r:.60}", "a list of texts")
    return list(texts)


def check_examples(task: Task, rows: Sequence[Any], encoded: Any) -> list[list[Example]]:
    """Return the examples of some rows: one list for each row."""
    if not isinstance(encoded, list) or len(encoded) != len(rows):
        count = f" of {len(encoded)}" if isinstance(encoded, list) else ""
        raise refuse(task, "encode_many", f"{type_name(encoded)}{count}", f"a list for each of the {len(rows)} rows")
    for examples in encoded:
        if not isinstance(examples, list) or not all(isinstance(example, Example) for example in examples):
            inside = f" of {type_name(examples[0])}" if isinstance(examples, list) else ""
            raise refuse(task, "encode", f"{type_name(examples)}{inside}", "a list of Example")
        for example in examples:
            if "input_ids" not in example.arrays:
                raise refuse(task, "encode", f"an Example with {', '.join(example.arrays)}", "Examples with input_ids")
    return encoded


def check_batch(task: Task, batch: Any, num_rows: int) -> Batch:
    """Return the batch of collate(): tensors that have an entry for each row."""
    if not isinstance(batch, Batch):
        raise refuse(task, "collate", type_name(batch), "a Batch")
    for name in ("input_ids", "attention_mask"):
        value = batch.inputs.get(name)
        if value is not None and len(value) != num_rows:
            shape = list(value.shape)
            raise refuse(
                task, "collate", f"{name} of shape {shape}", f"a row for each of the {num_rows} rows of the batch"
            )
    return batch


def check_loss(task: Task, loss: Any) -> LossSum:
    """Return the loss of a micro-batch: a scalar sum and a count."""
    if not isinstance(loss, LossSum):
        raise refuse(task, "loss", type_name(loss), "LossSum(total, count): the sum over the items and their number")
    if loss.total.dim() != 0:
        raise refuse(task, "loss", f"a total of shape {list(loss.total.shape)}", "a scalar total: add .sum()")
    return loss


def check_predictions(task: Task, predictions: Any, num_examples: int) -> list[Any]:
    """Return the predictions of a batch: one for each example."""
    if not isinstance(predictions, list) or len(predictions) != num_examples:
        returned = f"{len(predictions)} items" if isinstance(predictions, list) else type_name(predictions)
        raise refuse(task, "predict", returned, f"a list with a prediction for each of the {num_examples} examples")
    return predictions


def check_scores(task: Task, scores: Any) -> dict[str, Score]:
    """Return the scores of a split by their name."""
    if not isinstance(scores, dict):
        raise refuse(task, "score", type_name(scores), "a dict of Score")
    wrong = [name for name, value in scores.items() if not isinstance(value, Score)]
    if wrong:
        raise refuse(
            task, "score", f"{type_name(scores[wrong[0]])} for {wrong[0]!r}", "Score(value, count=…) for each metric"
        )
    return scores
