"""What an installed package brings besides Python."""

import os
import subprocess
import sys

import yaml

from tests.conftest import ROOT


def test_mim_finds_the_configs_of_an_installed_package(tmp_path):
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path],
        cwd=ROOT,
        env=os.environ | {"MMLEARNCONV_WITHOUT_OPS": "1"},
        check=True,
        capture_output=True,
    )
    folder = tmp_path / "mmlearnconv" / ".mim"
    for path in yaml.safe_load((folder / "model-index.yml").read_text())["Import"]:
        listed = yaml.safe_load((folder / path).read_text())
        assert all((folder / c["README"]).is_file() for c in listed["Collections"])
        for model in listed["Models"]:
            assert (folder / model["Config"]).is_file()
    assert (folder / "tools" / "train.py").is_file()
