"""Fetching from a stand-in of the hub on this machine: revisions, hashes, errors in one line."""

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
from riebench.weights.fetch import ProgressLines, _from_address, read_ledger
from riebench.weights.fetch import fetch as fetch_here
from riebench.weights.parts import Download, Part

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = "vocab.txt"
DETECTOR = "groundingdino_swint_ogc.pth"
CONTENT = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"[PAD]\n" * 999,
    "model.safetensors": b"not asked for",
    DETECTOR: b"another detector",
}
TRUNK = bytes(range(256)) * 400


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, and one plain file; no request leaves this machine."""

    asked: list[tuple[str, str]]
    served: dict[str, bytes]
    sizes: dict[str, int]

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        Hub.asked.append((self.command, self.path.partition("?")[0]))
        if "/FLUX.1-schnell/" in self.path:  # as the hub refuses those who have not accepted a licence
            self.send({"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"}, b"", body, 401)
            return
        if re.match("/api/models/.*/revision/", self.path):
            self.send({}, json.dumps({"id": "x", "sha": COMMIT}).encode(), body)
            return
        if re.match("/api/models/.*/tree/", self.path):
            self.send({}, json.dumps([described(name, data) for name, data in CONTENT.items()]).encode(), body)
            return
        revision, name = self.path.split("/")[-2:]
        data = TRUNK if name.startswith("trunk") else Hub.served.get(name)
        if data is None:
            self.send_error(404)
            return
        sizes = {"X-Linked-Size": str(Hub.sizes[name])} if name in Hub.sizes else {}
        self.send({"ETag": f'"{described(name, data)["oid"]}"', "X-Repo-Commit": revision, **sizes}, data, body)

    def send(self, headers: dict[str, str], data: bytes, body: bool, status: int = 200) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def described(name: str, data: bytes) -> dict[str, object]:
    """A file as the hub lists it: with git's hash, or with its SHA-256 where it is stored in LFS."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": oid}
    if name == LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked, Hub.served, Hub.sizes = [], dict(CONTENT), {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(hub: str, root: Path, *words: str, model: str = "sdxl-turbo") -> subprocess.CompletedProcess[str]:
    environment = {
        "HF_ENDPOINT": hub,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PATH": "",
        "HOME": str(root),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "riebench", "fetch", model, "--weights", str(root / "w"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command says, which is one line."""
    assert done.returncode == 2, done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("riebench: ")]
    [line] = [line for line in messages if not line.endswith(" GB to download")]
    assert "Traceback" not in done.stderr
    return line


def test_a_part_from_the_hub(hub: str, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "--part", "text-encoder")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "w" / "grounding-dino" / "bert-base-uncased"
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]
    assert not (folder / "model.safetensors").exists()
    assert read_ledger(tmp_path / "w")["text-encoder"]["revision"] == COMMIT
    assert "bert-base-uncased: 4 files, 0.0 GB to download" in done.stderr
    assert "\r" not in done.stderr  # a log is lines
    # The branch is asked for once; from then on it is the commit that it was, and only missing files are fetched.
    Hub.asked.clear()
    (folder / LARGE).unlink()
    assert fetch(hub, tmp_path, "--part", "text-encoder").returncode == 0
    assert not [path for _, path in Hub.asked if "/revision/main" in path]
    assert [path.rpartition("/")[2] for verb, path in Hub.asked if verb == "GET" and "/resolve/" in path] == [LARGE]


@pytest.mark.parametrize("name", [LARGE, "config.json"])
def test_a_file_of_the_hub_that_is_another(hub: str, tmp_path: Path, name: str) -> None:
    Hub.served[name] = bytes(len(CONTENT[name]))
    said = one_line(fetch(hub, tmp_path, "--part", "text-encoder"))
    folder = tmp_path / "w" / "grounding-dino" / "bert-base-uncased"
    assert f"{name} has the hash" in said
    assert not (folder / name).exists()
    assert (folder / f"{name}.damaged").is_file()
    Hub.served[name] = CONTENT[name]
    assert fetch(hub, tmp_path, "--part", "text-encoder").returncode == 0
    assert (folder / name).read_bytes() == CONTENT[name]


def test_a_hash_of_our_own(hub: str, tmp_path: Path) -> None:
    """A hash in the table of parts counts, even if the hub has the file under another one."""
    assert "expected 3b3ca2563c77c69f" in one_line(fetch(hub, tmp_path, "--part", "detector"))
    assert not (tmp_path / "w" / "grounding-dino" / DETECTOR).exists()


def test_no_room(hub: str, tmp_path: Path) -> None:
    Hub.sizes[LARGE] = 10**17
    said = one_line(fetch(hub, tmp_path, "--part", "text-encoder"))
    assert "GB free, 100000000.0 GB are needed; name another --weights" in said
    assert ("GET", LARGE) not in [(verb, path.rpartition("/")[2]) for verb, path in Hub.asked]


def test_a_gated_repository(hub: str, tmp_path: Path) -> None:
    said = one_line(fetch(hub, tmp_path, "--part", "model", model="flux-schnell"))
    page = "https://huggingface.co/black-forest-labs/FLUX.1-schnell"
    assert f"accept its licence at {page} and log in with 'hf auth login' (or set HF_TOKEN); then fetch again" in said


def test_no_hub(tmp_path: Path) -> None:
    said = one_line(fetch("http://127.0.0.1:9", tmp_path, "--part", "text-encoder"))
    assert "bert-base-uncased cannot be fetched: [Errno 111]" in said
    wrong = fetch("http://127.0.0.1:9", tmp_path, "--part", "text-encode")
    assert "did you mean 'text-encoder'" in wrong.stderr


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file")
    said = one_line(fetch("http://127.0.0.1:9", tmp_path, "--part", "text-encoder"))
    assert "cannot be made" in said
    assert "name another --weights" in said


def test_a_file_from_an_address(hub: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(TRUNK).hexdigest()
    source, target = Download(f"{hub}/trunk.pth", digest[:8]), tmp_path / "trunk.pth"
    assert _from_address(source, target) == digest
    assert target.read_bytes() == TRUNK
    assert _from_address(source, target) == digest
    assert len(Hub.asked) == 1


def test_a_file_from_an_address_that_is_another(hub: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='expected "00000000"'):
        _from_address(Download(f"{hub}/trunk.pth", "00000000"), tmp_path / "trunk.pth")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="404"):
        _from_address(Download(f"{hub}/nothing", "00"), tmp_path / "nothing")
    (tmp_path / "trunk.pth").write_bytes(TRUNK[:100])
    with pytest.raises(UserError, match=r"expected 00000000; it is now .*damaged"):
        _from_address(Download(f"{hub}/trunk.pth", "00000000"), tmp_path / "trunk.pth")


def test_what_another_fetch_notes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (Part(name, name, (), Download(f"http://nowhere/{name}", ""), 1, ()) for name in ("one", "other"))

    def download(source: Download, target: Path) -> str:
        if source.name == "one":
            list(fetch_here([other], tmp_path))
        return source.name

    monkeypatch.setattr("riebench.weights.fetch._from_address", download)
    list(fetch_here([one], tmp_path))
    assert read_ledger(tmp_path).keys() == {"one", "other"}


def test_progress_is_lines_in_a_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("riebench.weights.fetch.EVERY", 0.0)
    with ProgressLines(total=10, desc="bytes", mininterval=0, miniters=1) as bar:
        for _ in range(10):
            bar.update(1)
    assert "bytes:  50%" in caplog.text
    assert "\r" not in caplog.text
    caplog.clear()
    monkeypatch.setattr("riebench.weights.fetch.EVERY", 20.0)
    ProgressLines(total=10).update(10)
    assert not caplog.records
