"""Clip lists: which files a tree counts."""

from __future__ import annotations

import pytest

from revit.common.data.formats.base import ListRequest
from revit.common.system.errors import UserError
from revit.video.data.lists import read_clips


def test_a_tree_takes_every_kind_of_clip(tmp_path):
    for name in ("jump/a.webm", "jump/b.mp4", "run/c.MKV", "run/notes.txt", "run/d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    clips = read_clips(ListRequest(str(tmp_path)))
    assert clips.labels.tolist() == [0, 0, 1]
    assert clips.names == ("jump", "run")


def test_messages_speak_of_clips(tmp_path):
    with pytest.raises(UserError, match="one subfolder of clips per class"):
        read_clips(ListRequest(str(tmp_path)))
