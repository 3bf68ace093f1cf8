"""Draw figure 2 of the DKE paper: the path of a position to its cell, Gaussian and bilinear."""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mmlearnconv.analysis import search_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="picture to write, .png or .svg")
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(5, 4))
    for interpolation, marker in (("gauss", "o"), ("bilinear", "x")):
        path = search_path(interpolation)
        axes.plot(path[:, 1], path[:, 0], marker=marker, markersize=3, label=interpolation)
    axes.plot(0, 0, "k*", markersize=12, label="optimum")
    axes.set(xlabel="column", ylabel="row", aspect="equal")
    axes.legend()
    figure.savefig(args.output, dpi=150, bbox_inches="tight")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
