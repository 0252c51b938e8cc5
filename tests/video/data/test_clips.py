"""From options to batches: real files, broken ones among them, decoded in helper processes."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from revit.common.data.dataset import RobustDataset
from revit.common.data.loader import Loader
from revit.common.system.errors import UserError
from revit.video.data.clips import (
    TrainClips,
    build_eval_loader,
    build_train_loader,
    load_views,
    make_reader,
    read_split,
)
from revit.video.data.decode import libraries
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ClipLoadingOptions, ClipOptions, ViewOptions

SMALL = {"crop_size": 64, "jitter_min": 72, "jitter_max": 90}
FRAMES = {"num_frames": 4, "sampling_rate": 4}


@pytest.fixture
def options(make_video, tmp_path):
    """Six files, two of them broken, in one list; train and val alike."""
    lines = []
    for number in range(6):
        path = tmp_path / f"clip {number}.mp4"
        if number == 2:
            path.write_bytes(b"")
        elif number != 4:
            make_video(path.name, num_frames=20 + number)
        lines.append(f"{path} {number % 3}\n")
    (tmp_path / "list.csv").write_text("".join(lines))

    def build(**loading) -> ClipOptions:
        return ClipOptions(
            source={"train": str(tmp_path / "list.csv"), "val": str(tmp_path / "list.csv")},
            frames=FRAMES,
            pixels=SMALL,
            loading={"num_workers": 0, "max_broken_share": 0.5, **loading},
        )

    return build


@pytest.mark.parametrize("num_workers", [1, 2])
def test_training_batches_do_not_depend_on_the_workers(num_workers, options):
    alone = build_train_loader(options(), 2, seed=5)
    helped = build_train_loader(options(num_workers=num_workers), 2, seed=5)
    for epoch, start in ((0, 0), (1, 1)):
        for loader in (alone, helped):
            loader.set_epoch(epoch, start)
        batches = list(alone), list(helped)
        assert len(batches[0]) == len(batches[1]) == 3 - start
        for left, right in zip(*batches):
            assert torch.equal(left.inputs, right.inputs)
            assert torch.equal(left.ids, right.ids)
            assert left.failures == right.failures


def test_training_replaces_broken_files_and_counts_them_once(options):
    loader = build_train_loader(options(), 3, seed=1)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch.inputs.shape == (3, 3, 4, 64, 64)
            assert batch.inputs.dtype == torch.uint8
            assert torch.equal(batch.targets, batch.ids % 3)
            assert not {2, 4} & set(batch.ids.tolist())
    assert sorted(failure.id for failure in loader.broken.failures) == [2, 4]


def test_evaluation_reports_broken_files(options):
    loader = build_eval_loader(options(), "test", 3)
    batches = list(loader)
    assert [batch.ids.tolist() for batch in batches] == [[0, 1], [3, 5]]
    assert batches[0].inputs.shape == (6, 3, 4, 64, 64)
    assert [(failure.id, failure.reason) for batch in batches for failure in batch.failures] == [
        (2, "the file is empty (0 bytes)"),
        (4, "no such file or directory"),
    ]


def test_too_many_broken_files_stop_training_with_the_list(options):
    loader = build_train_loader(options(max_broken_share=0.2), 3, seed=1)
    with pytest.raises(UserError, match=r"max_broken_share(.|\n)*clip [24]\.mp4"):
        run_epochs(loader, 3)


def run_epochs(loader: Loader, num_epochs: int) -> None:
    for epoch in range(num_epochs):
        loader.set_epoch(epoch)
        list(loader)


def test_views_are_temporal_outermost_then_crops(options, make_video):
    path = make_video("long.mp4", num_frames=90)
    options = options()
    views = load_views(path, options, ViewOptions(num_temporal_views=2, num_crops=3))
    assert views.shape == (6, 3, 4, 64, 64)
    first = load_views(path, options, ViewOptions(num_crops=3))
    assert first.shape == (3, 3, 4, 64, 64)
    start = options.model_copy(update={"frames": options.frames.model_copy(update={"one_view": "start"})})
    assert torch.equal(load_views(path, start, ViewOptions(num_crops=3)), views[:3])
    assert not torch.equal(views[:3], views[3:])


def test_a_single_path_that_cannot_be_read_says_why(options, tmp_path):
    with pytest.raises(DecodeError, match="no such file"):
        load_views(str(tmp_path / "none.mp4"), options())


HANGING = """
import time
from revit.video.data.decode import worker
true_read = worker.READ
def read(path, *others, **options):
    if path.endswith("3.mp4"):
        time.sleep(600)
    return true_read(path, *others, **options)
worker.READ = read
worker.main()
"""


def test_a_file_that_hangs_the_decoder_is_replaced(options):
    options = options()
    clips = read_split(options, "train")
    reader = FrameReader(timeout_seconds=2.0, command=(sys.executable, "-c", HANGING))
    dataset = RobustDataset(TrainClips(clips, options, reader), len(clips), training=True)
    begin = time.monotonic()
    item = dataset[0, 3]
    reader.close()
    assert time.monotonic() - begin < 60
    assert item.inputs is not None
    assert item.id != 3
    assert item.failures[0].id == 3
    assert "longer than 2 s" in item.failures[0].reason


def test_names_of_the_training_list_number_the_other_splits(tmp_path, make_video):
    path = make_video()
    (tmp_path / "train.csv").write_text(f"{path} swim\n{path} fly\n{path} run\n")
    (tmp_path / "val.csv").write_text(f"{path} swim\n{path} run\n")
    options = ClipOptions(source={"train": str(tmp_path / "train.csv"), "val": str(tmp_path / "val.csv")})
    clips = read_split(options, "test")
    assert clips.names == ("fly", "run", "swim")
    assert clips.labels.tolist() == [2, 1]


def test_a_split_without_a_list_is_refused():
    with pytest.raises(UserError, match=r"source\.train is not set"):
        read_split(ClipOptions(), "train")


def test_a_decoder_that_is_missing_is_the_users_to_install(monkeypatch):
    monkeypatch.setattr(libraries, "installed", lambda name: False)
    with pytest.raises(UserError, match="'decord' is not installed"):
        make_reader(ClipLoadingOptions(decoder="decord"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixels": {"jitter_min": 300, "jitter_max": 256}}, "jitter_min 300 is larger than jitter_max 256"),
        ({"pixels": {"crop_size": 448}}, "crop_size 448 does not fit"),
        ({"pixels": {"std": (0.2, 0.0, 0.2)}}, "must be positive"),
        ({"frames": {"sampling": "segments"}, "test_views": {"num_temporal_views": 2}}, "every temporal view"),
        ({"frames": {"num_frame": 8}}, "Extra inputs are not permitted"),
        ({"test_views": {"num_crops": 2}}, "Input should be 1 or 3"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ClipOptions.model_validate(values)


def test_segments_take_the_whole_file(options, make_video):
    options = options()
    frames = options.frames.model_copy(update={"sampling": "segments"})
    options = options.model_copy(update={"frames": frames})
    assert load_views(make_video("long.mp4"), options, ViewOptions()).shape == (1, 3, 4, 64, 64)
    batch = next(iter(build_train_loader(options, 2, seed=0)))
    assert batch.inputs.shape == (2, 3, 4, 64, 64)
