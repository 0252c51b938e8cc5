"""What tools/convert_clips.py does to a data set that is slow to read: size, and how much faster clips are read.

    python benchmarks/converting.py [--files 12] [--json OUT]

Makes files of 1280x720 pixels, 10 seconds, with a key frame every 250 (x264's default): a texture as pictures have it
(amplitudes fall with frequency) that a camera pans over, an object on its own way before it, and grain. Then it converts them
with the tool's defaults, which reads both in turn by one processor and prints what it measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import convert_clips

from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.errors import UserError

HEIGHT, WIDTH, FRAMES, RATE = 720, 1280, 300, 30
PAN = 160
"""Pixels that the camera moves from the middle, at most."""
OBJECT = (200, 260)
GRAIN = 3.0
"""Standard deviation in grey levels."""


def texture(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """RGB (height, width, 3) whose amplitudes are inverse to frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    planes = [
        np.real(np.fft.ifft2(np.fft.fft2(random.normal(size=(height, width))) / frequency)) for _ in range(3)
    ]
    light, red, blue = ((plane - plane.mean()) / plane.std() for plane in planes)
    picture = np.stack([120 + 45 * light + 10 * red, 110 + 45 * light, 100 + 45 * light + 10 * blue], axis=-1)
    return picture.clip(0, 255).astype(np.uint8)


def make_video(path: Path, seed: int, num_frames: int = FRAMES) -> None:
    """One file of the set."""
    random = np.random.default_rng(seed)
    scene = texture(random, HEIGHT + 2 * PAN, WIDTH + 2 * PAN)
    thing = texture(random, *OBJECT)
    grain = random.normal(0, GRAIN, (4, HEIGHT, WIDTH, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"g": "250", "preset": "veryfast", "crf": "23"}
        for number in range(num_frames):
            top, left = _way(PAN, number / 33 + seed), _way(PAN, number / 40 + seed)
            frame = scene[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
            y, x = (
                round((side - own) / 2 * (1 + np.sin(number / slow + seed)))
                for side, own, slow in ((HEIGHT, OBJECT[0], 15), (WIDTH, OBJECT[1], 23))
            )
            frame[y : y + OBJECT[0], x : x + OBJECT[1]] = thing
            frame += grain[number % len(grain)]
            picture = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _way(most: int, phase: float) -> int:
    """Where the picture begins in the scene, along one side."""
    return round(most * (1 + np.sin(phase)))


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/converting.py --files 12 --json converting.json")
    arguments.add_argument("--files", type=int, default=12, metavar="N", help="files to make (12)")
    arguments.add_argument("--frames", type=int, default=FRAMES, metavar="T", help="of a file (300)")
    add_json(arguments)
    values = parse(arguments, argv)
    if values.files < 1 or values.frames < 1:
        raise UserError(f"--files {values.files} --frames {values.frames}: at least 1 of each")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(values.files):
            make_video(root / f"{number}.mp4", number, values.frames)
        listing = root / "list.csv"
        listing.write_text("".join(f"{root / f'{number}.mp4'} 0\n" for number in range(values.files)))
        given = [] if values.json is None else ["--json", str(values.json)]
        return convert_clips.main(["--data", str(listing), "--out", str(root / "small"), *given])


if __name__ == "__main__":
    sys.exit(main())
