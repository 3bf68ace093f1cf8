"""Evaluate a checkpoint of a detector, a segmentor or a classifier."""

import argparse

from mmengine.config import Config

from mmlearnconv import cli
from mmlearnconv.engine import find_checkpoint


def parse_args() -> argparse.Namespace:
    parser = cli.argument_parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", help="write the predictions to this .pkl file")
    parser.add_argument("--show-dir", help="draw the predictions into this folder")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: as the config's tta_model and tta_pipeline say, else an "
        "image and its mirror image",
    )
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Config:
    find_checkpoint(args.checkpoint)
    cfg = cli.load_config(args)
    cli.check_data(cfg, "test")
    cli.check_annotations(cfg, "test")
    cfg.load_from = args.checkpoint
    if args.tta:
        cli.use_tta(cfg)
    if args.show_dir:
        cli.draw_predictions(cfg, args.show_dir)
    if args.out:
        cli.dump_predictions(cfg, args.out)
    return cfg


@cli.one_sentence
def main() -> None:
    args = parse_args()
    cfg = prepare(args)
    cli.run(cfg, "test")


if __name__ == "__main__":
    main()
