"""Tokens are drawn where they really lie, and as what became of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from revit.common.drawing.gallery import Gallery
from revit.common.drawing.sheet import Look, draw_sheet, looks_of
from revit.common.drawing.tile import DARK, TokenCells, cells_of, paint
from revit.common.models.base import Reduction
from revit.common.models.embed.patch_embed import PATCH_EMBEDS
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Shorter
from revit.common.system.errors import UserError


class Embedded(torch.nn.Module):
    """A model of a patch embedding alone."""

    def __init__(self, name, size, grids, **extra):
        super().__init__()
        self.grids = [TokenGrid.parse(grid) for grid in grids]
        self.patch_embed = PATCH_EMBEDS[name](size, self.grids, 4, 1, **extra).eval()


@pytest.mark.parametrize(
    ("name", "size", "grid", "sides", "extra"),
    [
        ("patchify", (24, 36), "4x6", (24, 36), {}),
        ("patchify", 44, "5x5", (44, 44), {}),  # 10 pixels a patch, 3 of padding on both sides
        ("patchify", 32, "4x4", (27, 41), {}),  # another size than the model's own: odd padding
        ("patchify", 32, "4x4", (29, 43), {"remainder": "cut"}),
        ("shared", 44, "3x3", (44, 44), {}),
    ],
)
def test_every_pixel_lies_in_the_cell_of_the_token_that_it_changes(name, size, grid, sides, extra):
    grids = ["6x6", grid] if name == "shared" else [grid]
    model, grid = Embedded(name, size, grids, **extra), TokenGrid.parse(grid)
    cells = cells_of(model, grid, sides)
    picture = torch.zeros(1, 1, *sides, requires_grad=True)
    tokens = model.patch_embed(picture, grid)
    assert tokens.shape[-2:] == (cells.map.rows, cells.map.cols)
    positions = cells.positions(np.arange(sides[0]) + 0.5, np.arange(sides[1]) + 0.5)
    seen = np.full(sides, -1)
    for number, token in enumerate(tokens.flatten(2).unbind(2)):
        (gradient,) = torch.autograd.grad(token.sum(), picture, retain_graph=True)
        seen[gradient[0, 0].abs().numpy() > 0] = number
    np.testing.assert_array_equal(positions, seen)


def test_stems_begin_where_they_pad():
    lvvit = Embedded("lvvit", 224, ["14x14", "10x10"], stem_widths=(2, 2, 2))
    assert cells_of(lvvit, TokenGrid(10, 10), (224, 224)) == TokenCells((224, 224), TokenGrid(10, 10), (24, 24), (8, 8))
    stem = Embedded("stem", 52, ["7x7"], stem_widths=(2, 2, 2, 2))
    assert cells_of(stem, TokenGrid(7, 7), (52, 52)).origin == (0, 0)
    model = torch.nn.Identity()  # says nothing of its cells
    assert cells_of(model, TokenGrid(3, 5), (48, 80)).patch == (16, 16)


def colours(drawing, cells, scale):
    """Of the middle of each cell: (S, 3)."""
    array = np.asarray(drawing)
    rows, cols, half = cells.map.rows, cells.map.cols, scale * cells.patch[0] // 2
    return array[half :: 2 * half, half :: 2 * half][:rows, :cols].reshape(-1, 3).astype(int)


def test_kept_dropped_and_merged_look_as_they_should():
    cells = TokenCells((12, 12), TokenGrid(3, 3), (4, 4))
    values = np.arange(9).reshape(3, 3) * 20 + 40
    picture = np.repeat(np.repeat(values, 4, 0), 4, 1)[..., None].repeat(3, 2).astype(np.uint8)
    plain = colours(paint(picture, cells, None, 5), cells, 5)
    np.testing.assert_array_equal(plain[:, 0], values.ravel())
    fates = np.array([0, 1, 1, -1, -1, 5, 6, 1, 8])
    drawn = colours(paint(picture, cells, fates, 5), cells, 5)[:, 0]
    np.testing.assert_array_equal(drawn[[0, 5, 6, 8]], plain[[0, 5, 6, 8], 0])
    np.testing.assert_allclose(drawn[[3, 4]], DARK * plain[[3, 4], 0], atol=1)
    assert set(drawn[[1, 2, 7]]) == {round(np.mean([plain[k, 0] for k in (1, 2, 7)]))}
    with pytest.raises(ValueError, match="fates of 4 positions, but the picture has 9"):
        paint(picture, cells, fates[:4], 5)


def test_padding_is_part_of_the_drawing_and_cut_pixels_are_pale():
    picture = np.zeros((20, 20, 3), np.uint8)
    padded = paint(picture, TokenCells((20, 20), TokenGrid(3, 3), (8, 8), (2, 2)), None, 2)
    assert padded.size == (48, 48)
    assert padded.getpixel((2, 2))[0] > 200  # beyond the picture
    assert padded.getpixel((10, 10)) == (0, 0, 0)
    cut = paint(picture, TokenCells((20, 20), TokenGrid(2, 2), (8, 8)), None, 2)
    assert cut.size == (40, 40)
    assert cut.getpixel((36, 36))[0] > 150
    assert cut.getpixel((10, 10)) == (0, 0, 0)


def test_looks_have_the_fates_after_every_decision():
    decisions = [
        Shorter(torch.tensor([[0, 1, 3]]), 4, torch.tensor([[0, 1, 1, 2]])),
        Shorter(torch.tensor([[0, 2]]), 3),
    ]
    model = Embedded("patchify", 16, ["2x2"])
    views = torch.randint(0, 255, (1, 3, 16, 16), dtype=torch.uint8)
    (look,) = looks_of(model, views, model.grids, [Reduction.of(decisions)])
    np.testing.assert_array_equal(look.pixels, views[0].permute(1, 2, 0))
    assert [fates.tolist() for fates in look.trail] == [[0, 1, 1, 3], [0, -1, -1, 3]]
    assert look.num_left == 2
    (plain,) = looks_of(model, views, model.grids, [None])
    assert plain.trail == ()
    assert draw_sheet("one", [look]).width > 2.5 * draw_sheet("one", [plain]).width


def test_frames_may_have_fates_of_their_own():
    cells = TokenCells((8, 8), TokenGrid(2, 2), (4, 4))
    frames = np.full((2, 8, 8, 3), 200, np.uint8)
    look = Look(frames, cells, (np.array([[0, 1, 2, 3], [0, -1, -1, -1]]),))
    assert look.num_left == 2.5
    sheet = np.asarray(draw_sheet("clip", [look]))
    assert sheet.shape[1] > 2 * 100
    long = Look(np.repeat(frames, 30, 0), cells)
    assert draw_sheet("clip", [long]).width < 20 * 180


def test_names_do_not_meet(tmp_path):
    gallery, dot = Gallery(tmp_path / "made" / "here"), Image.new("RGB", (1, 1))
    sources = ["a/x.png", "b/x.jpg", "b/X.png", "x-2.png", "a\nb.png", "n" * 250 + ".png", "\udcff.png", "é" * 120]
    names = [os.path.basename(gallery.save(source, dot)) for source in sources]
    assert names[:5] == [f"{name}.tokens.png" for name in ("x", "x-2", "X-3", "x-2-2", "a_b")]
    assert len({name.casefold() for name in names}) == len(sources)
    assert sorted(os.listdir(gallery.folder)) == sorted(names)
    assert gallery.holds(str(gallery.folder / names[0]))
    assert not gallery.holds("elsewhere/x.tokens.png")


def test_only_the_folder_is_written_to(tmp_path):
    outside, folder = tmp_path / "mine.txt", tmp_path / "drawings"
    outside.write_text("mine")
    folder.mkdir()
    (folder / "x.tokens.png").symlink_to(outside)
    Gallery(folder).save("x.png", Image.new("RGB", (1, 1)))
    assert outside.read_text() == "mine"
    assert not (folder / "x.tokens.png").is_symlink()
    for place in (outside, outside / "below"):
        with pytest.raises(UserError, match="drawings cannot be written there"):
            Gallery(place)
    (folder / "y.tokens.png").mkdir()
    with pytest.raises(UserError, match="drawings cannot be written there"):
        Gallery(folder).save("y.png", Image.new("RGB", (1, 1)))
    assert sorted(os.listdir(folder)) == ["x.tokens.png", "y.tokens.png"]
