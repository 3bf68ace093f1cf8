"""What stops a command line, in one sentence."""

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from urllib.error import URLError

INTERRUPTED = 130
_PACKAGE = Path(__file__).resolve().parents[1]


def one_sentence(main: Callable[[], None]) -> Callable[[], None]:
    """Have a command line end with a sentence for what is not an error of the program.

    That is a file or folder that cannot be read or written, a full disk among them, a layer or swap
    that refuses its arguments, and Ctrl-C. A traceback would hide the name.
    """

    @wraps(main)
    def run() -> None:
        try:
            main()
        except OSError as error:
            sys.exit(f"error: {describe(error)}")
        except (TypeError, ValueError) as error:
            if not _refused_arguments(error):
                raise
            sys.exit(f"error: {error}")
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


def _refused_arguments(error: BaseException | None) -> bool:
    """Whether this package raised it while it built something."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if Path(f.filename).is_relative_to(_PACKAGE)]
        if frames and ours and ours[-1] is frames[-1]:
            builders = "__init__", "refuse_unknown", "_swap", "SwapConv"
            return any(f.name in builders for f in ours)
        error = error.__cause__ or error.__context__
    return False
