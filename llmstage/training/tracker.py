"""Write metrics to metrics.jsonl, and to TensorBoard where tracker=tensorboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import TrackerConfig
from llmstage.errors import UserError


class Tracker:
    """Appends one JSON object a line. A resumed run first removes the lines after its checkpoint."""

    def __init__(self, run_dir: Path, cfg: TrackerConfig, resumed_step: int | None) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.failed = False
        if resumed_step is not None and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            earlier = [line for line in lines if is_up_to(line, resumed_step)]
            self.path.write_text("".join(f"{line}\n" for line in earlier), encoding="utf-8")
        elif self.path.exists():
            self.path.unlink()
        self.board = open_board(run_dir, resumed_step) if cfg.name == "tensorboard" else None

    def __call__(self, line: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:  # a full disk must not end the training; the checkpoint will say so if it lasts
            if not self.failed:
                console.warn(f"{self.path} cannot be written ({error}); training goes on without it")
            self.failed = True
        if self.board is not None:
            prefix = "train" if line["kind"] == "train" else f"eval/{line['split']}"
            for name, value in line.items():
                if isinstance(value, (int, float)) and name not in ("step", "tokens"):
                    self.board.add_scalar(f"{prefix}/{name}", value, line["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def is_up_to(line: str, step: int) -> bool:
    """Return whether a line belongs to a step up to `step`."""
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError):
        return False  # the line that was being written when the run died


def open_board(run_dir: Path, resumed_step: int | None) -> Any:
    """Return a TensorBoard writer. Raise UserError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tracker=tensorboard needs the package tensorboard: pip install 'llmstage[tensorboard]'"
        ) from None
    return SummaryWriter(str(run_dir / "tb"), purge_step=resumed_step)
