"""Two processes train every form of the catalogue as one does: DDP and FSDP2."""

import copy
import functools

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from mmlearnconv.layers import LearnableConv
from mmlearnconv.layers.base import CONVOLUTIONS
from tests.layers.contract import ALL_LAYERS, random_map

RANKS = 2
# Only one axis of the sharded positions has the window's other side.
FORMS = {
    **{key: (layer, options) for key, (_, layer, options) in ALL_LAYERS.items()},
    "DCLS-oblong": (ALL_LAYERS["DCLS"][1], dict(dilated_kernel_size=(3, 9))),
}
STEPS = 3


def in_parallel(model, how):
    """A copy of a model, in the given form of data parallelism."""
    model = copy.deepcopy(model)
    if how == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(model, images):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]


def model_of(layer, options, groups):
    torch.manual_seed(0)
    conv = layer(4, 4, 3, padding=1, groups=groups, **options)
    model = nn.Sequential(conv, CONVOLUTIONS[layer.spatial_dims](4, 3, 1)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if "positions" in name:
                # So that the bounds are met.
                parameter.mul_(8)
                parameter.sub_(0.1)
    assert isinstance(conv, LearnableConv)
    conv.clamp_parameters()
    return model


def compare(rank, rendezvous, how):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS
    )
    for key, (layer, options) in FORMS.items():
        for groups in (1, 4):
            model = model_of(layer, options, groups)
            images = random_map(layer, 2 * RANKS).double()
            found = train(in_parallel(model, how), images.chunk(RANKS)[rank])
            for ours, expected in zip(found, train(model, images), strict=True):
                torch.testing.assert_close(
                    ours, expected, msg=functools.partial("{}, groups {}: {}".format, key, groups)
                )
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "ddp",
        pytest.param(
            "fsdp2",
            marks=pytest.mark.skipif(
                not hasattr(torch.cpu.Stream, "record_event"),
                reason="this PyTorch has no FSDP2 on the CPU",
            ),
        ),
    ],
)
def test_two_processes_train_as_one(how, tmp_path):
    spawn(compare, (tmp_path / "rendezvous", how), nprocs=RANKS)
