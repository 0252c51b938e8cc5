"""Clip lists: which files a tree counts, and pytorchvideo's labelled paths."""

from __future__ import annotations

import pytest
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit.common.system.errors import UserError
from revit.video.data.lists import from_labeled_paths, read_clips


def test_a_tree_takes_every_kind_of_clip(tmp_path):
    for name in ("jump/a.webm", "jump/b.mp4", "run/c.MKV", "run/notes.txt", "run/d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    clips = read_clips(str(tmp_path))
    assert clips.labels.tolist() == [0, 0, 1]
    assert clips.names == ("jump", "run")


def test_messages_speak_of_clips(tmp_path):
    with pytest.raises(UserError, match="one subfolder of clips per class"):
        read_clips(str(tmp_path))


def test_labelled_paths_of_pytorchvideo_are_taken_over():
    clips = from_labeled_paths(LabeledVideoPaths([("a.mp4", 1), ("b.mp4", 0)]), ["x", "y"])
    assert [(clips.path(position), clips.label(position)) for position in (0, 1)] == [
        ("a.mp4", 1),
        ("b.mp4", 0),
    ]
    assert clips.names == ("x", "y")
