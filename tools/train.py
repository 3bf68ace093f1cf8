"""Train a detector, a segmentor or a classifier from its config."""

import argparse

from mmengine.config import Config

from mmlearnconv import cli


def parse_args() -> argparse.Namespace:
    parser = cli.argument_parser(__doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="continue from this checkpoint, or from the newest in the work folder",
    )
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the real batch size over auto_scale_lr.base_batch_size",
    )
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Config:
    cfg = cli.load_config(args)
    cli.check_data(cfg, "train", "val")
    cli.check_annotations(cfg, "train", "val")
    if args.amp:
        cli.use_amp(cfg)
    if args.auto_scale_lr:
        cli.use_auto_scale_lr(cfg)
    if args.resume:
        cli.use_resume(cfg, args.resume)
    return cfg


@cli.one_sentence
def main() -> None:
    args = parse_args()
    cfg = prepare(args)
    cli.run(cfg, "train")


if __name__ == "__main__":
    main()
