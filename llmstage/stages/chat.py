"""stage=chat: a conversation with a trained model in the terminal."""

from __future__ import annotations

from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.stage import Chat
from llmstage.data.rows import BadRows
from llmstage.errors import ModelError
from llmstage.inference.inference_session import load_session
from llmstage.inference.retrieval.grounding import make_grounding
from llmstage.inference.server.generation_worker import GenerationWorker
from llmstage.inference.terminal_chat import (
    HELP,
    Conversation,
    read_script,
    read_tools_file,
    run_conversation,
    typed_lines,
)
from llmstage.report.files import write_json
from llmstage.tasks.base import Task
from llmstage.training.finalize import link_latest
from llmstage.training.machine import environment, resolve_machine
from llmstage.training.session import run_lock, session


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Reply to turns until they end."""
    stage = cfg.stage
    assert isinstance(stage, Chat)
    turns = read_script(stage.script) if stage.script else typed_lines()
    tools = read_tools_file(stage.tools) if stage.tools else None
    with run_lock(out_dir):
        machine = resolve_machine(cfg.trainer)
        with session(cfg.seed, machine.threads, deterministic=False):
            model_session = load_session(cfg, machine, BadRows("error", out_dir), check_task=check_converses)
            grounding = make_grounding(model_session)
            processor = model_session.components.processor
            worker = GenerationWorker(
                model_session.model, processor, slots=1, queue_size=1, max_length=model_session.max_length
            )
            system = stage.system or getattr(cfg.task, "system", None)
            try:
                conversation = Conversation(worker, processor, cfg.generation, system, cfg.seed, grounding, tools)
                console.note(HELP)
                run_conversation(conversation, turns, echo=bool(stage.script))
            finally:
                worker.close()
            if stage.save:
                conversation.save(stage.save)
        report = {"status": "completed", "stage": stage.name, "task": cfg.task.name, **environment(), **about}
        write_json(
            out_dir / "report.json", {**report, "turns": len(conversation.messages), "run_dir": str(out_dir.resolve())}
        )
        link_latest(out_dir, stage.name)
    return None


def check_converses(task: Task) -> None:
    """Raise ModelError for a task whose model does not write the next turn of a conversation."""
    if task.auto_model != "AutoModelForCausalLM":
        raise ModelError(
            f"task={task.cfg.name} does not converse: stage=chat needs a causal language model, such as a finetuned "
            f"chat model. Use this one with stage=predict or stage=serve."
        )
