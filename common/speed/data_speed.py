"""Loading beside computing, on a user's own files: which decoder, how many workers, and which of the two is waited for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from revit.common.data.lists import SampleList
from revit.common.modality.modality import Modality
from revit.common.speed.data_advice import DataSpeed, LoaderRate
from revit.common.speed.loading_rates import (
    PREFETCH,
    Checked,
    DecoderRate,
    Decoders,
    Source,
    check_files,
    compare_decoders,
    measure_loaders,
)
from revit.common.speed.model_rates import measure_model, measure_training_step
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines
from revit.common.system.log import progress
from revit.common.timing.throughput import device_name

MOST_FILES = 64
LINES = 20_000
"""Of the list that loaders read: the sample, repeated, so that no epoch ends while they are measured."""
BATCH_BYTES = 4 << 20
"""About the pixels of a loader's batch here; how large it is hardly changes the rate."""
SHARES = {"check": 0.1, "decoders": 0.15, "model": 0.15, "loaders": 0.45, "training": 0.15}
"""Of the time."""


def measure_data(
    options: Any,
    kind: Modality[Any],
    decoders: Decoders | None,
    where: str,
    device: torch.device,
    workers: Sequence[int],
    seconds: float,
) -> DataSpeed:
    """Measures for about `seconds`; a model or files that are slow take longer, as each is used once in any case.

    where: list or folder, as `data.source` takes it.

    Raises:
        UserError: no such list, or not one file of the sample can be read.
    """
    begin = time.perf_counter()
    shares = {name: share * seconds for name, share in SHARES.items()}
    modality = kind
    options = _with_source(options, {"train": where, "val": where, "test": where, "label_names": None})
    options = _with_source(options, {"classes": None}, only_known=True)
    samples = modality.split(_with_classes(options, None), "test")
    options = _with_classes(options, samples.num_classes)
    names = decoders.installed() if decoders is not None else ()
    with progress("Measuring", None) as update_bar, tempfile.TemporaryDirectory() as folder:
        update_bar(advance=0, note="files")
        positions = list(spread(len(samples)))
        own_files = type(samples) is SampleList  # others lie in archives, which loaders read as they are
        checked = Checked((), {})
        if own_files:
            checked = _check(options, kind, samples, positions, shares["check"])
            options = _with_list(options, samples, positions, checked, Path(folder) / "sample.csv")
        rates: list[DecoderRate] = []
        if decoders is not None and own_files:
            update_bar(advance=0, note="decoders")
            rates = compare_decoders(decoders, options, names, checked.good, shares["decoders"])
        update_bar(advance=0, note="model")
        model = measure_model(options, modality, device, shares["model"])
        found = DataSpeed(
            listed=len(samples),
            files=checked,
            decoders=rates,
            loaders=[],
            model=model,
            num_views=modality.num_views(options),
            training=None,
            no_training=None,
            device=device_name(device),
            key=decoders.key if decoders is not None else None,
            remedy=decoders.remedy if decoders is not None else "",
            seconds=0.0,
        )
        update_bar(advance=0, note="loaders")
        loading: dict[str, Any] = {"prefetch": PREFETCH, "max_broken_share": 1.0}
        if found.decoder is not None and decoders is not None:
            loading[decoders.key.rsplit(".", 1)[-1]] = found.decoder
        sources = list(_sources(options, modality, workers, loading))
        try:
            measure_loaders([one for pair in sources for one in pair], shares["loaders"])
            loaders = [
                LoaderRate(train.workers, train.per_second, test.per_second) for train, test in sources
            ]
            batch = next(sources[0][0].batches)
        finally:
            for source in (one for pair in sources for one in pair):
                source.close()
        update_bar(advance=0, note="training")
        training, why = None, None
        # A step costs about three times a test, for every grid; it is made twice.
        expected = 6 * len(options.grids) * len(batch) / model.grids[options.grids[0].name]
        if expected > max(shares["training"], seconds - (time.perf_counter() - begin)):
            why = f"two steps take about {expected:.0f} s, more than is left of --seconds {seconds:g}"
        else:
            try:
                training = measure_training_step(options, modality, device, batch, shares["training"])
            except UserError as error:
                why = str(error)
    return replace(
        found,
        loaders=loaders,
        training=training,
        no_training=why,
        seconds=time.perf_counter() - begin,
    )


def _check(
    options: Any, kind: Modality[Any], samples: SampleList, positions: Sequence[int], seconds: float
) -> Checked:
    reader = kind.inputs(options).open("test")
    try:
        paths = list(dict.fromkeys(samples.path(position) for position in positions))
        checked = check_files(paths, reader.read, seconds)
    finally:
        reader.close()
    if not checked.good:
        path, reason = next(iter(checked.broken.items()))
        raise UserError(
            f"{samples.source}: none of the {len(checked.broken)} files tried can be read; the first, {path}: {reason}"
        )
    return checked


def spread(num: int) -> Iterator[int]:
    """Positions of a list, each once, at most `MOST_FILES`: however many are taken, they lie all over it."""
    golden = (5**0.5 - 1) / 2
    yield from dict.fromkeys(int(num * ((number * golden) % 1)) for number in range(MOST_FILES))


def _sources(
    options: Any, modality: Modality[Any], workers: Sequence[int], loading: dict[str, Any]
) -> Iterator[tuple[Source, Source]]:
    """A training and a test loader for every number of workers."""
    pixels = int(np.prod(modality.input_shape(options)))
    train = min(options.train.batch_size, max(1, BATCH_BYTES // pixels))
    test = min(options.test.batch_size, max(1, BATCH_BYTES // pixels // modality.num_views(options)))
    for num in workers:
        settings = {**loading, "num_workers": num}
        chosen = _with_data(options, {"loading": options.data.loading.model_copy(update=settings)})
        yield (
            Source(modality.train_loader(chosen, "train", train), num),
            Source(modality.eval_loader(chosen, "test", test), num),
        )


def _with_list(
    options: Any, samples: SampleList, positions: Sequence[int], checked: Checked, path: Path
) -> Any:
    """The options with a list of the files that can be read, over and over, under the names that they have."""
    good = set(checked.good)
    kept = [position for position in positions if samples.path(position) in good]
    lines = [f"{samples.name(position)}\t{samples.label(position)}\n" for position in kept]
    write_lines(path, lines * -(-LINES // len(lines)))
    places = {"train": str(path), "val": str(path), "test": str(path)}
    return _with_source(options, {**places, "prefix": samples.root, "separator": "\t"})


def _with_data(options: Any, update: dict[str, Any]) -> Any:
    return options.model_copy(update={"data": options.data.model_copy(update=update)})


def _with_source(options: Any, update: dict[str, Any], only_known: bool = False) -> Any:
    source = options.data.source
    if only_known:
        update = {key: value for key, value in update.items() if hasattr(source, key)}
    return _with_data(options, {"source": source.model_copy(update=update), "demo": None})


def _with_classes(options: Any, num: int | None) -> Any:
    return options.model_copy(update={"model": options.model.model_copy(update={"num_classes": num})})
