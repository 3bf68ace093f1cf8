#!/usr/bin/env bash
# A COCO annotation whose id is 0 is never found: AP of perfect predictions falls from 1.0 to 0.442.
#
# Seen 2026-11-30 with pycocotools 2.0.11 and faster-coco-eval 1.8.0, which both store the id of the
# matched annotation in an array of zeros, so that a match with id 0 is none. pycocotools says nothing;
# faster-coco-eval warns, with the same figures. Files numbered from 0 are valid to both, and to mmdet,
# which trains on them. Of three objects found exactly, recall is 2 / 3.
set -euo pipefail
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
"${PYTHON:-python3}" -m venv "$FOLDER/venv"
"$FOLDER/venv/bin/pip" install -q numpy==2.2.6 pycocotools==2.0.11 faster-coco-eval==1.8.0
cat > "$FOLDER/evaluate.py" <<'PROGRAM'
import contextlib
import io
import warnings

import faster_coco_eval
import pycocotools.coco
import pycocotools.cocoeval

BOXES = [[30 * i, 10, 20, 20] for i in range(3)]
PEERS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}


def figures(coco, evaluation, first):
    truth = [
        dict(id=i, image_id=1, category_id=1, bbox=box, area=400, iscrowd=0)
        for i, box in enumerate(BOXES, first)
    ]
    found = [
        dict(image_id=1, category_id=1, bbox=box, score=0.9 - 0.1 * i) for i, box in enumerate(BOXES)
    ]
    known = coco()
    known.dataset = dict(
        info={},
        images=[dict(id=1, width=100, height=100, file_name="a.jpg")],
        categories=[dict(id=1, name="thing")],
        annotations=truth,
    )
    known.createIndex()
    run = evaluation(known, known.loadRes(found), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return f"AP {run.stats[0]:.3f}, recall {run.stats[8]:.3f}"


warnings.simplefilter("ignore")
for name, peer in PEERS.items():
    for first in (1, 0):
        with contextlib.redirect_stdout(io.StringIO()):
            text = figures(*peer, first)
        print(f"{name}, ids from {first}: {text}")
PROGRAM
"$FOLDER/venv/bin/python" "$FOLDER/evaluate.py" | tee "$FOLDER/seen"
diff "$FOLDER/seen" - <<'EXPECTED'
pycocotools, ids from 1: AP 1.000, recall 1.000
pycocotools, ids from 0: AP 0.442, recall 0.667
faster-coco-eval, ids from 1: AP 1.000, recall 1.000
faster-coco-eval, ids from 0: AP 0.442, recall 0.667
EXPECTED
