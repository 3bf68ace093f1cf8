#!/usr/bin/env bash
# OpenCV reads a TIFF of two or four grey bands as one: the first, a mix of three, or half its bits.
#
# Seen 2026-11-30 with opencv-python-headless 4.12.0.88, flag IMREAD_UNCHANGED, on files of tifffile
# 2025.5.10 (photometric minisblack, interleaved, all other bands extra samples), as satellite images
# have. No error, no warning. Of 8 bits the first band is left; of four bands of 16 bits, the mix
# 0.299, 0.587, 0.114 of the first three, as if they were red, green and blue; of two bands of 16 bits,
# the upper 8 bits of the first. Five bands are refused with a message on the terminal and None.
# tifffile reads all of them as they are.
set -euo pipefail
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
"${PYTHON:-python3}" -m venv "$FOLDER/venv"
"$FOLDER/venv/bin/pip" install -q numpy==2.2.6 opencv-python-headless==4.12.0.88 tifffile==2025.5.10
cat > "$FOLDER/read.py" <<'PROGRAM'
import sys

import cv2
import numpy as np
import tifffile

path = sys.argv[1] + "/bands.tif"
for dtype in (np.uint8, np.uint16):
    for bands in (2, 4, 5):
        largest = np.iinfo(dtype).max
        image = np.random.default_rng(0).integers(0, largest, (6, 7, bands)).astype(dtype)
        extra = ["unspecified"] * (bands - 1)
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", extrasamples=extra)
        assert np.array_equal(tifffile.imread(path), image)
        read = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        text = "nothing"
        if read is not None:
            meanings = {
                "the first band": image[..., 0],
                "its upper bits": image[..., 0].astype(int) // 256,
                "a mix of three": image[..., :3] @ [0.299, 0.587, 0.114] if bands > 2 else -9,
            }
            text = f"{read.shape} {read.dtype}, "
            text += " or ".join(m for m, v in meanings.items() if np.abs(read - 1.0 * v).max() < 16)
        print(f"{image.shape} {image.dtype}: {text}")
PROGRAM
OPENCV_LOG_LEVEL=SILENT "$FOLDER/venv/bin/python" "$FOLDER/read.py" "$FOLDER" | tee "$FOLDER/seen"
diff "$FOLDER/seen" - <<'EXPECTED'
(6, 7, 2) uint8: (6, 7) uint8, the first band
(6, 7, 4) uint8: (6, 7) uint8, the first band
(6, 7, 5) uint8: nothing
(6, 7, 2) uint16: (6, 7) uint8, its upper bits
(6, 7, 4) uint16: (6, 7) uint16, a mix of three
(6, 7, 5) uint16: nothing
EXPECTED
