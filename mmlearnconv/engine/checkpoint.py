"""Safe (weights-only) loading."""

import argparse
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from ..errors import UserValueError
from ..files import atomic_write

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray


class CheckpointError(UserValueError):
    """A checkpoint that cannot, or must not, be loaded."""


def _history_method(owner: type, name: str) -> Any:
    """The one use of ``getattr`` that mmengine's checkpoints make."""
    method = vars(HistoryBuffer).get(name)
    if owner is not HistoryBuffer or name.startswith("_") or not callable(method):
        raise pickle.UnpicklingError(f"GLOBAL getattr({owner.__name__},{name!r})")
    return method


# What checkpoints contain besides tensors and plain values: mmengine's log histories, as numpy
# arrays, and the arguments that authors' training scripts save. None of these runs code.
_SAFE_GLOBALS = [
    argparse.Namespace,
    slice,
    HistoryBuffer,
    (_history_method, "builtins.getattr"),
    multiarray._reconstruct,
    multiarray.scalar,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u4", "u8", "bool")),
]
# For toolboxes' own tools: mmengine 0.10.7 cannot resume without them.
torch.serialization.add_safe_globals(_SAFE_GLOBALS)


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The file that a user named.

    Raises:
        CheckpointError: there is no such file, or it is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder; name a file in it")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    return path


def load_checkpoint(path: str | os.PathLike, map_location: Any = "cpu", trust: bool = False) -> Any:
    """Load a checkpoint without running code that it contains.

    The weights of a file of ConvNeXt's or DCLS's authors, under ``model``, are also given as
    ``state_dict``, where mmengine looks for them; so are the tensors of a ``.safetensors`` file.

    Args:
        path: the file.
        map_location: as ``torch.load``. Default: the CPU.
        trust: whether to unpickle whatever the file holds, running its code, and not to compare its
            checksums. Default: ``False``.

    Raises:
        CheckpointError: the file is missing or damaged, or contains more than weights.
    """
    path = find_checkpoint(path)
    if path.suffix == ".safetensors":
        return dict(state_dict=_load_safetensors(path, map_location))
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=not trust)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"loading it would run {asked.group(1)}, as malicious files do"
            if asked
            else "it is damaged, or holds more than weights"
        )
        raise CheckpointError(
            f"checkpoint {path} is refused: {reason}. If you trust who made it, add "
            "--trust-checkpoint"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError) as error:
        reason = str(error).split(". ")[0].split("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} is damaged or not a PyTorch checkpoint ({type(error).__name__}: "
            f"{reason}); copy or download it again"
        ) from error
    if not trust:
        _compare_checksums(path)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"checkpoint {path} holds a {type(checkpoint).__name__}, not a dictionary of weights"
        )
    if isinstance(checkpoint.get("model"), dict) and "state_dict" not in checkpoint:
        checkpoint["state_dict"] = checkpoint["model"]
    return checkpoint


def _compare_checksums(path: Path) -> None:
    """Refuse a file whose tensors changed after they were written, which PyTorch does not see."""
    if not is_zipfile(path):
        return  # As PyTorch wrote before 1.6, without checksums.
    try:
        with ZipFile(path) as file:
            changed = file.testzip()
    except BadZipFile as error:
        changed = str(error)
    if changed:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({changed}: the checksum differs); copy or download it "
            "again. If it was written without checksums, add --trust-checkpoint"
        )


def _load_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"checkpoint {path} needs safetensors: install it") from error
    try:
        return load_file(path, device=str(map_location or "cpu"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or not a safetensors file ({error}); copy or download "
            "it again"
        ) from error


def enforce_weights_only(trust: bool = False) -> None:
    """Have mmengine load checkpoints as :func:`load_checkpoint` does, for the rest of the process.

    This covers ``init_cfg``, ``load_from`` and ``resume``, downloads included.

    Args:
        trust: as :func:`load_checkpoint`. Default: ``False``.
    """

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return load_checkpoint(filename, map_location, trust)

    CheckpointLoader.register_scheme("", loader=load_from_local, force=True)
    if not trust:
        # For the other loaders, which download files.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


class AtomicLocalBackend(LocalBackend):
    """mmengine's files on disk, written whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file."""
        with atomic_write(filepath) as path:
            path.write_bytes(obj)


def save_atomically() -> None:
    """Have mmengine write checkpoints whole or not at all, for the rest of the process."""
    register_backend("local", AtomicLocalBackend, force=True, prefixes="")


def newest_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The checkpoint that a run in this folder goes on from; ``None`` if it saved none.

    That which ``last_checkpoint`` names, or where that was moved or is damaged the newest
    ``epoch_*.pth`` or ``iter_*.pth`` that is whole.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    folder = Path(folder)
    saved = [*folder.glob("epoch_*.pth"), *folder.glob("iter_*.pth")]
    candidates = sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = folder / "last_checkpoint"
    named = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    if named:
        # As it was written from another working folder, or before the folder was moved.
        here = [path for path in (Path(named), folder / Path(named).name) if path.exists()]
        candidates = here[:1] + candidates
    for path in candidates:
        if path.is_dir() or is_zipfile(path):
            return path
        print_log(f"{path} is damaged: trying an older one", "current", logging.WARNING)
    if candidates:
        raise CheckpointError(
            f"{folder}: none of {', '.join(sorted({p.name for p in candidates}))} is whole; remove "
            "them to begin anew, or name another checkpoint"
        )
    return None
