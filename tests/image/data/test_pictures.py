"""From options to batches of pictures: broken ones among them, label maps beside them, any number of workers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from revit.common.data import build as build_data
from revit.common.data.broken import BrokenSample
from revit.common.system.errors import UserError
from revit.image.data.options import PictureOptions
from revit.image.data.pictures import EvalPictures, load_picture, read_split, train_load

AUGMENT = {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"}


@pytest.fixture
def build(tree, tmp_path):
    """Options over the tree, in which one picture is empty and one is cut off."""
    (tree / "n00" / "n00_2.PNG").write_bytes(b"")
    cut = tree / "n02" / "n02_0.PNG"
    cut.write_bytes(cut.read_bytes()[:1000])

    def build(source: dict | None = None, num_workers: int = 0, **options) -> PictureOptions:
        return PictureOptions(
            source={"train": str(tree), "val": str(tree), **(source or {})},
            pixels={"img_size": 32},
            loading={"num_workers": num_workers, "max_broken_share": 0.5},
            **options,
        )

    return build


def train_loader(options, batch_size, seed, num_classes=3):
    pictures = read_split(options, "train")
    load, repeats = train_load(options, pictures, num_classes), options.augment.repeats
    return build_data.train_loader(load, pictures, options.loading, batch_size, seed, repeats=repeats)


def same(left, right) -> bool:
    tensors = zip(
        (left.inputs, left.targets, left.ids, *left.extras.values()),
        (right.inputs, right.targets, right.ids, *right.extras.values()),
    )
    return all(torch.equal(*pair) for pair in tensors) and left.failures == right.failures


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("repeats", [1, 3])
def test_training_batches_do_not_depend_on_the_workers_or_on_where_one_begins(build, num_workers, repeats):
    augment = {**AUGMENT, "repeats": repeats}
    alone = train_loader(build(augment=augment), 3, seed=5)
    helped = train_loader(build(augment=augment, num_workers=num_workers), 3, seed=5)
    for epoch, start in ((0, 0), (1, 2)):
        for loader in (alone, helped):
            loader.set_epoch(epoch)
        whole = list(alone)
        helped.set_epoch(epoch, start)
        rest = list(helped)
        assert len(whole) == 4
        assert len(rest) == 4 - start
        assert all(map(same, whole[start:], rest))


def test_the_same_pictures_come_from_tar_files(build, tree, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in sorted(tree.glob("*/*")):
            tar.add(file, arcname=str(file.relative_to(tree)))
    plain = train_loader(build(augment=AUGMENT), 4, seed=2)
    packed = train_loader(build({"train": str(tmp_path / "a.tar")}, num_workers=2, augment=AUGMENT), 4, seed=2)
    for left, right in zip(plain, packed):
        assert torch.equal(left.inputs, right.inputs)
        assert torch.equal(left.targets, right.targets)
    reasons = [{failure.reason for failure in loader.broken.failures} for loader in (plain, packed)]
    assert reasons[0] == reasons[1]


def test_training_replaces_broken_pictures(build):
    loader = train_loader(build(), 4, seed=1)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch.inputs.shape == (4, 3, 32, 32)
            assert batch.inputs.dtype == torch.uint8
            assert not {2, 8} & set(batch.ids.tolist())
    assert sorted(failure.id for failure in loader.broken.failures) == [2, 8]


def test_evaluation_reports_broken_pictures(build):
    options = build()
    pictures = read_split(options, "test")
    batches = list(build_data.eval_loader(EvalPictures(pictures, options), pictures, options.loading, 5))
    assert [batch.ids.tolist() for batch in batches] == [[0, 1, 3, 4], [5, 6, 7, 9], [10, 11]]
    failures = [failure for batch in batches for failure in batch.failures]
    assert [failure.id for failure in failures] == [2, 8]
    assert failures[0].reason == "the file is empty (0 bytes)"
    assert "damaged picture" in failures[1].reason
    path = read_split(options, "val").path(0)
    assert torch.equal(load_picture(path, options), batches[0].inputs[:1])


def test_a_single_picture_that_cannot_be_read_says_why(build, tmp_path):
    with pytest.raises(BrokenSample, match="no such file"):
        load_picture(str(tmp_path / "none.jpg"), build())


def test_too_many_broken_pictures_stop_training(build):
    options = build()
    strict = options.model_copy(update={"loading": options.loading.model_copy(update={"max_broken_share": 0.1})})
    loader = train_loader(strict, 12, seed=1)
    with pytest.raises(UserError, match="max_broken_share"):
        [list(loader) for _ in range(2)]


def test_class_subsets_number_all_splits_alike(build, tree, tmp_path):
    shutil.copytree(tree / "n02", tmp_path / "val" / "n02")
    options = build({"classes": ["n02", "n01"], "val": str(tmp_path / "val")})
    assert read_split(options, "train").labels.tolist() == [1] * 4 + [0] * 4
    pictures = read_split(options, "val")
    assert (pictures.names, pictures.labels.tolist()) == (("n02", "n01"), [0] * 4)


# -- token labels ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path, quarters):
    """Eight quartered pictures of 64x48 in two classes, with maps whose class numbers are the quarters'."""
    quarter = torch.arange(6)[:, None] * 2 // 6 * 2 + torch.arange(8) * 2 // 8
    stored = torch.stack([torch.full((5, 6, 8), 3.0), quarter.float().expand(5, -1, -1)]).half()
    for number in range(8):
        name = f"n{number % 2}/{number}"
        for folder in ("pictures", "maps"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        quarters.save(tmp_path / "pictures" / f"{name}.png")
        torch.save(stored, tmp_path / "maps" / f"{name}.pt")

    def build(**options) -> PictureOptions:
        return PictureOptions(
            source={"train": str(tmp_path / "pictures")},
            pixels={"img_size": 32},
            token_labels={"folder": str(tmp_path / "maps")},
            loading={"num_workers": 0, "max_broken_share": 0.5},
            **options,
        )

    return build


@pytest.mark.parametrize("flip", [0, 1])
def test_crops_of_a_quarter_point_at_its_labels(mapped, flip):
    """Small crops mostly lie in one quarter: the map cell under their middle has the label of the colour they show."""
    options = mapped(augment={"flip_probability": flip, "scale": (0.02, 0.05)})
    loader = train_loader(options, 8, seed=3, num_classes=4)
    colours = torch.tensor([[200, 10, 10], [10, 200, 10], [10, 10, 200], [200, 200, 10]])
    seen = set()
    for epoch in range(4):
        loader.set_epoch(epoch)
        (batch,) = loader
        assert batch.extras["label_map"].shape == (8, 2, 5, 6, 8)
        assert batch.extras["crop"].shape == (8, 4)
        for pixels, label_map, crop in zip(batch.inputs, *batch.extras.values()):
            if pixels.float().std(dim=(1, 2)).max() > 0:
                continue  # the crop spans several quarters
            shown = int((pixels[:, 0, 0] == colours).all(dim=1).nonzero())
            top, left, height, width = crop.tolist()
            row, column = int((top + height / 2) * 6), int((left + width / 2) * 8)
            assert label_map[1, :, row, column].tolist() == [shown] * 5
            seen.add(shown)
    assert len(seen) >= 3


def test_batches_with_maps_do_not_depend_on_the_workers(mapped):
    options = mapped(augment={"auto_augment": "rand-m9-mstd0.5-inc1", "repeats": 2})
    helped = options.model_copy(update={"loading": options.loading.model_copy(update={"num_workers": 2})})
    loaders = [train_loader(each, 4, seed=1, num_classes=4) for each in (options, helped)]
    assert all(same(left, right) for left, right in zip(*loaders))


def test_a_picture_without_its_map_is_replaced(mapped, tmp_path):
    (tmp_path / "maps" / "n0" / "2.pt").unlink()
    loader = train_loader(mapped(), 8, seed=0, num_classes=4)
    (batch,) = loader
    assert len(batch) == 8
    assert [failure.path for failure in loader.broken.failures] == [str(tmp_path / "maps" / "n0" / "2.pt")]


def test_maps_of_a_class_subset_are_renumbered(mapped):
    options = mapped(augment={"flip_probability": 0})
    source = options.source.model_copy(update={"classes": ("n1", "n0")})
    (batch,) = train_loader(options.model_copy(update={"source": source}), 8, seed=0)
    numbers = batch.extras["label_map"][:, 1]
    assert set(np.unique(numbers)) == {-1.0, 0.0, 1.0}  # 1 -> 0, 0 -> 1, 2 and 3 are not kept
    assert (numbers[:, :, 0, 0] == 1).all()
    assert (numbers[:, :, 0, -1] == 0).all()


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": {"scale": (0.5, 0.1)}}, "scale .* the smaller first"),
        ({"augment": {"scale": (0.5, 1.5)}}, "share of the picture's area"),
        ({"augment": {"auto_augment": "rand-m9-x5"}}, "no policy that timm knows"),
        ({"augment": {"auto_augment": ""}}, "null means none"),
        ({"pixels": {"std": (0.2, 0.0, 0.2)}}, "must be positive"),
        ({"pixels": {"img_size": (0, 8)}}, "must be positive"),
        ({"token_labels": {"folder": "x"}, "mix": {"mixup": 0.8}}, "not the label maps"),
        ({"token_labels": {"folder": "x"}, "augment": {"auto_augment": "augmix-m5"}}, "cannot follow"),
        ({"augment": {"flip": 0.5}}, "Extra inputs are not permitted"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PictureOptions.model_validate(values)


def test_options_can_be_keys_of_a_cache(build):
    assert hash(build({"classes": ["n01", 2]})) == hash(build({"classes": ["n01", 2]}))
