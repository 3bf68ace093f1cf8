"""The model of a run."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """The detector or segmentor itself, without the wrapper of distributed training."""
    return model.module if is_model_wrapper(model) else model
