"""The clips that reading is measured on: readers agree, shares are of the fastest."""

from __future__ import annotations

import numpy as np
import pytest
from loading import INDICES, bare_pyav, main, make_clip, seeking_pyav


def test_bare_readers_return_the_frames_of_a_file_with_near_key_frames(tmp_path):
    path = make_clip(tmp_path / "a.mp4", 0, 12, width=64, height=48)
    frames = bare_pyav(path)
    assert frames.shape == (len(INDICES), 48, 64, 3)
    assert np.array_equal(seeking_pyav(path), frames)


@pytest.mark.parametrize("arguments", [["mp4", "--runs", "0"], ["everything"]])
def test_mistakes_end_with_status_two(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
