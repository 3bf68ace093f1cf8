"""Files that are written whole or not at all."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A context with a temporary file to write, which is renamed to ``path`` at its end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        try:
            yield Path(name)
        except RuntimeError as error:
            # So PyTorch says that a disk is full.
            if not re.search("PytorchStreamWriter|inline_container|iostream", str(error)):
                raise
            raise OSError(f"{path}: could not be written: {str(error).splitlines()[0]}") from error
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
