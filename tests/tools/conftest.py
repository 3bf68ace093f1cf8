import runpy
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs a command line in this process: what it prints, or says when it stops."""

    def run(name, *arguments):
        tool = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        try:
            runpy.run_path(tool, run_name="__main__")
        except SystemExit as stop:
            return str(stop)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run
