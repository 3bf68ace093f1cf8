"""Command lines end with a sentence for what a user can mend, with a traceback for the rest."""

import ast

import pytest

from mmlearnconv.cli import one_sentence
from mmlearnconv.cli.run import FolderInUseError
from mmlearnconv.engine import CheckpointError, DivergenceError
from mmlearnconv.errors import UserError, UserImportError, UserTypeError, UserValueError
from mmlearnconv.layers import DCLSConv2d
from mmlearnconv.surgery import swap_convs
from tests.conftest import ROOT

KINDS = UserError, UserValueError, UserTypeError, UserImportError
KINDS = *KINDS, CheckpointError, DivergenceError, FolderInUseError


def raising(error):
    @one_sentence
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_user_can_mend(kind):
    with pytest.raises(SystemExit, match=r"^error: size: 0; must be 1 or more$"):
        raising(kind("size: 0; must be 1 or more"))()


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError, RuntimeError, AssertionError])
def test_a_bug_shows_as_a_bug(kind):
    error = kind("not enough values to unpack")
    with pytest.raises(kind) as found:
        raising(error)()
    assert found.value is error


def test_a_file_is_named():
    with pytest.raises(SystemExit, match=r"^error: a\.txt: No such file"):
        raising(FileNotFoundError(2, "No such file", "a.txt"))()


def test_layers_and_swaps_raise_what_python_s_users_expect():
    with pytest.raises(ValueError, match="kernel_count") as error:
        DCLSConv2d(2, 2, 3, kernel_count=0)
    assert isinstance(error.value, UserError)
    with pytest.raises(TypeError, match=r"kernel_cuont.*kernel_count") as error:
        DCLSConv2d(2, 2, 3, kernel_cuont=1)
    assert isinstance(error.value, UserError)
    for swap in (dict(pattern="*"), dict(pattern="a", regex="b", conv=dict(type="DCLS"))):
        with pytest.raises((TypeError, ValueError)) as error:
            swap_convs(DCLSConv2d(2, 2, 3), [swap])
        assert isinstance(error.value, UserError)


def test_no_line_raises_python_s_own():
    """They would be taken for bugs."""
    for path in [*(ROOT / "mmlearnconv").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = getattr(node.exc.func, "id", "")
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert name not in ("ValueError", "TypeError", "ImportError"), where
