from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from revit.common.data.broken import BrokenSample
from revit.image.data.options import TokenLabelOptions
from revit.image.data.pictures import LabelMaps
from revit.image.tasks import densify, region_align


def a_map(classes: int = 6, k: int = 3, rows: int = 4, cols: int = 5) -> torch.Tensor:
    numbers = torch.rand(classes, rows, cols).argsort(dim=0)[:k]
    return torch.stack([torch.randn(k, rows, cols), numbers.float()]).half()


def save(folder: Path, content: object, name: str = "n01/n01_7.pt") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def maps_in(folder: Path, num_classes: int, kept: list[int] | None = None, **options: object) -> LabelMaps:
    return LabelMaps(TokenLabelOptions(folder=str(folder), **options), num_classes, kept)


@pytest.mark.parametrize("size", [{}, {"k": 5, "rows": 18, "cols": 18}, {"k": 1, "rows": 1, "cols": 1}])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"label_map": t, "epoch": 3}, lambda t: [t]])
def test_a_map_is_found_under_the_pictures_own_name(tmp_path, size, wrap):
    stored = a_map(**size)
    save(tmp_path, wrap(stored))
    maps = maps_in(tmp_path, 6)
    for name in ("n01/n01_7.JPEG", "n01\\n01_7.png", "/data/imagenet/train/n01/n01_7.JPEG"):
        assert torch.equal(maps.read(name), stored.float())


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    maps_in(tmp_path / "none", 6)


def test_a_class_subset_renumbers_and_leaves_the_rest_out(tmp_path):
    stored = a_map(classes=12, k=5)
    save(tmp_path, stored)
    kept = [7, 2, 5]
    subset = maps_in(tmp_path, 3, kept).read("n01/n01_7.JPEG")[None]
    everything = maps_in(tmp_path, 12).read("n01/n01_7.JPEG")[None]
    assert torch.equal(densify(subset, 3), densify(everything, 12)[:, kept])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(2, 5, 4), "no label map"),
        (torch.zeros(3, 5, 4, 4), "no label map"),
        (torch.zeros(2, 0, 4, 4), "no label map"),
        (torch.full((2, 1, 2, 2), float("nan")), "not finite"),
        (torch.full((2, 1, 2, 2), 0.5), "no class numbers"),
        (torch.full((2, 1, 2, 2), -1.0), "no class numbers"),
        (torch.full((2, 1, 2, 2), 6.0), "class 6; the model has 6 classes"),
        ({"a": torch.zeros(2, 1, 2, 2), "b": torch.zeros(2, 1, 2, 2)}, "2 tensors"),
        ("text", "0 tensors"),
        (Path("an object"), "only code could rebuild"),
    ],
)
def test_what_is_no_label_map_is_a_broken_sample(tmp_path, content, said):
    save(tmp_path, content)
    with pytest.raises(BrokenSample, match=said) as raised:
        maps_in(tmp_path, 6).read("n01/n01_7.JPEG")
    assert raised.value.path == str(tmp_path / "n01/n01_7.pt")
    assert "\n" not in raised.value.reason


def test_missing_cut_and_empty_files_are_broken_samples(tmp_path):
    save(tmp_path, a_map())
    whole = (tmp_path / "n01/n01_7.pt").read_bytes()
    maps = maps_in(tmp_path, 6)
    with pytest.raises(BrokenSample, match="no label map of this picture"):
        maps.read("n01/n01_8.JPEG")
    for name, content in {"cut": whole[:300], "empty": b"", "text": b"not a map", "zeros": bytes(500)}.items():
        (tmp_path / f"n01/{name}.pt").write_bytes(content)
        with pytest.raises(BrokenSample, match="damaged") as raised:
            maps.read(f"n01/{name}.JPEG")
        assert "\n" not in raised.value.reason
    (tmp_path / "n01/folder.pt").mkdir()
    with pytest.raises(BrokenSample, match="label map"):
        maps.read("n01/folder.JPEG")


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path):
    stored = torch.zeros(2, 1, 1, 1)
    stored[1] = 2050
    save(tmp_path, stored.half())
    with pytest.raises(BrokenSample, match="float32"):
        maps_in(tmp_path, 3000).read("n01/n01_7.JPEG")
    save(tmp_path, stored)
    assert maps_in(tmp_path, 3000).read("n01/n01_7.JPEG")[1].item() == 2050


@pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60), (80, 80)])
def test_a_map_of_the_central_square_is_read_where_the_crop_is(height, width):
    """Two routes: the map that knows the whole picture, and the part of it over the central square."""
    whole = torch.randn(1, 3, height // 10, width // 10)
    side = min(height, width) // 10
    top, left = (height // 10 - side) // 2, (width // 10 - side) // 2
    square = whole[:, :, top : top + side, left : left + side]
    # Not quite three by two cells (the number of samples jumps there), inside the square.
    cells = torch.tensor([height / 20 - 1, width / 20 - 1, 2.9, 1.9])
    fractions = cells * 10 / torch.tensor([height, width, height, width])
    maps = maps_in(Path(), 3, covers="centre_square")
    inside = maps.crop(fractions, height, width)
    found = region_align(square, inside[None], 3, 2)
    assert torch.allclose(found, region_align(whole, fractions[None], 3, 2), atol=1e-5)
    assert torch.equal(maps_in(Path(), 3).crop(fractions, height, width), fractions)


@pytest.mark.parametrize(
    "wrong", [{"axis_order": "transposed"}, {"smoothing": 1.0}, {"suffix": "pt"}, {"dense_weight": -1}, {"covers": 1}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ValidationError):
        TokenLabelOptions(folder="maps", **wrong)


def test_a_subset_has_no_more_classes_than_the_model():
    with pytest.raises(ValueError, match="3 classes kept"):
        maps_in(Path(), 2, [4, 5, 9])
