"""What every command shares: the parser with examples, the meaning of --runs, and how errors end it.

A problem a person can act on is one message on stderr and an exit code, never a traceback.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from genxai.errors import DISK_ERRORS, EXIT_FAILED, GenxaiError, UsageError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

REPOSITORY = Path(__file__).resolve().parent.parent

#: what flock says on a file system without locks (Lustre without `-o flock`, some NFS)
_LOCK_ERRORS = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM after an orderly stop; carries the one line to say and the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_command(main: Callable[[], int]) -> int:
    """The exit code of a command; turns every error meant for a person into one message on stderr."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ± shows ?, and files have it
    try:
        _hide_scripts()
        code = main()
        sys.stdout.flush()  # here, so that a closed pipe is met inside the try
        return code
    except GenxaiError as error:
        _say(f"error: {error}")
        return error.exit_code
    except Interrupted as stop:
        _say(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        _say("interrupted; start the same command again to go on")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno is None:
            raise  # not the system's word: a bug
        _say(f"error: {_os_error(error)}")
        if error.errno in DISK_ERRORS and not error.filename:
            _discard_stdout()  # it may be what is full
        return EXIT_FAILED


_NO_LOCKS = (
    "this file system has no file locks (flock), without which two processes could train one run; "
    "mount it with locks or choose another folder with --runs"
)


def _os_error(error: OSError) -> str:
    """What the system said about which file, and what that means where it is not plain."""
    if error.errno in _LOCK_ERRORS:
        return f"{_locked_folder(error)}: {_NO_LOCKS}"
    if error.errno == errno.ENOENT and not error.filename:  # os.getcwd names no file
        return "the current directory has been removed; change to another one"
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    harmless = "; nothing that was already written is harmed" if error.errno in DISK_ERRORS else ""
    return f"{where}{error.strerror}{harmless}"


def _locked_folder(error: OSError) -> str:
    """The folder of the lock file; flock itself names no file, its caller may have added it."""
    return str(Path(error.filename).parent) if error.filename else "the folder of runs"


def _open_closed_streams() -> None:
    """Point streams that the caller has closed (`>&-`) at /dev/null.

    Python has None for them, and the next file that is opened, a checkpoint perhaps, would get their number.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))


def _hide_scripts() -> None:
    """Forget the script's own folder, which Python puts first: evaluate.py would hide Hugging Face's `evaluate`."""
    if sys.path and Path(sys.path[0]).resolve() in (REPOSITORY / "launch", REPOSITORY / "analysis"):
        del sys.path[0]


def _say(message: str) -> None:
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        return  # nobody is listening; the exit code still tells


def _discard_stdout() -> None:
    """Point stdout at /dev/null: the interpreter flushes it once more at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # stdout is not a real file (a test, an embedding)


def make_parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose --help keeps the description as written and ends with examples."""
    return argparse.ArgumentParser(
        prog=program,
        description=description.strip(),
        epilog="examples:\n" + examples.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_runs_option(parser: argparse.ArgumentParser) -> None:
    """--runs DIR, by default $GENXAI_RUNS or ./runs."""
    parser.add_argument(
        "--runs",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of all run directories (default: $GENXAI_RUNS or ./runs)",
    )


def runs_folder(given: Path | None) -> Path:
    """The absolute RUNS folder that --runs, $GENXAI_RUNS or the current directory says."""
    return absolute(given or Path(os.environ.get("GENXAI_RUNS") or "runs"))


def absolute(path: Path) -> Path:
    """The path from the root. Raises UsageError for the home of a user there is not."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"{path}: there is no such user on this machine") from None


_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def split_overrides(words: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    """The one positional name (None if absent) and the `key=value` words, in any order.

    A file whose name has an = in it is a name. Raises UsageError if there are two names; `what` says in the message
    what a name would be.
    """
    overrides = [word for word in words if _OVERRIDE.match(word) and not os.path.exists(word)]
    names = [word for word in words if word not in overrides]
    if len(names) > 1:
        raise UsageError(f"expected one {what}, got {' and '.join(map(repr, names))}; overrides are key=value")
    return (names[0] if names else None), overrides
