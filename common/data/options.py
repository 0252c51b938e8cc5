"""What can be chosen about any data set: where its samples are and how they are loaded."""

from __future__ import annotations

from pydantic import Field

from revit.common.config.options import Options


class SourceOptions(Options):
    """Where the samples and their labels are."""

    train: str | None = None
    """List file (`path label` lines) or folder with one subfolder per class. Needed for training."""
    val: str | None = None
    """The same for the evaluation during training."""
    test: str | None = None
    """The same for the final test; absent, the val list is used."""
    separator: str = Field(default=" ", min_length=1)
    """Between path and label in list files: a space (any white space), `,`, `\\t`, ... The label is the last field, so
    paths may contain it."""
    prefix: str = ""
    """Folder that relative paths of the lists are joined to."""
    label_names: str | None = None
    """File with class names in order of the label numbers: plain lines, a JSON list or map, or a CSV."""


class LoadingOptions(Options):
    """How files are read."""

    num_workers: int = Field(default=2, ge=0)
    """Loading processes; 0 loads in the main process. Does not change what is loaded."""
    prefetch: int = Field(default=2, ge=1)
    """Batches that each worker prepares ahead."""
    max_broken_share: float = Field(default=0.1, ge=0, le=1)
    """Training stops with the list when more than this share of the distinct files met so far cannot be read."""
    max_tries: int = Field(default=10, ge=1)
    """Training: files tried for one sample, the first included, before it is left out of its batch."""
