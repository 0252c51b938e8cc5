"""A standard threaded server around one engine: a thread for every request, and every clip gets its own answer."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from made_videos import Structure, write_video

from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.video import load
from revit.video.modality import build_model
from revit.video.options import VideoRun

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

CONFIG = {
    "kind": "video",
    "data": {
        "frames": {"num_frames": 2, "sampling_rate": 5},
        "pixels": {"crop_size": 32, "jitter_min": 32, "jitter_max": 40},
    },
    "model": {"grids": ["4x4", "2x2"], "embed_dim": 16, "depth": 2, "num_heads": 2},
    "run": {"dir": "unused"},
}
NUM_CLIPS, NUM_REQUESTS, AT_ONCE = 6, 384, 32


def serve(engine) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["clip"][0]
            body = json.dumps(engine(path).as_json()).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 2 * AT_ONCE

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def timeless(answer: dict) -> dict:
    return {key: value for key, value in answer.items() if not key.startswith("ms")}


def test_no_request_is_lost_and_none_gets_another_s_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = VideoRun.model_validate(CONFIG)
    model = build_model(run.model, run.data, 3)
    torch.nn.init.normal_(model.head.weight)
    config = run.model_dump(mode="json")
    save_checkpoint(
        tmp_path / "run" / "checkpoint.safetensors",
        Checkpoint("video", config, ["a", "b", "c"], {"model": model.state_dict()}),
    )
    clips = []
    for number in range(NUM_CLIPS):
        path = tmp_path / f"clip{number}.{'avi' if number % 2 else 'mp4'}"
        structure = Structure("mpeg4" if number % 2 else "h264", num_b=number % 3)
        assert write_video(path, structure, path.suffix[1:], num_frames=8 + 5 * number)
        clips.append(str(path))
    answers: list[tuple[str, dict]] = []
    with load(str(tmp_path / "run"), grid="4x4", dtype="float32", device="cpu", compile="eager") as engine:
        expected = {path: timeless(engine(path).as_json()) for path in clips}
        assert len({json.dumps(one["top"]) for one in expected.values()}) == NUM_CLIPS
        server = serve(engine)
        try:

            def ask(number: int) -> None:
                path = clips[number % NUM_CLIPS]
                url = f"http://127.0.0.1:{server.server_port}/?clip={urllib.parse.quote(path)}"
                with urllib.request.urlopen(url, timeout=60) as response:
                    answers.append((path, timeless(json.loads(response.read()))))

            for begin in range(0, NUM_REQUESTS, AT_ONCE):
                threads = [threading.Thread(target=ask, args=(begin + one,)) for one in range(AT_ONCE)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            server.shutdown()
            server.server_close()
    assert len(answers) == NUM_REQUESTS
    assert all("error" not in answer for _, answer in answers)
    assert [answer for _, answer in answers] == [expected[path] for path, _ in answers]
