"""The end of a command: done, stopped, a user's mistake in one sentence, or a defect of this
program in one paragraph.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning_reg import __version__
from lightning_reg.cli.slurm import requeue
from lightning_reg.io.names import require_unicode
from lightning_reg.registry import UserError
from lightning_reg.registry.errors import ForeignError

STOPPED, MISTAKE, DEFECT = 130, 2, 70
"""Exit codes; 70 is ``EX_SOFTWARE`` of ``sysexits.h``."""


options: frozenset[str] = frozenset()
"""Options of the running command, by which messages name its arguments."""
_debug = False
"""Whether the traceback of what ends the command is shown."""
_time_is_over = False
"""Whether the command was ended because its SLURM job has to make room."""


def guarded(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code.

    ``--debug`` anywhere on the command line is taken out, and shows the traceback of whatever ends
    the command.
    """
    global _debug
    _debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
            signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # into a file as to a terminal: line by line
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        for word in (*sys.argv[1:], os.environ.get("PWD", "")):
            require_unicode(word)
        sys.exit(main())
    except BrokenPipeError:  # whoever read the output has enough, as head does
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        if _debug:
            traceback.print_exc()
        say(" ".join(filter(None, ["Stopped.", requeue() if _time_is_over else None])))
        sys.exit(STOPPED)
    except Exception as error:
        end(error)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C: files are whole or not there. SIGUSR1 is how SLURM says that a job's time
    is over.
    """
    global _time_is_over
    _time_is_over = number != signal.SIGTERM
    raise KeyboardInterrupt


def end(error: Exception) -> NoReturn:
    """Say what an error means to the user, and end the process."""
    if _debug:
        traceback.print_exception(error)
    mistake = sentence(error)
    say(mistake or _defect(error))
    sys.exit(MISTAKE if mistake else DEFECT)


def sentence(error: Exception) -> str | None:
    """A sentence for the user; ``None`` where the error is a defect of the program."""
    if isinstance(error, UserError):
        return f"{error}{' --debug shows where.' * isinstance(error, ForeignError)}"
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror or error}; correct the path, its permissions or the"
            " space on the disk."
        )
    if isinstance(error, UnicodeEncodeError):
        return (
            f"The path {error.object!a} cannot be used: its name or the locale is not UTF-8; rename"
            " it, or set LC_ALL=C.UTF-8."
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # of Path.expanduser
        return (
            "A path begins with ~ and the name of a user whom this machine does not know; write it"
            " in full."
        )
    return None


def refuse(error: UserError | str) -> NoReturn:
    """Say what is wrong and end with exit code 2."""
    say(str(error))
    sys.exit(MISTAKE)


def say(text: str) -> None:
    """To stderr, where there still is one."""
    with contextlib.suppress(OSError):
        print(f"\n{in_place(text)}", file=sys.stderr)


def in_place(text: str) -> str:
    """A message with its arguments as the running command spells them."""
    if "`" not in text:
        return text
    from lightning_reg.configuration.spelling import keys_of, spelled

    return spelled(text, options, lambda: keys_of([w for w in sys.argv[1:] if "=" in w]))


def _defect(error: Exception) -> str:
    """The paragraph for what nobody foresaw; its traceback goes into a file."""
    told = "".join(traceback.format_exception(error))
    text = (
        f"{' '.join(sys.argv)}\nlightning-reg {__version__}, Python {platform.python_version()},"
        f" {platform.platform()}\n\n{told}"
    )
    kept = "could not be written; --debug shows it"
    name = f"lightning-reg-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            kept = f"is in {folder / name}"
            break
    what = " ".join(str(error).split())[:200]
    return (
        "This is a defect in lightning-reg or in an extension of it, not in your command"
        f" ({type(error).__name__}: {what}). The full traceback {kept}. Please report it with that"
        " file, the command and, where it depends on them, the header of your images."
    )
