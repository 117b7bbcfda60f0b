"""The model card (README.md) that travels with `model/`."""

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
"""Hugging Face's pipeline tag to the class that loads the model; anything else loads as `AutoModel`."""
SEES = ("image-text-to-text", "zero-shot-image-classification")
"""Tags of models that read an image; they come with a processor, not with a tokenizer alone."""


def write_card(model_dir: Path, report: Mapping[str, Any]) -> Path:
    """Write `model_dir/README.md`: front matter for the hub, then a card for people; returns its path.

    Read from `report["model"]`: `pipeline_tag`, `auto_class` (else by the tag), `own_weights`, `language`, `base`. Raises DiskError.
    """
    report = plain(report)
    model, data = report.get("model") or {}, report.get("data") or {}
    env = environment(escape=False)
    env.filters["cell"] = cell
    body = env.get_template("card.md.j2").render(
        report=report, model=model, data=data, title=title(report),
        auto_class=model.get("auto_class") or AUTO_CLASSES.get(model.get("pipeline_tag", ""), "AutoModel"),
        sees=sees(model), intervals=interval_methods(report), score_tables=list(score_tables(report)), facts=list(facts(report)), cautions=list(cautions(report)),
    )  # fmt: skip
    path = Path(model_dir) / "README.md"
    write_text(path, f"---\n{front_matter(report)}\n---\n\n{body.strip()}\n")
    return path


def sees(model: Mapping[str, Any]) -> bool:
    """Whether it reads images, by the report's word on the model."""
    return model.get("pipeline_tag") in SEES or model.get("auto_class") == "AutoModelForImageTextToText"


def title(report: Mapping[str, Any]) -> str:
    """`bert_tiny for classification`."""
    name, task = (report.get("model") or {}).get("name") or "A model", report.get("task")
    return f"{name} for {task.replace('_', ' ')}" if task else str(name)


def front_matter(report: Mapping[str, Any]) -> str:
    """The YAML the hub reads, with the scores of the main split as `model-index`."""
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
    """What a user of the model should know, read from the run itself."""
    if report.get("status", "completed") != "completed":
        yield f"The run that made it ended as **{report['status']}**, not completed."
    own = (report.get("model") or {}).get("own_weights")
    if own:
        yield (
            f"{formatting.number(own)} of its weights (`extra.*`) are read by llmstage alone. What transformers loads is the model "
            f"without them, and the scores above are not reached: score and use it with `llmstage stage=evaluate model.path=…`."
        )
    splits = (report.get("data") or {}).get("splits") or {}
    split = main_split(report)
    if split is None:
        yield "It was scored on nothing: how good it is is not known."
    elif split != "test":
        yield f"There was no test split: the scores are of `{split}`, which may also have chosen these weights."
    for name, counts in splits.items():
        if counts.get("overlap_with_train"):
            shown = counts["overlap_with_train"]
            yield f"Rows of `{name}` that are also in train: {formatting.number(shown)}; its scores flatter the model."
        if counts.get("lost_targets"):
            lost = formatting.number(counts["lost_targets"])
            yield f"{lost} targets of `{name}` did not fit the context and were not seen."
    scores = ((report.get("scores") or {}).get(split) or {}).values()
    counted = [score.get("count") or 0 for score in scores if score.get("value") is not None]
    if counted and min(counted) < 200:
        yield f"Some scores rest on {min(counted)} items only; read them with their intervals."
    if sees(report.get("model") or {}):
        yield "The scores hold for images and texts like those of the splits above; others were not tried."
    else:
        yield "The scores hold for text like that of the splits above; other text was not tried."
    yield "It was not examined for bias, harmful output, or leaks of training text."


def cell(value: Any) -> str:
    """Text inside a Markdown table or sentence: one line, and no character that would end the cell or start markup."""
    line = " ".join(formatting.text(value).split())
    for mark in "\\|`<>[]*_#":
        line = line.replace(mark, "\\" + mark)
    return line
