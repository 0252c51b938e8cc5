"""What an evaluation saw is kept, read back, and refused when it is damaged; examples are a fixed choice."""

from __future__ import annotations

import io

import pytest
import torch
from made_runs import made_record, with_pictures
from PIL import Image
from safetensors.torch import save_file

from revit.common.data.batch import Item
from revit.common.evaluation.evaluate import Answers, Evaluation
from revit.common.evaluation.examples import choose, make_examples, thumbnails
from revit.common.evaluation.record import FORMAT, EvaluationRecord, load_record, save_record
from revit.common.system.errors import UserError


def test_it_comes_back_as_it_was(tmp_path):
    for record in (with_pictures(made_record(views=3), frames=2), made_record(assigner=False)):
        save_record(tmp_path / "a", record)
        back = load_record(tmp_path / "a")
        assert (back.label_names, back.grids, back.examples) == (record.label_names, record.grids, record.examples)
        torch.testing.assert_close(back.targets, record.targets)
        torch.testing.assert_close(dict(back.predictions), dict(record.predictions))
        torch.testing.assert_close(dict(back.probabilities), dict(record.probabilities))
        assert (back.grid_index is None) == (record.grid_index is None)
        if record.grid_index is not None:
            torch.testing.assert_close(back.grid_index, record.grid_index)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("merge", ["logits", "probabilities"])
def test_predictions_are_those_of_the_figures(merge):
    """Two routes to the same accuracy; and the probability is the merged score where that is one."""
    logits = {name: torch.randn(50, 3, 7) for name in ("6x6", "3x3", "adaptive")}
    grid_index = torch.randint(2, (50, 3))
    answers = {name: Answers(one, grid_index, 1.0) for name, one in logits.items()}
    evaluation = Evaluation(torch.arange(50), torch.randint(7, (50,)), answers, [])
    record = EvaluationRecord.of(evaluation, ("6x6", "3x3"), "abcdefg", merge)
    for name, one in logits.items():
        assert torch.equal(record.correct(name), evaluation.correct(one, merge))
        views = one.mean(1).softmax(-1) if merge == "logits" else one.softmax(-1).mean(1)
        torch.testing.assert_close(record.probabilities[name], views.max(dim=1).values)
    assert torch.equal(record.grid_index, grid_index)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    save_record(tmp_path / "a", with_pictures(made_record()))
    whole = (tmp_path / "a").read_bytes()
    for spoilt in (b"", whole[: len(whole) // 2], whole.replace(b'\\"version\\": 1', b'\\"version\\": 2')):
        (tmp_path / "b").write_bytes(spoilt)
        with pytest.raises(UserError, match="not what an evaluation saw"):
            load_record(tmp_path / "b")
    save_file({"ids": torch.zeros(3)}, tmp_path / "c")
    with pytest.raises(UserError, match="no evaluation of ours"):
        load_record(tmp_path / "c")
    save_file({"ids": torch.zeros(3)}, tmp_path / "c", metadata={FORMAT: "[1]"})
    with pytest.raises(UserError, match="not what an evaluation saw"):
        load_record(tmp_path / "c")
    with pytest.raises(UserError, match="no such file"):
        load_record(tmp_path / "d")


@pytest.mark.parametrize(
    "change",
    [
        {"targets": torch.tensor([9, 0])},
        {"targets": torch.zeros(3, dtype=torch.long)},
        {"grid_index": torch.tensor([[0], [2]])},
        {"grid_index": torch.tensor([0, 1])},
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, change):
    two = dict.fromkeys(("6x6", "3x3", "adaptive"), torch.zeros(2, dtype=torch.long))
    parts = {
        "ids": torch.arange(2),
        "targets": torch.zeros(2, dtype=torch.long),
        "predictions": two,
        "probabilities": {name: one.float() for name, one in two.items()},
        "grid_index": torch.zeros(2, 1, dtype=torch.long),
    }
    save_record(tmp_path / "a", EvaluationRecord(("a", "b"), ("6x6", "3x3"), **{**parts, **change}))
    with pytest.raises(UserError, match="not what an evaluation saw"):
        load_record(tmp_path / "a")


def test_examples_are_right_ones_a_few_of_each_class_and_length():
    record = made_record(num=600, classes=12)
    rows = choose(record, 3)
    assert rows == choose(record, 3)
    assert rows != choose(record, 3, seed=1)
    right = record.correct("adaptive")
    cells = [(int(record.targets[row]), int(record.grid_index[row, 0]) if right[row] else 2) for row in rows]
    assert cells == sorted(cells)
    assert len({number for number, _ in cells}) == 8
    assert {cells.count((number, grid)) for number, grid in cells if grid < 2} == {3}


@pytest.mark.parametrize("assigner", [True, False])
def test_mistakes_are_shown_the_surest_first(assigner):
    record = made_record(num=600, assigner=assigner)
    wrong = ~record.correct(record.policy)
    sure = record.probabilities[record.policy]
    shown = [row for row in choose(record, 3) if wrong[row]]
    for number in range(len(record.label_names)):
        own = sure[wrong & (record.targets == number)].sort(descending=True).values[:3]
        assert torch.equal(sure[[row for row in shown if record.targets[row] == number]], own)
    assert len(shown) < len(choose(record, 3))


def test_thumbnails_of_pictures_and_of_clips():
    picture = torch.zeros(3, 20, 30, dtype=torch.uint8)
    picture[0] = 200
    (one,) = thumbnails(picture, 40)
    with Image.open(io.BytesIO(one)) as shown:
        assert shown.size == (60, 40)
        red, green, blue = shown.getpixel((30, 20))
        assert (abs(red - 200) < 8, green < 8, blue < 8) == (True, True, True)
    clip = torch.arange(9, dtype=torch.uint8).mul(25)[None, :, None, None].expand(3, 9, 16, 16)
    means = [
        sum(Image.open(io.BytesIO(frame)).convert("L").getpixel((8, 8)) for _ in range(1))
        for frame in thumbnails(clip, 16)
    ]
    assert [round(mean / 25) for mean in means] == [0, 3, 5, 8]
    assert len(thumbnails(torch.zeros(1, 2, 16, 16, dtype=torch.uint8), 16)) == 2


def test_samples_that_cannot_be_read_any_more_are_left_out():
    record = made_record()
    gone = {int(record.ids[row]) for row in choose(record, 3)[:4]}

    def read(position):
        inputs = None if position in gone else torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        return Item(inputs, 0, position)

    paths = [f"{number}.jpg" for number in range(len(record.ids))]
    examples = make_examples(record, read, paths)
    assert len(examples) == len(choose(record, 3)) - 4
    assert all(example.name == f"{int(record.ids[example.row])}.jpg" for example in examples)
