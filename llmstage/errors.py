"""Errors that a user can correct, each with the exit status that a script can act on.

Raise one of these with a message that says what is wrong, why, and the key or command that corrects it. The command line
prints the message alone, without a traceback. Any other exception is a bug, and the exit status is 1.
"""


class UserError(Exception):
    """Wrong usage or configuration: nothing was started."""

    status = 2


class OwnCodeError(UserError):
    """A task or a reader of the user's own that does not keep its contract; the message names the module and the method."""

    status = 1


class DataError(UserError):
    """A row, a file or a split that cannot be used; the message names `file:line` where there is one."""

    status = 3


class ModelError(UserError):
    """A model, tokenizer or checkpoint that cannot be used, or a run that cannot be resumed."""

    status = 4


class Diverged(UserError):
    """Loss or gradients are still not finite after all permitted skips and rollbacks."""

    status = 5


class OutOfMemory(UserError):
    """Out of memory, and the micro-batch cannot be made smaller automatically."""

    status = 6


class DiskError(UserError):
    """A folder that cannot be written, or a full disk."""

    status = 7


class Refused(UserError):
    """Refused for safety: code or pickles from a source that the user did not name."""

    status = 8


class NotImproved(UserError):
    """stage=explore trained a new model for the weak slices, and its guard refused it: the old model is kept."""

    status = 9


class Interrupted(UserError):
    """Stopped by a signal. The same command with the same run folder continues the run, or repeats it where nothing is saved."""

    status = 75
