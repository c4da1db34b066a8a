"""Fetching from a hub of our own on this machine: revisions, hashes, going on after a break."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from riebench.util.errors import UserError
from riebench.weights.fetch import _download, read_ledger
from riebench.weights.parts import Download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"[PAD]\n" * 999,
    "model.safetensors": b"not asked for",
}
TRUNK = bytes(range(256)) * 400


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, and one plain file; no request leaves this machine."""

    asked: list[tuple[str, str | None]]

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        Hub.asked.append((self.path, self.headers.get("Range")))
        if re.match(r"/api/models/google-bert/bert-base-uncased/revision/", self.path):
            files = [{"rfilename": name, "size": len(data)} for name, data in CONTENT.items()]
            self.send({}, json.dumps({"id": "x", "sha": COMMIT, "siblings": files}).encode(), body)
            return
        name = self.path.rpartition("/")[2]
        data = TRUNK if name.startswith("trunk") else CONTENT.get(name)
        if data is None:
            self.send_error(404)
            return
        etag = hashlib.sha256(data).hexdigest()
        self.send({"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data, body)

    def send(self, headers: dict[str, str], data: bytes, body: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            self.wfile.write(data[start:])


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(hub: str, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "HF_ENDPOINT": hub,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PATH": "",
        "HOME": str(root),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "riebench", "fetch", "sdxl-turbo", "--weights", str(root / "w"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_part_from_the_hub(hub: str, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "--part", "text-encoder")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "w" / "grounding-dino" / "bert-base-uncased"
    assert (folder / "vocab.txt").read_bytes() == CONTENT["vocab.txt"]
    assert not (folder / "model.safetensors").exists()
    kept = read_ledger(tmp_path / "w")["text-encoder"]
    assert kept["revision"] == COMMIT
    assert kept["files"]["config.json"] == hashlib.sha256(CONTENT["config.json"]).hexdigest()
    # The branch is asked for once; from then on the commit that it was.
    Hub.asked.clear()
    (folder / "vocab.txt").unlink()
    assert fetch(hub, tmp_path, "--part", "text-encoder").returncode == 0
    described = [path for path, _ in Hub.asked if path.startswith("/api/models")]
    assert [path.partition("?")[0].rpartition("/")[2] for path in described] == [COMMIT]
    assert [path.rpartition("/")[2] for path, _ in Hub.asked if "/resolve/" in path] == ["vocab.txt"] * 2  # HEAD, GET


def test_no_hub(tmp_path: Path) -> None:
    done = fetch("http://127.0.0.1:9", tmp_path, "--part", "text-encoder")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = fetch("http://127.0.0.1:9", tmp_path, "--part", "text-encode")
    assert "did you mean 'text-encoder'" in wrong.stderr


def test_a_file_goes_on_where_it_stopped(hub: str, tmp_path: Path) -> None:
    source = Download(f"{hub}/trunk.pth", hashlib.sha256(TRUNK).hexdigest()[:8])
    target = tmp_path / "lpips" / "trunk.pth"
    target.parent.mkdir()
    target.with_name("trunk.pth.part").write_bytes(TRUNK[:1000])
    seen: list[int] = []
    _download(source, target, lambda name, done, total: seen.append(done))
    assert target.read_bytes() == TRUNK
    assert Hub.asked == [("/trunk.pth", "bytes=1000-")]
    assert seen[-1] == len(TRUNK)
    _download(source, target, lambda *_: None)
    assert len(Hub.asked) == 1


def test_a_file_that_is_another_is_put_aside(hub: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 00000000"):
        _download(Download(f"{hub}/trunk.pth", "00000000"), tmp_path / "trunk.pth", lambda *_: None)
    assert not (tmp_path / "trunk.pth").exists()
    with pytest.raises(UserError, match="404"):
        _download(Download(f"{hub}/nothing", "00"), tmp_path / "nothing", lambda *_: None)
