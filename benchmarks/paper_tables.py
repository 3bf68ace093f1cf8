"""Print the papers' tables, our parameters and multiply-adds beside the published ones.

python benchmarks/paper_tables.py [--output docs/paper_tables.md]
"""

import argparse
from pathlib import Path

from mmengine.logging import MMLogger
from papers.table import page, rows

from mmlearnconv.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write this file instead of printing")
    args = parser.parse_args()
    # Hide the log lines about the swaps of a hundred networks.
    MMLogger.get_instance("mmlearnconv", log_level="ERROR")
    text = page(rows(Path(__file__).parents[1]))
    if args.output is None:
        print(text, end="")
        return
    with atomic_write(args.output) as path:
        path.write_text(text)


if __name__ == "__main__":
    main()
