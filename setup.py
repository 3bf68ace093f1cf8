"""Installs mmlearnconv: ``pip install -e . --no-build-isolation``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'"(.+)"', (root / "mmlearnconv" / "version.py").read_text()).group(1)

# The two families of OpenMMLab packages share their import names: install one of them.
families = {
    "det": ["onedl-mmengine>=0.10.12", "onedl-mmcv>=2.3.6", "onedl-mmdetection>=3.5.1"],
    "seg": ["onedl-mmengine>=0.10.12", "onedl-mmcv>=2.3.6", "onedl-mmsegmentation>=1.4.2"],
    "openmmlab-det": ["mmengine>=0.10", "mmcv>=2.0", "mmdet>=3.0"],
    "openmmlab-seg": ["mmengine>=0.10", "mmcv>=2.0", "mmsegmentation>=1.0"],
}

setup(
    name="mmlearnconv",
    version=version,
    description="Convolutions that learn where to look, for OpenMMLab detection and segmentation",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mmlearnconv", "mmlearnconv.*"]),
    install_requires=["torch>=2.6", "numpy"],
    extras_require=families,
    zip_safe=False,
)
