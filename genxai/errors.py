"""The errors a person is meant to read: each carries the exit code of the command that meets it."""

import errno

EXIT_OK = 0
EXIT_FAILED = 1  # the work was started and could not be finished
EXIT_USAGE = 2  # what was asked for cannot be: nothing was started
EXIT_STOPPED = 75  # stopped on request with everything saved; start again to go on (EX_TEMPFAIL)

#: errors of the file system that the person, not the program, has to mend; a run they end has not failed
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOLCK)


class GenxaiError(Exception):
    """A problem outside the program (data, disk, cluster): one plain message, no traceback."""

    exit_code = EXIT_FAILED


class UsageError(GenxaiError):
    """A wrong option, key or file: says what was given, what is allowed and where."""

    exit_code = EXIT_USAGE


class DataError(GenxaiError):
    """Missing, truncated or altered data; names the file and every way to get it."""


class CheckpointError(GenxaiError):
    """No usable checkpoint where one is needed."""


class RunRemoved(GenxaiError):
    """The directory of a run has been removed, or replaced, while this process was training it."""


class NonFiniteError(GenxaiError):
    """A loss term or a network stopped being a number; names it and the step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(f"{term} is not finite at step {step}")
        self.term, self.step = term, step
