"""llmstage: take a language, image-text or speech model through its whole life on one config surface.

`llmstage.run` and `llmstage.load` are the Python interface. They are imported on first use, so that importing llmstage
imports neither Hydra nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmstage.api import LoadedModel as LoadedModel
    from llmstage.api import Result as Result
    from llmstage.api import load as load
    from llmstage.api import run as run
    from llmstage.errors import DataError as DataError
    from llmstage.errors import DiskError as DiskError
    from llmstage.errors import Diverged as Diverged
    from llmstage.errors import Interrupted as Interrupted
    from llmstage.errors import ModelError as ModelError
    from llmstage.errors import NotImproved as NotImproved
    from llmstage.errors import OutOfMemory as OutOfMemory
    from llmstage.errors import Refused as Refused
    from llmstage.errors import UserError as UserError
    from llmstage.evaluation.metrics.score import Score as Score

__version__ = "0.2.0"

ERRORS = (
    "UserError", "DataError", "ModelError", "Diverged", "OutOfMemory", "DiskError", "Refused", "NotImproved", "Interrupted",
)  # fmt: skip
MODULES = {
    **dict.fromkeys(("run", "load", "Result", "LoadedModel"), "llmstage.api"),
    **dict.fromkeys(ERRORS, "llmstage.errors"),
    "Score": "llmstage.evaluation.metrics.score",
}
"""Where each name of the Python interface is defined."""


def __getattr__(name: str) -> Any:
    """Import a name of the Python interface when it is first used."""
    if name not in MODULES:
        raise AttributeError(f"module 'llmstage' has no attribute '{name}'")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    """Names for completion."""
    return sorted([*MODULES, "__version__"])
