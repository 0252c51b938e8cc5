"""The demo's clips: what one frame can tell (nothing), what time reversal does, and that the files are H.264."""

from __future__ import annotations

import av
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from revit.video.demo_clip import (
    MOTIONS,
    Clip,
    ClipOptions,
    Difficulty,
    draw_clip,
    phases,
    render,
    write_clip,
)

OPTIONS = ClipOptions(frames=6)
NAMES = list(MOTIONS)


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return load_digits().images[3] / 16.0


def twins(seed: int) -> list[Clip]:
    """One clip of every class, drawn from equal generators."""
    return [draw_clip(name, OPTIONS, np.random.default_rng(seed)) for name in NAMES]


@pytest.mark.parametrize("seed", range(3))
def test_the_first_frame_is_the_same_for_every_class(seed, digit):
    clips = [render(clip, digit, OPTIONS) for clip in twins(seed)]
    for other in clips[1:]:
        assert np.array_equal(clips[0][0], other[0])
        assert not np.array_equal(clips[0][-1], other[-1])


@pytest.mark.parametrize("name", NAMES)
def test_no_frame_favours_a_state_more_than_the_first_does(name):
    """Moving along one axis maps an even lattice of first phases onto a shifted even lattice: what is uniform at the
    first frame is uniform at all."""
    lattice = np.arange(10) / 10
    starts = [tuple(np.full(4, phase)) for phase in lattice]
    tables = [phases(Clip(name, True, 8.0, 0.37, start, 0), 5) for start in starts]
    for t in range(5):
        for axis in range(4):
            seen = np.sort([table[t, axis] for table in tables])
            assert np.allclose(np.diff(seen), 0.1)


@pytest.mark.parametrize("seed", range(4))
def test_backwards_is_the_opposite_class(seed, digit):
    for name, clip in zip(NAMES, twins(seed)):
        axis, direction = MOTIONS[name]
        opposite = next(other for other in NAMES if MOTIONS[other] == (axis, -direction))
        end = tuple(phases(clip, OPTIONS.frames)[-1])
        back = Clip(opposite, clip.hard, clip.digit_pixels, clip.amount, end, clip.background_seed)
        difference = render(clip, digit, OPTIONS)[::-1].astype(int) - render(back, digit, OPTIONS)
        assert np.abs(difference).max() <= 1  # rounding of a phase may move one grey level


def test_single_frames_do_not_tell_the_class():
    """A classifier of frame statistics, fitted on the middle frames of 480 clips, is at chance on 480 others."""
    from sklearn.ensemble import RandomForestClassifier

    digits = load_digits().images / 16.0
    features, labels = [], []
    for index in range(960):
        rng = np.random.default_rng([5, index])
        name = NAMES[index % 8]
        short = ClipOptions(frames=3)
        frame = render(draw_clip(name, short, rng), digits[rng.integers(len(digits))], short)[1].mean(-1)
        cells = frame.reshape(6, 8, 6, 8).mean((1, 3))
        features.append([*cells.ravel(), *frame.std(0), *frame.std(1), frame.max(), frame.std()])
        labels.append(index % 8)
    forest = RandomForestClassifier(60, random_state=0).fit(features[:480], labels[:480])
    chance, deviation = 1 / 8, np.sqrt(1 / 8 * 7 / 8 / 480)
    assert forest.score(features[480:], labels[480:]) < chance + 4 * deviation


def test_hard_share_and_limits_are_kept():
    drawn = [draw_clip("right", ClipOptions(hard_share=0.3), np.random.default_rng(i)) for i in range(600)]
    assert np.mean([clip.hard for clip in drawn]) == pytest.approx(0.3, abs=0.08)
    for clip in drawn:
        limits = OPTIONS.hard if clip.hard else OPTIONS.easy
        assert limits.digit_pixels[0] <= clip.digit_pixels <= limits.digit_pixels[1]
        assert limits.travel[0] <= clip.amount <= limits.travel[1]


def test_file_is_h264_and_shows_what_was_drawn(tmp_path, digit):
    frames = render(twins(1)[0], digit, OPTIONS)
    write_clip(frames, tmp_path / "a.mp4", OPTIONS)
    write_clip(frames, tmp_path / "b.mp4", OPTIONS)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == OPTIONS.frames_per_second
        seen = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert seen.shape == frames.shape
    assert np.abs(seen.astype(int) - frames).mean() < 8


def test_wrong_options_say_what_is_allowed():
    with pytest.raises(ValidationError, match="sideways"):
        ClipOptions(motions=("left", "sideways"))
    with pytest.raises(ValidationError, match="two or more different"):
        ClipOptions(motions=("left", "left"))
    with pytest.raises(ValidationError, match=r"lower limit 9.0 is above the upper limit 3.0"):
        Difficulty(digit_pixels=(9, 3), travel=(0.1, 0.2), growth=(0.1, 0.2), turn=(0.1, 0.2))
