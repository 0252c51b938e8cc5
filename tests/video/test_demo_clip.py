"""The demo's clips: what one frame can tell (nothing), what time reversal does, and that the files are H.264."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from revit.video.demo import MOTIONS, SIZE, Clip, Difficulty, MotionOptions, draw_clip, phases, render, write_clip

OPTIONS = MotionOptions(frames=7, motions=tuple(MOTIONS))
NAMES = list(MOTIONS)


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return load_digits().images[3] / 16.0


def twins(seed: int) -> list[Clip]:
    """One clip of every class, drawn from equal generators."""
    return [draw_clip(name, OPTIONS, np.random.default_rng(seed)) for name in NAMES]


@pytest.mark.parametrize("seed", range(3))
def test_the_middle_frame_is_the_same_for_every_class(seed, digit):
    clips = [render(clip, digit, OPTIONS) for clip in twins(seed)]
    for other in clips[1:]:
        assert np.array_equal(clips[0][OPTIONS.frames // 2], other[OPTIONS.frames // 2])
        assert not np.array_equal(clips[0][-1], other[-1])


@pytest.mark.parametrize("seed", range(5))
def test_growing_and_shrinking_go_through_the_same_sizes(seed):
    clips = {clip.motion: clip for clip in twins(seed)}
    grow, shrink, rest = (phases(clips[name], 9)[:, SIZE] for name in ("grow", "shrink", "left"))
    assert np.allclose(grow, shrink[::-1])
    assert np.allclose(rest, 0)
    assert np.exp(grow[-1] - grow[0]) == pytest.approx(np.exp(clips["grow"].extent[SIZE]))


@pytest.mark.parametrize("seed", range(20))
def test_a_moving_digit_keeps_to_the_frame(seed):
    for clip in twins(seed):
        places = phases(clip, OPTIONS.frames)[:, :SIZE]
        margin = OPTIONS.border * clip.digit_pixels / OPTIONS.frame_pixels
        assert places.min() >= margin - 1e-9
        assert places.max() <= 1 - margin + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_backwards_is_the_opposite_class(seed, digit):
    for name, clip in zip(NAMES, twins(seed)):
        axis, direction = MOTIONS[name]
        opposite = next(other for other in NAMES if MOTIONS[other] == (axis, -direction))
        back = replace(clip, motion=opposite)
        difference = render(clip, digit, OPTIONS)[::-1].astype(int) - render(back, digit, OPTIONS)
        assert np.abs(difference).max() <= 1  # rounding of a phase may move one grey level


def test_middle_frames_do_not_tell_the_class():
    """A classifier of frame statistics, fitted on the middle frames of 480 clips, is at chance on 480 others."""
    from sklearn.ensemble import RandomForestClassifier

    digits = load_digits().images / 16.0
    features, labels = [], []
    for index in range(960):
        rng = np.random.default_rng([5, index])
        name = NAMES[index % 8]
        short = MotionOptions(frames=3)
        frame = render(draw_clip(name, short, rng), digits[rng.integers(len(digits))], short)[1].mean(-1)
        cells = frame.reshape(8, 6, 8, 6).mean((1, 3))
        features.append([*cells.ravel(), *frame.std(0), *frame.std(1), frame.max(), frame.std()])
        labels.append(index % 8)
    forest = RandomForestClassifier(60, random_state=0).fit(features[:480], labels[:480])
    chance, deviation = 1 / 8, np.sqrt(1 / 8 * 7 / 8 / 480)
    assert forest.score(features[480:], labels[480:]) < chance + 4 * deviation


def test_hard_share_and_limits_are_kept():
    drawn = [draw_clip("right", MotionOptions(hard_share=0.3), np.random.default_rng(i)) for i in range(600)]
    assert np.mean([clip.hard for clip in drawn]) == pytest.approx(0.3, abs=0.08)
    for clip in drawn:
        limits = OPTIONS.hard if clip.hard else OPTIONS.easy
        assert limits.digit_pixels[0] <= clip.digit_pixels <= limits.digit_pixels[1]
        assert limits.travel[0] <= clip.extent[0] <= limits.travel[1]


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
        MotionOptions(motions=("left", "sideways"))
    far = OPTIONS.easy.model_copy(update={"travel": (0.5, 0.9)})
    with pytest.raises(ValidationError, match=r"easy\.travel: 0\.9 .* choose 0\.57 or less"):
        MotionOptions(easy=far)
    with pytest.raises(ValidationError, match="two or more different"):
        MotionOptions(motions=("left", "left"))
    with pytest.raises(ValidationError, match=r"lower limit 9.0 is above the upper limit 3.0"):
        Difficulty(digit_pixels=(9, 3), travel=(0.1, 0.2), growth=(0.1, 0.2), turn=(0.1, 0.2))
