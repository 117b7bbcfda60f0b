"""Writes the model card, `model/README.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmstage.report import formatting
from llmstage.report.files import plain, write_text
from llmstage.report.html import environment, facts, interval_methods, main_split, score_tables

AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "translation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "image-text-to-text": "AutoModelForImageTextToText",
    "zero-shot-image-classification": "AutoModel",
}
"""Pipeline tag of Hugging Face to the class that loads the model; a model with another tag loads as `AutoModel`."""
IMAGE_TAGS = ("image-text-to-text", "zero-shot-image-classification")
"""Tags of models that read images; they have a processor, not only a tokenizer."""


def write_card(model_dir: Path, report: Mapping[str, Any]) -> Path:
    """Write `model_dir/README.md`, with front matter for the hub, and return its path.

    Uses of `report["model"]`: `pipeline_tag`, `auto_class` (else by the tag), `own_weights`, `language`, `base`. Raises DiskError.
    """
    report = plain(report)
    model, data = report.get("model") or {}, report.get("data") or {}
    env = environment(escape=False)
    env.filters["cell"] = cell
    body = env.get_template("card.md.j2").render(
        report=report, model=model, data=data, title=title(report),
        auto_class=model.get("auto_class") or AUTO_CLASSES.get(model.get("pipeline_tag", ""), "AutoModel"),
        reads_images=reads_images(model), intervals=interval_methods(report), score_tables=list(score_tables(report)), facts=list(facts(report)), cautions=list(cautions(report)),
    )  # fmt: skip
    path = Path(model_dir) / "README.md"
    write_text(path, f"---\n{front_matter(report)}\n---\n\n{body.strip()}\n")
    return path


def reads_images(model: Mapping[str, Any]) -> bool:
    """Return whether the model reads images."""
    return model.get("pipeline_tag") in IMAGE_TAGS or model.get("auto_class") == "AutoModelForImageTextToText"


def title(report: Mapping[str, Any]) -> str:
    """Return a title such as `bert_tiny for classification`."""
    name, task = (report.get("model") or {}).get("name") or "A model", report.get("task")
    return f"{name} for {task.replace('_', ' ')}" if task else str(name)


def front_matter(report: Mapping[str, Any]) -> str:
    """Return the YAML that the hub reads, with the scores of the main split as `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    model, task, split = report.get("model") or {}, report.get("task") or "task", main_split(report)
    tag = model.get("pipeline_tag")
    data_name = (report.get("data") or {}).get("described") or "data of this run"
    results = [
        EvalResult(
            task_type=tag or task, task_name=task, dataset_type="custom", dataset_name=data_name, dataset_split=split,
            metric_type=name, metric_name=formatting.label(name), metric_value=score["value"],
        )
        for name, score in ((report.get("scores") or {}).get(split) or {}).items() if score.get("value") is not None
    ]  # fmt: skip
    card = ModelCardData(
        library_name="transformers", pipeline_tag=tag, language=model.get("language"), base_model=model.get("base"),
        tags=["llmstage"], model_name=title(report) if results else None, eval_results=results or None,
    )  # fmt: skip
    return str(card.to_yaml()).strip()


def cautions(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits of the model that follow from the run's report."""
    if report.get("status", "completed") != "completed":
        yield f"The run that trained it ended as **{report['status']}**, not completed."
    extra_weights = (report.get("model") or {}).get("own_weights")
    if extra_weights:
        yield (
            f"{formatting.number(extra_weights)} of its weights (`extra.*`) are read by llmstage only. transformers loads the model "
            f"without them and does not reach the scores above: score and use it with `llmstage stage=evaluate model.path=…`."
        )
    splits = (report.get("data") or {}).get("splits") or {}
    split = main_split(report)
    if split is None:
        yield "It was not scored on any data: its quality is not known."
    elif split != "test":
        yield f"There was no test split: the scores are of `{split}`, which may also have been used to select these weights."
    for name, counts in splits.items():
        if counts.get("overlap_with_train"):
            overlap = formatting.number(counts["overlap_with_train"])
            yield f"Rows of `{name}` that are also in train: {overlap}; its scores are too high."
        if counts.get("lost_targets"):
            lost = formatting.number(counts["lost_targets"])
            yield f"{lost} targets of `{name}` did not fit the context, so the model did not see them."
    scores = ((report.get("scores") or {}).get(split) or {}).values()
    counted = [score.get("count") or 0 for score in scores if score.get("value") is not None]
    if counted and min(counted) < 200:
        yield f"Some scores are based on only {min(counted)} items; read them with their intervals."
    if reads_images(report.get("model") or {}):
        yield "The scores are valid for images and texts like those of the splits above; others were not tested."
    else:
        yield "The scores are valid for text like that of the splits above; other text was not tested."
    yield "It was not tested for bias, harmful output, or leaks of training text."


def cell(value: Any) -> str:
    """Return text for a Markdown table or sentence: one line, with escaped characters that would end the cell or start markup."""
    line = " ".join(formatting.text(value).split())
    for mark in "\\|`<>[]*_#":
        line = line.replace(mark, "\\" + mark)
    return line
