"""Settings of any data set: its lists, and how they are loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from revit.common.config.options import NotedOptions


class SourceOptions(NotedOptions):
    """Samples and their labels."""

    later = ("format", "first_label", "fold", "label_column", "split_off", "split_seed", "several_labels")
    train: str | None = None
    """List file or folder, in any of the formats of `format`, such as `path label` lines or one subfolder per class. Needed for
    training."""
    val: str | None = None
    """List or folder of the evaluation during training."""
    test: str | None = None
    """List or folder of the final test; null: the val list."""
    format: str | None = None
    """Format of the lists; null: recognised by content. Clips and pictures: `path_label`, `csv`, `class_folders`, `tar`, `hf_folder`.
    Clips: `ucf101`, `hmdb51`, `kinetics`, `something_something`, `diving48`, `charades`, `epic`, `frame_folders`."""
    separator: str = Field(default=" ", min_length=1)
    """Text between path and label in list files: a space (found out: any white space, or a table's comma, semicolon, tab or bar), `,`,
    `\\t`, ... The label is the last field, so paths may contain it."""
    prefix: str = ""
    """Folder that relative paths of the lists are joined to."""
    first_label: int | None = Field(default=None, ge=0, le=1)
    """Number of the first class in lists of numbers; null: 1 where those of the training list are 1, 2, ... without
    a gap, which is said, else 0."""
    fold: int = Field(default=1, ge=1, le=3)
    """Number of the official split, where `train` and `test` are the folder of UCF101's or HMDB51's split files."""
    label_column: str | None = None
    """Name of the column with the labels, in tables that have several (EPIC-KITCHENS: `verb_class`, `noun_class`)."""
    label_names: str | None = None
    """File with class names in order of the label numbers: plain lines, a JSON list or map, or a CSV."""
    several_labels: bool = False
    """A sample may have several labels, or none: in lists numbers at the end of a line (`path 1 3`), or names joined by `;` or
    `|` (or by `,` in a quoted field of a CSV). The model then learns a yes or no for every class (binary cross entropy)."""
    split_off: float | None = Field(default=None, gt=0, lt=0.5)
    """Share of each class of the training list that becomes the val list, and as many again the test list, where these are not
    given. Files cut from one source, as far as their names show it, stay together. Null: none."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of that choice."""

    @property
    def parts(self) -> tuple[Literal["val", "test"], ...]:
        """Lists that are split off the training list."""
        if self.split_off is None or self.val is not None or self.train is None:
            return ()
        return ("val",) if self.test is not None else ("val", "test")

    def has(self, split: Literal["train", "val", "test"]) -> bool:
        """Say whether there is a list of its own for this split."""
        return getattr(self, split) is not None or split in self.parts


class LoadingOptions(NotedOptions):
    """Reading of files."""

    num_workers: int = Field(default=2, ge=0)
    """Loading processes; 0: the main process loads. The samples are the same."""
    prefetch: int = Field(default=2, ge=1)
    """Batches that each worker prepares ahead."""
    max_broken_share: float = Field(default=0.1, ge=0, le=1)
    """Largest share of unreadable files, among the distinct files met so far; beyond it, training stops and names them."""
    max_tries: int = Field(default=10, ge=1)
    """Files tried for one training sample, the first included, before it is left out of its batch."""
