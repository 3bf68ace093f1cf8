"""Translate a ConvNeXt checkpoint of DCLS's or ConvNeXt's authors to our names.

python tools/convert_checkpoint.py SOURCE TARGET [--version v0]

Classification, COCO and ADE20K files, plain and DCLS. Our ConvNeXt also loads such files as they
are; a translated one suits every tool that expects OpenMMLab's layout: `backbone.*`, and
`head.fc.*` of a classifier.
"""

import argparse
from pathlib import Path

import torch

from mmlearnconv import cli, engine
from mmlearnconv.errors import UserError, UserValueError
from mmlearnconv.files import atomic_write
from mmlearnconv.models.convnext import convert_state_dict

VERSIONS = ("v0", "v1", "max", "gauss")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="checkpoint file of the authors")
    parser.add_argument("target", help="checkpoint file to write")
    parser.add_argument(
        "--version",
        choices=VERSIONS,
        help="version of DCLS that the model was built with, which decides the order of its axes; "
        "default: v0, or gauss where the file has widths (SIG)",
    )
    cli.add_trust_option(parser)
    return parser.parse_args()


@cli.one_sentence
def main() -> None:
    args = parse_args()
    checkpoint = engine.load_checkpoint(args.source, trust=args.trust_checkpoint)
    weights = checkpoint.get("state_dict", checkpoint)
    try:
        state_dict, notes = convert_state_dict(weights, args.version)
    except UserError as error:
        raise UserValueError(f"{args.source}: {error}") from error
    with atomic_write(Path(args.target)) as path:
        torch.save(dict(meta={}, state_dict=state_dict), path)
    print(f"{notes}\nwritten: {args.target}")


if __name__ == "__main__":
    main()
