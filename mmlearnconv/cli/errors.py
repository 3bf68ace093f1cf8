"""What stops a command line, in one sentence."""

import sys
from collections.abc import Callable
from functools import wraps
from urllib.error import URLError

from ..errors import UserError

INTERRUPTED = 130


def one_sentence(main: Callable[[], None]) -> Callable[[], None]:
    """Have a command line end with a sentence for what a user can mend.

    That is a :class:`UserError`, a file or folder that cannot be read or written, a full disk among
    them, and Ctrl-C. Everything else is a fault of a program and shows its traceback.
    """

    @wraps(main)
    def run() -> None:
        try:
            main()
        except UserError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            sys.exit(f"error: {describe(error)}")
        except KeyboardInterrupt:
            # On a line of its own, after ^C or a progress bar.
            print("\ninterrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return run


def describe(error: OSError) -> str:
    """What went wrong with which file."""
    if "Original Traceback" in str(error):
        # Of a loader's worker: its last line is the error, with its type.
        return str(error).strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, URLError):
        return f"a download failed ({error.reason}); the address stands above"
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"
