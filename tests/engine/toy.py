"""A small model and data for training runs of the command lines, in double precision."""

import os
import signal

import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import Tensor
from torch.utils.data import Dataset


@DATASETS.register_module()
class ToyImages(Dataset):
    """Twelve fixed images, with an augmentation's noise if asked for."""

    makes_its_data = True

    def __init__(self, noise: bool = False) -> None:
        self.noise = noise
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(12, 3, 32, 32, generator=generator, dtype=torch.double)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.images[index]
        return dict(inputs=image + 0.1 * torch.randn_like(image) if self.noise else image)


@MODELS.register_module()
class ToyModel(BaseModel):
    """Backbones side by side, each with a plain loss: the mean square of its maps."""

    def __init__(self, backbones: dict[str, dict], dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbones = torch.nn.ModuleDict(
            {name: MODELS.build(backbone) for name, backbone in backbones.items()}
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.double()
        self.steps = 0

    def forward(self, inputs: Tensor, mode: str = "tensor") -> dict[str, Tensor] | Tensor:
        if os.environ.get("TOY_KILL_AT") == str(self.steps):
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        maps = {name: net(self.dropout(inputs)) for name, net in self.backbones.items()}
        if mode != "loss":
            return maps
        return {
            f"loss_{name}": torch.stack([x.square().mean() for x in outputs]).sum()
            for name, outputs in maps.items()
        }
