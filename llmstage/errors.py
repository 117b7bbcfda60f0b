"""Errors a user can mend, each with the exit status a script can act on.

Raise one of these with a message that says what is wrong, why, and the key or command that mends it; the command line
prints the message alone, without a traceback. Anything else that escapes is a bug of ours and exits with 1.
"""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """Usage or configuration: nothing was started. Hydra prints only the message of a CompactHydraException."""

    status = 2


class DataError(UserError):
    """A row, a file or a split that cannot be used; the message names `file:line` where there is one."""

    status = 3


class ModelError(UserError):
    """A model, tokenizer, checkpoint or resume that does not hold."""

    status = 4


class Diverged(UserError):
    """Loss or gradients stayed non-finite after the policy of skipping and rolling back was used up."""

    status = 5


class OutOfMemory(UserError):
    """Memory ran out and the micro-batch cannot become smaller by itself."""

    status = 6


class DiskError(UserError):
    """A folder that cannot be written, or a full disk."""

    status = 7


class Refused(UserError):
    """Refused for safety: code or pickles from a place the user did not name."""

    status = 8


class NotImproved(UserError):
    """stage=explore trained a better model for the weak slices, and its guard refused it: the old one stays."""

    status = 9


class Interrupted(UserError):
    """Stopped by a signal; the same command with the same run folder goes on, or does it again where nothing was to be saved."""

    status = 75
