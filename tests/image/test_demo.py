"""The demo's pictures: lists and files, what is drawn, and that difficulty tells nothing of the digit."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from revit.common.data.made_data import SPLITS
from revit.image.demo import DIGITS, ImageDemoOptions, Picture, draw_picture, make_digit_pictures, render

SMALL = ImageDemoOptions(train_pictures=60, val_pictures=20, test_pictures=20, num_workers=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_digit_pictures(SMALL, tmp_path_factory.mktemp("demo") / "pictures")


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def drawn(number, options):
    return [draw_picture(options, np.random.default_rng([7, index])) for index in range(number)]


def test_lists_name_png_files_in_the_folder_of_their_digit(made):
    assert made.classes.read_text().split() == list(DIGITS)
    for split, total in zip(SPLITS, (60, 20, 20)):
        lines = (made.root / f"{split}.csv").read_text().splitlines()
        assert len(lines) == total
        for line in lines:
            path, label = line.rsplit(" ", 1)
            assert path.split("/")[:2] == [split, label]
            with Image.open(made.root / path) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (48, 48))


def test_metadata_tells_the_truth_and_no_handwritten_digit_is_in_two_splits(made):
    targets = load_digits().target
    with made.metadata.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert all(targets[int(row["digit"])] == int(row["label"]) for row in rows)
    used = [{row["digit"] for row in rows if row["split"] == split} for split in SPLITS]
    assert not (used[0] & used[1])
    assert not (used[0] & used[2])
    assert not (used[1] & used[2])


def test_equal_options_give_equal_files(made, tmp_path):
    assert files(make_digit_pictures(SMALL, tmp_path / "again").root) == files(made.root)
    other = files(make_digit_pictures(SMALL.model_copy(update={"seed": 1}), tmp_path / "other").root)
    assert not any(other.get(path) == pixels for path, pixels in files(made.root).items() if path.suffix == ".png")


def test_limits_are_kept_and_digits_lie_inside():
    options = ImageDemoOptions(hard_share=0.3, turns=0.1)
    pictures = drawn(600, options)
    assert np.mean([picture.hard for picture in pictures]) == pytest.approx(0.3, abs=0.08)
    for picture in pictures:
        low, high = options.hard_pixels if picture.hard else options.easy_pixels
        assert low <= picture.digit_pixels <= high
        assert abs(picture.turns) <= 0.1
        half = picture.digit_pixels / (2 * options.picture_pixels)
        assert half - 1e-9 <= min(picture.across, picture.down)
        assert max(picture.across, picture.down) <= 1 - half + 1e-9
    for picture in drawn(20, ImageDemoOptions(spread=0)):
        assert (picture.across, picture.down) == (0.5, 0.5)


def test_what_is_drawn_does_not_depend_on_the_digit():
    """A picture is drawn before its digit is chosen; only the digit's own place changes between two digits."""
    options = ImageDemoOptions(easy_pixels=(20, 20), hard_share=0)
    picture = Picture(False, 20.0, 0.0, 0.3, 0.6, background_seed=4)
    digits = load_digits().images / 16.0
    one, two = (render(picture, digits[index], options).astype(int) for index in (0, 1))
    y, x = np.nonzero(np.abs(one - two).sum(-1))
    reach = 20 / 2 + 1  # and the soft edge of a smoothed digit
    assert np.abs(y + 0.5 - 0.6 * 48).max() <= reach
    assert np.abs(x + 0.5 - 0.3 * 48).max() <= reach


def test_wrong_options_say_what_is_allowed():
    with pytest.raises(ValidationError, match=r"easy_pixels.*30.*20"):
        ImageDemoOptions(easy_pixels=(30, 20))
    with pytest.raises(ValidationError, match=r"hard_pixels.*60.*48"):
        ImageDemoOptions(hard_pixels=(9, 60))
