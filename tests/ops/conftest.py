"""Where the tests of operations run, and by which path."""

import os

import pytest
import torch

from mmlearnconv.ops import has_extension, without_extension
from tests.ops.op_testing import DEVICE


@pytest.fixture(scope="session", autouse=True)
def _device():
    """``MMLEARNCONV_TEST_DEVICE=cuda`` runs them on the GPU.

    With ``MMLEARNCONV_TEST_DETERMINISTIC=1`` in PyTorch's deterministic mode, else with atomics.
    """
    if DEVICE == "cpu":
        yield
        return
    torch.set_default_device(DEVICE)
    torch.use_deterministic_algorithms(os.environ.get("MMLEARNCONV_TEST_DETERMINISTIC") == "1")
    yield
    torch.set_default_device("cpu")
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["compiled", "PyTorch"])
def path(request):
    """With the compiled operations, and as it is without them."""
    if request.param == "compiled":
        if not has_extension():
            pytest.skip("the compiled operations are not built")
        yield request.param
        return
    with without_extension():
        yield request.param
