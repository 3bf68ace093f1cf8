"""Arguments that the command lines share."""

import argparse

from mmengine.config import DictAction


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the config and the options that all command lines share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and results")
    parser.add_argument(
        "--data-root", help="folder that holds the data, in place of the config's data_root"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help='override config values: key=value, key="[a,b]", key=a,b',
    )
    add_trust_option(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """The option that lifts :func:`enforce_weights_only`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that contain code, and run it: only from people you trust",
    )
