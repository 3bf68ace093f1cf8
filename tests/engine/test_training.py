"""Training runs by the command lines: distributed, killed and resumed, on two hosts."""

import os
import shutil
import signal
import subprocess
import sys
import uuid

import pytest
import torch

from mmlearnconv.catalog import operator_names
from tests.conftest import ROOT
from tests.tools.test_command_lines import run

pytestmark = pytest.mark.slow

RESNET = dict(
    type="mmdet.ResNet",
    depth=18,
    base_channels=8,
    norm_eval=True,
    frozen_stages=-1,
    norm_cfg=dict(type="BN", requires_grad=False),
    init_cfg=None,
)
SHARED = dict(
    type="ConvNeXt",
    arch=dict(depths=(2, 2), channels=(8, 16)),
    out_indices=(0, 1),
    conv_cfg=dict(type="DCLS"),
    layer_scale_init_value=1.0,
)
# Batch norms, such as Involution's, differ by rank.
OPERATORS = operator_names(baselines=False)
BACKBONES = {op: RESNET | dict(conv_cfg=dict(type=op)) for op in OPERATORS}
BACKBONES["shared"] = SHARED
CONFIG = """
custom_imports = dict(imports=["mmlearnconv", "mmdet.models", "tests.engine.toy"])
default_scope = "mmengine"
model = dict(type="ToyModel", dropout={dropout}, backbones={backbones})
train_dataloader = dict(
    dataset=dict(type="ToyImages", noise={noise}),
    sampler=dict(type="DefaultSampler", shuffle={noise}),
    collate_fn=dict(type="default_collate"),
    batch_size={batch_size},
    num_workers={workers},
)
train_cfg = dict(by_epoch=True, max_epochs={epochs})
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max={epochs}, by_epoch=True, convert_to_iter_based=True)
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=1),
)
custom_hooks = [{hooks}]
randomness = dict(seed=3)
"""


def write_config(folder, batch_size, epochs, noise=False, dropout=0.0, workers=0, hooks=""):
    path = folder / f"batches_of_{batch_size}.py"
    path.write_text(
        CONFIG.format(
            backbones=BACKBONES,
            batch_size=batch_size,
            epochs=epochs,
            noise=noise,
            dropout=dropout,
            workers=workers,
            hooks=hooks,
        )
    )
    return path


def train(config, work_dir, *options, **environment):
    return run("tools/train.py", config, "--work-dir", work_dir, *options, **environment)


def weights(work_dir, epoch):
    return torch.load(work_dir / f"epoch_{epoch}.pth", weights_only=False)


def free_port():
    return str(20000 + uuid.uuid4().int % 20000)


def test_two_processes_train_as_one_does(tmp_path):
    """Batches of one on two ranks, of two on one: six steps in double precision."""
    one = write_config(tmp_path, 2, 1)
    two = write_config(tmp_path, 1, 1)
    train(one, tmp_path / "one")
    run(
        *("bash", "tools/dist_train.sh", two, 2, "--work-dir", tmp_path / "two"),
        PORT=free_port(),
        OMP_NUM_THREADS="1",
    )
    expected, found = (weights(tmp_path / name, 1)["state_dict"] for name in ("one", "two"))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(workers, tmp_path):
    """Positions, moments of the optimizer, schedules, averages, dropout and noise included."""
    hooks = "dict(type='ReseedHook'), dict(type='EMAHook', momentum=0.01, update_buffers=True)"
    config = write_config(tmp_path, 4, 3, noise=True, dropout=0.1, workers=workers, hooks=hooks)
    train(config, tmp_path / "whole")
    # Three steps per epoch: killed in the middle of the second.
    train(config, tmp_path / "parts", expect=-signal.SIGKILL, TOY_KILL_AT="4")
    assert not (tmp_path / "parts/epoch_2.pth").exists()
    output = train(config, tmp_path / "parts", "--resume")
    assert "resumed epoch: 1, iter: 3" in output
    whole, parts = (weights(tmp_path / name, 3) for name in ("whole", "parts"))
    for part in ("state_dict", "ema_state_dict"):
        assert whole[part].keys() == parts[part].keys()
        for key, value in whole[part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(parts[part][key])), key
    assert whole["param_schedulers"] == parts["param_schedulers"]


@pytest.fixture
def hosts():
    """Command prefixes of two hosts, the first one's address, and their network devices."""
    names = [f"mmlc{uuid.uuid4().hex[:6]}{i}" for i in "ab"]
    commands = [
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1]],
        *(["ip", "link", "set", name, "netns", name] for name in names),
        *(
            ["ip", "-n", name, "addr", "add", f"10.199.7.{i}/24", "dev", name]
            for i, name in enumerate(names, 1)
        ),
        *(["ip", "-n", n, "link", "set", d, "up"] for n in names for d in ("lo", n)),
        *(["ip", "netns", "exec", name, "true"] for name in names),
    ]
    if shutil.which("ip") is None:
        commands = [["false"]]
    made = all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)
    if made:
        yield [["ip", "netns", "exec", name] for name in names], "10.199.7.1", names
    else:
        # Two nodes on one host.
        yield [[], []], "127.0.0.1", ["lo", "lo"]
    if shutil.which("ip") is not None:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_hosts_by_the_documented_command(hosts, tmp_path):
    prefixes, master, devices = hosts
    one = write_config(tmp_path, 2, 1)
    two = write_config(tmp_path, 1, 1)
    train(one, tmp_path / "one")
    port = free_port()
    processes = []
    for rank, (prefix, device) in enumerate(zip(prefixes, devices, strict=True)):
        work_dir = tmp_path / f"host{rank}"
        environment = os.environ | dict(
            PYTHONPATH=str(ROOT),
            PYTHON=sys.executable,
            OMP_NUM_THREADS="1",
            NNODES="2",
            NODE_RANK=str(rank),
            MASTER_ADDR=master,
            PORT=port,
            GLOO_SOCKET_IFNAME=device,
        )
        command = ["bash", "tools/dist_train.sh", str(two), "1", "--work-dir", str(work_dir)]
        processes.append(
            subprocess.Popen(
                [*prefix, *command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs[0][-3000:]
    expected, found = (weights(tmp_path / n, 1)["state_dict"] for n in ("one", "host0"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)
