"""Images that a command line names, and their annotated objects."""

import json

import cv2
import numpy as np
import pytest

from mmlearnconv.cli import distinct, find_boxes, find_images
from mmlearnconv.datasets import InputPipeline

LOAD = InputPipeline(None).load


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    return path


def annotations(path, *names):
    images = [dict(id=i, file_name=n, width=40, height=40) for i, n in enumerate(names)]
    boxes = [
        dict(id=i, image_id=i, category_id=1, bbox=[4 * i, 0, 8, 8]) for i in range(len(names))
    ]
    known = dict(images=images, annotations=boxes, categories=[dict(id=1, name="x")])
    path.write_text(json.dumps(known))
    return str(path)


def test_what_the_loader_reads_is_found_and_the_rest_is_counted(tmp_path, capsys):
    wanted = [write(tmp_path / name) for name in ("a.png", "b.tiff", "sub/c.ppm")]
    # By its name it is an image: whoever loads it has to say that it is damaged.
    damaged = tmp_path / "d.jpg"
    for path in (damaged, tmp_path / "notes.txt", tmp_path / "sub" / "labels.json"):
        path.write_text("<html>")
    assert find_images("--image", [str(tmp_path)], LOAD) == sorted([*wanted, damaged])
    said = capsys.readouterr().err
    assert said == "--image: 2 files are no images to this model: notes.txt, labels.json\n"
    assert find_images("--image", [str(tmp_path)], LOAD, most=1) == wanted[:1]


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no file that is read as an image; found notes\.txt"):
        find_images("--image", [str(tmp_path)], LOAD)


def test_images_of_one_name_in_several_folders(tmp_path):
    names = [f"cam{i}/0001.png" for i in range(3)]
    files = [write(tmp_path / name) for name in names]
    found = find_boxes("--ann-file", annotations(tmp_path / "a.json", *names), files)
    assert [(box.image, box.centre) for box in found] == [
        (file, (0.1, (4 * i + 4) / 40)) for i, file in enumerate(files)
    ]


def test_annotations_of_another_folder_are_found_by_name(tmp_path):
    file = write(tmp_path / "here" / "0001.png")
    path = annotations(tmp_path / "a.json", "there/0001.png", "there/0002.png")
    assert [box.image for box in find_boxes("--ann-file", path, [file])] == [file]
    path = annotations(tmp_path / "a.json", "there/0001.png", "elsewhere/0001.png")
    with pytest.raises(ValueError, match="has no box on any of 1 images"):
        find_boxes("--ann-file", path, [file])


def test_names_are_told_apart():
    assert list(distinct(["a", "b", "a", "a"])) == ["a", "b", "a_2", "a_3"]
    assert list(distinct(["a", "a", "a_2"])) == ["a", "a_2", "a_2_2"]
