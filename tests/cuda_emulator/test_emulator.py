"""The emulator notices the faults that are planted in small kernels, and no others."""

import os
import subprocess

import pytest

from tests.cuda_emulator import FOLDER, ORDERS, SANITIZERS

# Sums over i of what the 64 threads wrote, and of i times that.
SOUND = {
    "synchronised": (64 * 65 / 2, sum(i * (64 - i) for i in range(64))),
    "atomic": (sum(range(64)), 0),
    "warp": (32 * (sum(range(32)) + sum(range(32, 64))), 496 * 496 + 1520 * 1520),
    "inside shared": (1, 0),
    "inside global": (64, sum(range(64))),
    "aligned": (1 + 2 + 3 + 4, 4 * 1 + 5 * 2 + 6 * 3 + 7 * 4),
    "one barrier": (64, sum(range(64))),
    "awaited copy": (sum(range(64)), sum(i * (63 - i) for i in range(64))),
}
ENDS = {
    "outside shared": "heap-buffer-overflow",
    "outside global": "heap-buffer-overflow",
    "misaligned": "misaligned address",
    "two barriers": "of the same block",
    "ended lanes": "which has ended",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    program = tmp_path_factory.mktemp("emulator") / "planted"
    command = ["g++", "-std=c++20", "-O1", *SANITIZERS, FOLDER / "planted.cpp", "-o", program]
    subprocess.run(command, check=True, capture_output=True)

    def run(name, order):
        environment = os.environ | dict(MMLEARNCONV_EMULATOR_ORDER=order)
        return subprocess.run([program, name], env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SOUND)
def test_sound_kernels_give_the_same_in_every_order(planted, name, order):
    assert tuple(map(float, planted(name, order).stdout.split())) == SOUND[name]


def test_a_race_gives_another_result_in_another_order(planted):
    assert len({planted("race", order).stdout for order in ORDERS}) == len(ORDERS)


@pytest.mark.parametrize("name", ["unsynchronised", "copy not awaited", "not written"])
@pytest.mark.parametrize("order", ORDERS)
def test_what_was_not_written_yet_is_not_a_number(planted, name, order):
    assert "nan" in planted(name, order).stdout


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_what_a_gpu_leaves_undefined_ends_the_process(planted, name, order):
    run = planted(name, order)
    assert run.returncode != 0
    assert ENDS[name] in run.stderr
