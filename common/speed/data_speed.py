"""Loading beside computing, on a user's own files: which decoder, how many workers, and which of the two is waited for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from revit.common.data.batch import Batch
from revit.common.data.lists import SampleList
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.task import Progress
from revit.common.modality.costs import build
from revit.common.modality.modality import Modality, Run
from revit.common.speed.data_advice import EVEN, DataSpeed, LoaderRate, ModelRates
from revit.common.speed.loading_rates import (
    PREFETCH,
    CheckedFiles,
    DecoderRate,
    Decoders,
    Source,
    best_decoder,
    check_files,
    compare_decoders,
    measure_loaders,
)
from revit.common.speed.training_step import training_step
from revit.common.system.device import autocast, device_name
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines
from revit.common.system.log import progress
from revit.common.timing.cases import even_pass, noise
from revit.common.timing.clock import time_rounds

MOST_FILES = 64
LINES = 20_000
"""Length of the list that loaders read: the sample, repeated, so that no epoch ends while they are measured."""
BATCH_BYTES = 4 << 20
"""Bytes of pixels in a loader's batch here, about; its size hardly changes the rate."""
SHARES = {"check": 0.1, "decoders": 0.15, "model": 0.15, "loaders": 0.45, "training": 0.15}
"""Shares of the time."""
LARGEST_BATCH = {"cuda": 32}
"""Largest batch of a test here; elsewhere 4: a CPU is busy with that many."""
MOST_CALLS = 50


def measure_data(
    options: Run,
    modality: Modality[Run],
    decoders: Decoders[Run] | None,
    where: str,
    device: torch.device,
    workers: Sequence[int],
    seconds: float,
) -> DataSpeed:
    """Measure for about `seconds`; a model or files that are slow take longer, as each is used once in any case.

    where: list or folder, as `data.source` takes it.

    Raises:
        UserError: no such list, or not one file of the sample can be read.
    """
    begin = time.perf_counter()
    shares = {name: share * seconds for name, share in SHARES.items()}
    options = _with_source(options, train=where, val=where, test=where, label_names=None)
    if hasattr(options.data.source, "classes"):
        options = _with_source(options, classes=None)
    samples = modality.split(_with_classes(options, None), "test")
    options = _with_classes(options, samples.num_classes)
    checked, rates = CheckedFiles((), {}), list[DecoderRate]()
    with progress("Measuring", None) as update_bar, tempfile.TemporaryDirectory() as folder:
        update_bar(advance=0, note="files")
        if type(samples) is SampleList:  # others lie in archives, which loaders read as they are
            positions = list(spread(len(samples)))
            checked = _check(options, modality, samples, positions, shares["check"])
            options = _with_list(options, samples, positions, checked, Path(folder) / "sample.csv")
            if decoders is not None:
                update_bar(advance=0, note="decoders")
                rates = compare_decoders(decoders, options, checked.good, shares["decoders"])
        update_bar(advance=0, note="model")
        model = measure_model(options, modality, device, shares["model"])
        update_bar(advance=0, note="loaders")
        loading: dict[str, Any] = {"prefetch": PREFETCH, "max_broken_share": 1.0}
        if decoders is not None and (best := best_decoder(rates)) is not None:
            loading[decoders.key.rsplit(".", 1)[-1]] = best
        with ExitStack() as opened:
            sources = [_sources(options, modality, num, loading, opened) for num in workers]
            measure_loaders([one for pair in sources for one in pair], shares["loaders"])
            loaders = [LoaderRate(train.workers, train.per_second, test.per_second) for train, test in sources]
            batch = next(sources[0][0].batches)
        update_bar(advance=0, note="training")
        # A step costs about three times a test, for every grid; it is made twice.
        expected = 6 * len(options.grids) * len(batch) / model.inputs_per_second[options.grids[0].name]
        if expected > max(shares["training"], seconds - (time.perf_counter() - begin)):
            why = f"two steps take about {expected:.0f} s, more than is left of --seconds {seconds:g}"
            model = replace(model, not_trained=why)
        else:
            try:
                rate = measure_training_step(options, modality, device, batch, shares["training"])
                model = replace(model, training_per_second=rate)
            except UserError as error:
                model = replace(model, not_trained=str(error))
    return DataSpeed(
        listed=len(samples),
        files=checked,
        decoders=rates,
        loaders=loaders,
        model=model,
        device=device_name(device),
        key=decoders.key if decoders is not None else None,
        remedy=decoders.remedy if decoders is not None else "",
        seconds=time.perf_counter() - begin,
    )


@torch.inference_mode()
def measure_model(options: Run, modality: Modality[Run], device: torch.device, seconds: float) -> ModelRates:
    """Classify noise as a test does it, for about `seconds`, each kind of call in turn; once each in any case."""
    model, assigner = build(options, modality)
    networks = AdaptiveClassifier(model, assigner).to(device).eval()
    dtype = "float32" if options.run.dtype == "auto" else options.run.dtype
    batch = min(options.test.batch_size, LARGEST_BATCH.get(device.type, 4))
    inputs = noise(modality.input_shape(options), batch, device, "float32")
    longest = networks.grids[0]
    calls: dict[str, Callable[[], Any]] = {longest.name: lambda: networks.model(inputs, longest)}
    if assigner is not None:
        calls[EVEN] = even_pass(networks, inputs)
    with autocast(device, dtype):
        times = time_rounds(calls, device, MOST_CALLS, warm_up=1, seconds=seconds)
    num_inputs = {longest.name: batch, EVEN: batch * len(networks.grids)}
    rates = {name: num_inputs[name] / one.median for name, one in times.items()}
    return ModelRates(dtype, batch, modality.num_views(options), rates)


def measure_training_step(
    options: Run, modality: Modality[Run], device: torch.device, batch: Batch, seconds: float
) -> float:
    """Return samples per second of updates on a batch that the training loader gave, losses of all grids and the optimiser
    included.

    Raises:
        UserError: the run cannot be trained as it stands (a teacher that is not there).
    """
    if not len(batch):
        raise UserError("no sample of the training loader's first batch could be read")
    step = training_step(options, modality, batch.to(device), device, options.run.dtype, augment=True)
    calls = {"step": partial(step, Progress(0, 0.0, 0.5))}
    times = time_rounds(calls, device, MOST_CALLS, warm_up=1, seconds=seconds)
    return len(batch) / times["step"].median


def _check(
    options: Run, modality: Modality[Run], samples: SampleList, positions: Sequence[int], seconds: float
) -> CheckedFiles:
    with closing(modality.inputs(options).open("test")) as reader:
        paths = list(dict.fromkeys(samples.path(position) for position in positions))
        checked = check_files(paths, reader.read, seconds)
    if not checked.good:
        path, reason = next(iter(checked.broken.items()))
        raise UserError(
            f"{samples.source}: none of the {len(checked.broken)} files tried can be read; the first, {path}: {reason}"
        )
    return checked


def spread(num: int) -> Iterator[int]:
    """Yield positions of a list, each once, at most `MOST_FILES`: however many are taken, they lie all over it."""
    golden = (5**0.5 - 1) / 2
    yield from dict.fromkeys(int(num * ((number * golden) % 1)) for number in range(MOST_FILES))


def _sources(
    options: Run, modality: Modality[Run], workers: int, loading: dict[str, Any], opened: ExitStack
) -> tuple[Source, Source]:
    """Return a training and a test loader, which end with `opened`."""
    pixels = int(np.prod(modality.input_shape(options)))
    train = min(options.train.batch_size, max(1, BATCH_BYTES // pixels))
    test = min(options.test.batch_size, max(1, BATCH_BYTES // pixels // modality.num_views(options)))
    data: Any = options.data  # of either modality, which has a section on loading
    chosen = _with_data(options, loading=data.loading.model_copy(update={**loading, "num_workers": workers}))
    return (
        opened.enter_context(closing(Source(modality.train_loader(chosen, "train", train), workers))),
        opened.enter_context(closing(Source(modality.eval_loader(chosen, "test", test), workers))),
    )


def _with_list(options: Run, samples: SampleList, positions: Sequence[int], checked: CheckedFiles, path: Path) -> Run:
    """Return options with a list of the files that can be read, over and over, under the names that they have."""
    good = set(checked.good)
    kept = [position for position in positions if samples.path(position) in good]
    lines = [f"{samples.name(position)}\t{samples.label_text(position)}\n" for position in kept]
    write_lines(path, lines * -(-LINES // len(lines)))
    places = dict.fromkeys(("train", "val", "test"), str(path))
    return _with_source(options, **places, prefix=samples.root, separator="\t")


def _with_data(options: Run, **changes: Any) -> Run:
    return options.model_copy(update={"data": options.data.model_copy(update=changes)})


def _with_source(options: Run, **changes: Any) -> Run:
    return _with_data(options, source=options.data.source.model_copy(update=changes), demo=None)


def _with_classes(options: Run, num: int | None) -> Run:
    return options.model_copy(update={"model": options.model.model_copy(update={"num_classes": num})})
