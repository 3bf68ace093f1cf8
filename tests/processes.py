"""Python files in processes of their own, which have the libraries imported already.

Importing PyTorch, mmcv and mmdet takes longer than most of what tests let a command do: such
processes are forks of one that has imported them. This package is not among them.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import libraries

_LIBRARIES = ["torch", "mmcv", "mmengine.runner", "mmdet.apis", "mmseg.apis"]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(_LIBRARIES)


def run_file(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float = 900,
    with_libraries: bool = False,
) -> tuple[int, str]:
    """Run ``python FILE ARGUMENT ...``, with those of ``tests/libraries.py`` if so wished.

    Returns:
        tuple[int, str]: exit status, and what it wrote to its standard output and error.

    Raises:
        TimeoutError: it had not ended after so many seconds, and was killed.
    """
    return _in_a_fork(timeout, _run, list(command), str(cwd), dict(environment), with_libraries)


def call(function: Callable[..., None], *arguments: Any) -> str:
    """Call a function of a module in such a process, and return what it printed.

    Raises:
        AssertionError: it raised; the message has its traceback.
    """
    status, output = _in_a_fork(900, function, *arguments)
    assert status == 0, output[-5000:]
    return output


def _in_a_fork(timeout: float, function: Callable[..., None], *arguments: Any) -> tuple[int, str]:
    with tempfile.NamedTemporaryFile() as log:
        process = _forks.Process(target=_with_output_in, args=(log.name, function, *arguments))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{function.__name__} {arguments} had not ended after {timeout} s")
        assert process.exitcode is not None
        return process.exitcode, Path(log.name).read_text()


def _with_output_in(log: str, function: Callable[..., None], *arguments: Any) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Without what the libraries printed while they were imported, which its buffer may still hold.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    function(*arguments)


def _run(command: list[str], cwd: str, environment: dict[str, str], with_libraries: bool) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if with_libraries:
        libraries.find()
    run_as_main(command)


def run_as_main(command: list[str]) -> None:
    """What ``python FILE ARGUMENT ...`` does, in this process."""
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
