"""Arguments that the command lines share."""

import argparse
from typing import Any

from mmengine.config import DictAction


class _ConfigOptions(DictAction):
    """mmengine's, which takes the spaces out of a path and fails without naming the option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for option in values:
            if not option.partition("=")[1]:
                parser.error(f"--cfg-options {option}: must be key=value")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(f"--cfg-options: {error}")
        options = getattr(namespace, self.dest)
        for key, _, text in (option.partition("=") for option in values):
            text = text.strip("'\"")
            if " " in text and "," not in text and text[0] not in "([":
                options[key] = text


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the config and the options that all command lines share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and results")
    parser.add_argument(
        "--data-root", help="folder that holds the data, in place of the config's data_root"
    )
    add_cfg_options(parser)
    add_trust_option(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """The option that overrides values of a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_ConfigOptions,
        metavar="KEY=VALUE",
        help='override config values: key=value, key="[a,b]", key=a,b',
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """The option that lifts :func:`enforce_weights_only`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that contain code, and run it: only from people you trust",
    )
