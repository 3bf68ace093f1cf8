"""Parameters and multiply-adds of a config's model, the operators' own work listed separately.

python tools/get_flops.py CONFIG [--shape HEIGHT WIDTH] [--cfg-options KEY=VALUE ...]
"""

import argparse

from mmengine.registry import MODELS, init_default_scope

from mmlearnconv import cli
from mmlearnconv.analysis import count_complexity
from mmlearnconv.analysis.complexity import PUBLISHED_SIZES


@cli.one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the image; by default that of published figures: detectors 800 1280, "
        "segmentors 512 2048, classifiers 224 224",
    )
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    cfg = cli.read_config(args.config, args.cfg_options)
    scope = cfg.get("default_scope", "mmdet")
    init_default_scope(scope)
    cli.forget_checkpoints(cfg.model)
    size = tuple(args.shape or PUBLISHED_SIZES.get(scope, PUBLISHED_SIZES["mmdet"]))
    counts = count_complexity(MODELS.build(cfg.model), size)
    print(f"one image of {size[0]} x {size[1]}; a multiply-add is one operation")
    print(f"{'parameters':24}{counts.parameters / 1e6:12.3f} M")
    print(f"{'multiply-adds':24}{counts.macs / 1e9:12.3f} G")
    for name, count in counts.parts.items():
        print(f"  {name:22}{count / 1e9:12.3f} G")
    print(f"{'norms, ReLUs, pooling':24}{counts.elementwise / 1e9:12.3f} G, not in the sum")
    published = counts.macs + counts.elementwise
    print(f"{'as detectors publish':24}{published / 1e9:12.3f} G, the sum of both")


if __name__ == "__main__":
    main()
