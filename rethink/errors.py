"""Every error that Rethink raises on purpose. A traceback of any other type is a bug in Rethink.

    RethinkError                 what a user may see; `exit_code` is what the command line ends with
    ├── UsageError         (2)   the request cannot be carried out as given; nothing has started
    │   ├── RecipeError          a recipe value is unknown, degenerate or contradicts another
    │   ├── ModelError           a model cannot be found or read
    │   ├── TaskError            a task, data file or data set cannot be found or read
    │   └── RunFolderError       the output folder holds something else
    └── RunFailure         (1)   a run that had started cannot go on; what was saved stays valid
        ├── NumericsError        a loss or gradient is not finite
        ├── RewardFailure        too large a share of the rewards failed
        ├── SignalFailure        too few groups of rollouts have a signal
        ├── EngineFailure        a rollout engine broke
        ├── RankLost             a trainer rank ended or does not answer
        └── StorageFailure       the run's folder cannot be written (disk full, permission)

Messages are one paragraph: what was given, what is allowed, what to do instead. All errors pickle.
"""


class RethinkError(Exception):
    """Base of all errors meant for users."""

    exit_code = 1


class UsageError(RethinkError):
    """The request cannot be carried out as given; raised before slow work begins."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe value is unknown, degenerate or contradicts another."""


class ModelError(UsageError):
    """A model cannot be found or read."""


class TaskError(UsageError):
    """A task, data file or data set cannot be found or read."""


class RunFolderError(UsageError):
    """The run's folder holds something else than this run."""


class RunFailure(RethinkError):
    """A run that had started cannot go on; what was saved stays valid."""


class NumericsError(RunFailure):
    """A loss or a gradient is not finite."""


class RewardFailure(RunFailure):
    """A larger share of the rewards failed than the recipe allows."""


class SignalFailure(RunFailure):
    """Too few groups of a rollout batch have rewards that differ, so that there is too little to learn from."""


class EngineFailure(RunFailure):
    """A rollout engine broke."""


class RankLost(RunFailure):
    """A trainer rank ended, or does not answer."""


class StorageFailure(RunFailure):
    """The run's folder cannot be written."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra, for messages: `rethink` on the package index is another project."""
    return f"`pip install -e '.[{extra}]'` in a checkout of Rethink"
