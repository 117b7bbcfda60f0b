"""llmstage from Python: run one job with the words of the command line, or load a trained model and use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstage.cli.command import compose_run, run_words
from llmstage.errors import DataError, DiskError, UserError
from llmstage.evaluation.metrics.score import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmstage.data.rows import Row
    from llmstage.inference.inference_session import InferenceSession

Message = Mapping[str, Any]
"""One message of a conversation: `{"role": "user", "content": "Hello"}`."""


@dataclass(slots=True, frozen=True)
class Result:
    """What a run produced.

    Attributes:
        folder: The run folder.
        scores: For each split and metric a `Score`; empty for stages that score nothing.
        objective: The task's selecting metric on validation, or what else the stage optimises; None where it has none.
        report: `report.json` of the run folder as a dictionary.
    """

    folder: Path
    scores: dict[str, dict[str, Score]]
    objective: float | None
    report: dict[str, Any]

    @property
    def model_dir(self) -> Path | None:
        """The Hugging Face directory inside the run folder; None for stages that train no model."""
        for name in ("model", "improved", "adapter"):
            if (self.folder / name / "config.json").is_file():
                return self.folder / name
        return None


def run(*overrides: str) -> Result:
    """Run one job and return what it produced.

    The overrides are the words of the command line: `run("stage=finetune", "task=dialogue", "seed=1")`. The run folder is
    the same as that of the command line. Seeds, threads, signal handlers, `sys.argv` and a Hydra program around the call
    stay as they are.

    Args:
        overrides: `key=value` words, and `--config-dir <folder>` for YAML of your own.

    Returns:
        The run folder, its scores and its report.

    Raises:
        UserError: The config is wrong, or a subclass for what else went wrong; `status` is the exit status of the command line.
    """
    if "-m" in overrides or "--multirun" in overrides:
        raise UserError("llmstage.run() runs one job. Call it in a loop, or type the sweep in a shell: llmstage -m …")
    try:
        (job,) = run_words(overrides)
    except OSError as error:
        raise DiskError(f"{error}. Check that hydra.run.dir can be written and has space left.") from error
    if isinstance(job.error, OSError):
        raise DiskError(f"{job.error}. Check that {job.out_dir} can be written and has space left.") from job.error
    if job.error is not None:
        raise job.error
    path = job.out_dir / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores = {
        split: {name: Score(**value) for name, value in metrics.items()}
        for split, metrics in (report.get("scores") or {}).items()
    }
    return Result(job.out_dir.resolve(), scores, job.value, report)


def load(path: str | Path, *overrides: str) -> LoadedModel:
    """Load a trained model.

    Args:
        path: A run folder, a Hugging Face directory or a hub id. A run folder knows its task.
        overrides: Words of the command line that the model is used with: `"task=classification"` for a model that is not in
            a run folder, `"trainer.device=cuda"`, `"generation.max_new_tokens=20"`.

    Returns:
        The model, ready to predict.

    Raises:
        UserError: An override is wrong, or the task is missing.
        ModelError: There is no model at `path`, or it does not fit the task.
    """
    config = compose_run(["stage=predict", "data.test=-", f"model.path={path}", *overrides])

    from llmstage.data.rows import BadRows
    from llmstage.inference.inference_session import load_session
    from llmstage.models.gguf_import import convert_gguf
    from llmstage.training.machine import resolve_machine

    convert_gguf(config.model.path)
    machine = resolve_machine(config.trainer)
    return LoadedModel(load_session(config, machine, BadRows("error", Path.cwd()), reads_rows=False))


class LoadedModel:
    """A trained model and its task. `load()` makes it."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    @property
    def model(self) -> Any:
        """The torch module: a model of transformers."""
        return self._session.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return self._session.components.processor.tokenizer

    @property
    def task(self) -> str:
        """Name of the task."""
        return self._session.run.task.name

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict each row, as `stage=predict` does.

        Args:
            rows: N rows with the columns of the task. What is predicted (the label, the answer) may be missing.

        Returns:
            N dictionaries, e.g. `{"prediction": "delivery", "probability": 0.93, …}`.

        Raises:
            DataError: A row cannot be used; the message names its index.
        """
        checked = [self._check(row, index, has_target=False) for index, row in enumerate(rows)]
        responses = self._session.predict(checked, range(len(checked)))
        results: list[dict[str, Any]] = []
        for index, response in enumerate(responses):
            if isinstance(response, str):
                raise DataError(f"rows[{index}]: {response}.")
            results.append(response)
        return results

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[Message]],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        num_beams: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """Generate a text for each prompt.

        Args:
            prompts: A text, or N prompts. A text is continued (for an encoder-decoder: it is what the encoder reads). A list of
                messages is a conversation, and the reply of the assistant is generated with the model's chat template.
            max_new_tokens: The most tokens of a text; default: `generation.max_new_tokens`.
            temperature: 0 takes the likeliest token; above 0 samples; default: `generation.temperature`.
            top_p: Sample from the smallest set of tokens with this probability.
            num_beams: Beams of beam search; 1 is none.
            seed: Seed of sampling.

        Returns:
            N texts without the prompts.

        Raises:
            UserError: The model writes no text, or a number is out of range.
            DataError: A prompt is empty, too long, or not accepted by the chat template.
        """
        from llmstage.models.generation import generate_replies

        session = self._session
        if not session.model.can_generate():
            raise UserError(f"generate(): a model of task={self.task} writes no text. Use predict().")
        config = replace(
            session.run.generation,
            max_new_tokens=_given(max_new_tokens, session.run.generation.max_new_tokens, "max_new_tokens", 1),
            temperature=_given(temperature, session.run.generation.temperature, "temperature", 0),
            top_p=_given(top_p, session.run.generation.top_p, "top_p", 0),
            num_beams=_given(num_beams, session.run.generation.num_beams, "num_beams", 1),
        )
        batch = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = [self._prompt_ids(prompt, index, config.max_new_tokens) for index, prompt in enumerate(batch)]
        replies = generate_replies(session.model, session.components.processor, ids, config, seed)
        return [text for text, _ in replies]

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Return a vector for each text.

        Args:
            texts: A text, or N texts. The part of a text beyond the model's context is left out.

        Returns:
            Vectors of shape [N, D], not normalised: for most models the mean of the last hidden states, for
            task=contrastive the text tower's projection.

        Raises:
            UserError: The model has no vectors for texts.
        """
        import numpy as np
        import torch

        session = self._session
        if session.model.config.is_encoder_decoder:
            raise UserError("embed(): vectors are made by encoders and decoders, not by encoder-decoders.")
        batch = [texts] if isinstance(texts, str) else list(texts)
        processor = session.components.processor
        vectors = []
        # Texts of like length share a batch, so that little of it is padding.
        ids = [processor.marked_ids(text, None, session.max_length)[0] or [processor.pad_id] for text in batch]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(order), 32):
            with torch.no_grad(), session.machine.autocast(session.precision):
                part = session.task.text_vectors(session.model, [ids[index] for index in order[start : start + 32]])
            vectors.append(part.float().cpu().numpy())
        if not vectors:
            return np.zeros((0, 0), dtype=np.float32)
        result = np.empty((len(ids), vectors[0].shape[1]), dtype=np.float32)
        result[order] = np.concatenate(vectors)
        return result

    def evaluate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        """Score the model on rows with targets, as `stage=evaluate` does.

        Args:
            rows: N rows with all columns of the task.

        Returns:
            A `Score` for each metric.

        Raises:
            DataError: A row cannot be used, or there is none.
            UserError: The rows of this task are made from several others; use `run("stage=evaluate", …)` with a file.
        """
        from llmstage.data.row_source import ListSource
        from llmstage.evaluation.scoring import score
        from llmstage.training.setup import encode

        session = self._session
        task, components = session.task, session.components
        if task.custom_splits or task.tables:
            raise UserError(
                f"evaluate(): a row of task={self.task} is made from several others. Name a file instead: "
                f'llmstage.run("stage=evaluate", "model.path=…", "data.test=…")'
            )
        checked = [self._check(row, index, has_target=True) for index, row in enumerate(rows)]
        if not checked:
            raise DataError("evaluate(): there are no rows.")
        source = ListSource("test", checked, "rows from Python", task.columns.identity)
        sources = task.build_splits({"test": source}, {}, session.run.data)
        self._read_images(checked)
        run_config = replace(session.run, data=replace(session.run.data, cache="off"))
        store = encode(run_config, task, sources["test"], components.context, training=False)
        scored = score(
            run_config,
            replace(components, sources=sources, stores={"test": store}),
            session.model,
            session.machine,
            "test",
        )
        return scored.scores

    def _check(self, row: Mapping[str, Any], index: int, *, has_target: bool) -> Row:
        """Return a row in the task's columns; raise DataError where it cannot be used."""
        from llmstage.data.chat_formats import to_messages
        from llmstage.data.columns import map_columns
        from llmstage.data.row_checks import complaint

        task = self._session.task
        columns = task.columns if has_target else task.columns.without(task.target_columns)
        checked: Row = dict(row)
        reason: str | None = None
        if "messages" in columns.required:
            converted = to_messages(checked, replies=has_target)
            checked, reason = ({}, converted) if isinstance(converted, str) else (converted, None)
        else:
            named = {key: column for key, column in self._session.run.data.columns.items() if column in checked}
            mapping = map_columns(checked, named, columns, f"rows[{index}]")
            rest = {key: value for key, value in checked.items() if key not in mapping.values()}
            checked = {**rest, **{key: row[column] for key, column in mapping.items()}}
        reason = reason or complaint(checked, {}, columns, self._session.run.data.max_row_mb)
        reason = reason or task.check_row(checked if has_target else task.dummy_target(checked))
        if reason:
            raise DataError(f"rows[{index}]: {reason}.")
        return checked

    def _read_images(self, rows: Sequence[Row]) -> None:
        """Decode the images of the rows, where the task reads images."""
        from llmstage.data.image_store import ImageStore

        task = self._session.task
        if self._session.run.task.reads_images:
            task.image_store = ImageStore(self._session.components.processor.images)
            task.image_store.read(path for row in rows for path in task.images(row))

    def _prompt_ids(self, prompt: str | Sequence[Message], index: int, max_new_tokens: int) -> list[int]:
        """Return the ids that the model reads for a prompt."""
        from llmstage.data.row_checks import lone_surrogate
        from llmstage.tokenization.chat_template import TemplateRefused, reply_prompt

        session, processor = self._session, self._session.components.processor
        is_encoder_decoder = session.model.config.is_encoder_decoder
        max_length = session.max_length - (0 if is_encoder_decoder else max_new_tokens)
        if isinstance(prompt, str):
            if reason := lone_surrogate(prompt):
                raise DataError(f"prompts[{index}]: {reason}.")
            if is_encoder_decoder:
                ids = processor.marked_ids(prompt, None, session.max_length)[0]
            else:
                ids = [*([] if processor.bos_id is None else [processor.bos_id]), *processor.plain_ids([prompt])[0]]
        else:
            try:
                ids, _ = reply_prompt(processor, [dict(message) for message in prompt], max_length)
            except (TemplateRefused, KeyError) as error:
                raise DataError(f"prompts[{index}]: {error}.") from None
        if not ids:
            raise DataError(f"prompts[{index}]: it is empty, and this model has no token to begin with.")
        if len(ids) > max_length:
            raise DataError(
                f"prompts[{index}] has {len(ids)} tokens; with {max_new_tokens} new tokens this model reads {max_length}. "
                f"Shorten it, or lower max_new_tokens."
            )
        return ids


def _given(value: Any, default: Any, name: str, lowest: float) -> Any:
    """Return a value that was given, or the default; refuse one that is out of range."""
    if value is None:
        return default
    if not value >= lowest or (name == "top_p" and not 0 < value <= 1):
        raise UserError(f"generate(): {name}={value} is out of range.")
    return value
