"""The painting page's server: answers, the queue, who is let in, bad requests by the thousand, and how it ends."""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from paint_helpers import Served, serving
from PIL import Image

from riebench.models.devices import weights_fingerprint
from riebench.paint import BrushMask, State, picture
from riebench.paint.guard import Access, allowed_name
from riebench.paint.listening import listen
from riebench.paint.queue import MOST_WAITING, Busy, Dropped, Queue, Rank, Ticket
from riebench.paint.server import page_files
from riebench.paint.studio import Studio
from riebench.util.errors import UserError

ROOT = Path(__file__).parents[1]
HEART = np.zeros((8, 8), bool)
HEART[1:6, 1:5] = True
STATE = State.model_validate(
    {
        "prompt": "a red heart in a meadow",
        "seed": 3,
        "layers": [
            {"site": "up.0.0", "feature": 240, "unit": 100.0, "strength": 4.0, "mask": BrushMask.of(HEART).model_dump()}
        ],
    }
)
BODY = STATE.model_dump()
POSTS = ("picture", "scores", "active", "effect", "region", "python")


@pytest.fixture(scope="module")
def served(studio: Studio) -> Iterator[Served]:
    with serving(studio) as found:
        yield found


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- answers -------------------------------------------------------------------------------------------------------


def test_pictures_and_the_rest(served: Served, studio: Studio) -> None:
    answer = served.ask("/api/picture", BODY)
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(answer.body), picture(studio.model, STATE))
    [facts] = served.ask("/api/models").json
    assert (facts["name"], facts["size"], facts["masker"]) == ("mini", 128, True)
    assert [site["site"] for site in facts["sites"]] == ["down.2.1", "mid.0", "up.0.0", "up.0.1"]
    word = served.ask("/api/features?model=mini&site=up.0.0&sort=score").json["rows"][0]["label"].split()[1]
    listed = served.ask(f"/api/features?model=mini&site=up.0.0&find={word}&sort=score").json
    assert 0 < listed["matches"] <= len(listed["rows"]) < listed["total"] == 384
    assert len(served.ask("/api/features?model=mini&site=up.0.0&start=200").json["rows"]) == 184
    card = served.ask(f"/api/feature?model=mini&site=up.0.0&number={listed['rows'][0]['number']}").json
    assert card["label"] == listed["rows"][0]["label"]
    top = served.ask(f"/api/top?model=mini&site=up.0.0&number={card['tops'][0]['picture']}")
    assert pixels(top.body).shape == (128, 128, 3)
    active = served.ask("/api/active", {"state": BODY, "site": "up.0.0", "x": 0.3, "y": 0.5}).json
    assert active["features"][0]["number"] == 240
    mask = served.ask("/api/region", {"state": BODY, "site": "mid.0", "phrase": "heart", "rows": 8, "columns": 8}).json
    assert BrushMask.model_validate(mask).cells().sum() > 4
    scores = served.ask("/api/scores", BODY).json
    assert set(scores) == {"missing", "clip", "lpips", "reader"}
    number = card["number"]
    strip = served.ask("/api/effect", {"model": "mini", "site": "up.0.0", "feature": number, "seed": 1})
    assert pixels(strip.body).shape == (128, 7 * 128, 3)
    assert b"riebench.load('mini')" in served.ask("/api/python", BODY).body
    assert served.ask("/api/progress").json == {}


def test_the_page_and_its_headers(served: Served) -> None:
    files = page_files()
    assert {"/", "/main.js", "/paint.css", "/base.css", "/common.js"} <= set(files)
    for path, (data, kind) in files.items():
        answer = served.ask(path)
        assert answer.body == data
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        text = data.decode().replace("http://www.w3.org", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2fserver.py",
        "/%2e%2e/server.py",
        "/page/main.js",
        "//etc/passwd",
        "/main.js/..",
        "/x",
    ],
)
def test_no_path_opens_a_file(served: Served, path: str) -> None:
    answer = served.ask(path)
    assert answer.status == 404
    assert len(answer.body) < 200


def test_wrong_kinds_of_requests(served: Served) -> None:
    assert served.ask("/api/picture").status == 405
    assert served.ask("/api/models", {}).status == 405
    assert served.ask("/api/picture", BODY, client="").status == 400
    assert served.ask("/api/picture", BODY, client="<script>").status == 400
    assert served.ask("/api/picture", BODY, Content_Type="text/plain").status == 415
    assert served.ask("/api/picture", b" " * 1_000_001).status == 413
    for query in ("", "?model=mini", "?model=mini&site=up.0.0&number=-1", "?model=mini&site=up.0.0&number=999"):
        assert served.ask(f"/api/feature{query}").status == 422
    assert (
        "unknown model of this server 'min'; did you mean 'mini'?"
        in served.ask("/api/feature?model=min&site=up.0.0&number=1").said
    )
    assert served.ask("/api/features?model=mini&site=up.0.0&sort=colour").status == 422
    assert served.ask("/api/top?model=mini&site=up.0.0&number=9999999").status == 422
    wrong = {**BODY, "layers": [{**BODY["layers"][0], "feature": 10**6}]}
    assert "there is no feature 1000000" in served.ask("/api/picture", wrong).said
    assert (
        "finds no 'star'"
        in served.ask("/api/region", {"state": BODY, "site": "mid.0", "phrase": "star", "rows": 8, "columns": 8}).said
    )


def test_only_the_own_page_may_ask(served: Served) -> None:
    own = f"http://127.0.0.1:{served.port}"
    assert served.ask("/api/models", Origin=own, Sec_Fetch_Site="same-origin").status == 200
    for name in ("localhost", "LocalHost", "[::1]"):
        assert served.ask("/api/models", Host=f"{name}:{served.port}").status == 200
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"127.0.0.1.evil.example:{served.port}"},
        {"Host": "127.0.0.1:1"},
        {"Host": f"localhost.localdomain:{served.port}"},
        {"Host": f"localhost:{served.port}@evil.example"},
        {"Host": f"localhost:{served.port}:{served.port}"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{served.port}"},
        {"Origin": "http://[::1"},
        {"Origin": f"http://127.0.0.1:{served.port}/"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        for path, body in (("/api/models", None), ("/api/picture", BODY)):
            answer = served.ask(path, body, **headers)
            assert answer.status in (403, 421), headers
            assert b"mini" not in answer.body
    assert served.ask("/", Host="evil.example").status == 421
    assert served.ask("/api/picture", BODY, method="OPTIONS", Origin="https://evil.example").status == 403


def test_who_is_refused_is_told_the_option(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    with serving(studio, others=["lab.example", "localhost:9000"]) as served:
        own = f"127.0.0.1:{served.port}"
        for host, origin in (
            ("lab.example", "https://lab.example"),
            ("LAB.example:8443", "https://lab.example:8443"),
            ("localhost:9000", "http://localhost:9000"),
            (own, "https://lab.example"),  # a proxy that sends the server's own Host
        ):
            assert served.ask("/api/models", Host=host, Origin=origin).status == 200, (host, origin)
        for headers, status, name in (
            ({"Host": "localhost:9001"}, 421, "localhost:9001"),
            ({"Host": "Evil.example"}, 421, "evil.example"),
            ({"Host": "lab.example.evil.example"}, 421, "lab.example.evil.example"),
            ({"Host": "[fe80::1]:80"}, 421, "[fe80::1]:80"),
            ({"Host": own, "Origin": "http://localhost:9001"}, 403, "localhost:9001"),
        ):
            answer = served.ask("/", **headers)
            assert answer.status == status
            assert answer.body.decode().endswith(f"--allow-host {name}")
            assert f"--allow-host {name}" in caplog.text
        for headers in (
            {"Host": "a b"},
            {"Host": "\x1b[31m"},
            {"Host": "x" * 5000},
            {"Host": own, "Origin": "ftp://lab.example"},
            {"Host": own, "Origin": "null"},
        ):
            answer = served.ask("/", **headers)
            assert answer.status in (403, 421)
            assert b"--allow-host" not in answer.body
            assert len(answer.body) < 200
        assert "\x1b" not in caplog.text
        for number in range(50):
            served.ask("/", Host=f"h{number}.example")
        assert len(caplog.records) <= 20


@pytest.mark.parametrize(
    "text", ["", "*", "a b", "http://lab.example", "lab.example/", "lab:0", "lab:70000", "a:b", "[::1"]
)
def test_values_of_allow_host_are_names(text: str) -> None:
    with pytest.raises(UserError, match="--allow-host"):
        allowed_name(text)


def test_an_address_of_this_machine_may_be_opened_as_it_is_printed() -> None:
    assert "127.0.0.2:80" in Access.of("127.0.0.2", 80).hosts
    assert {"[::1]:5", "localhost:5"} <= set(Access.of("::1", 5).hosts)
    assert [allowed_name(name) for name in ("Lab.Example:80", "::1", "[::1]:80")] == [
        "lab.example:80",
        "[::1]",
        "[::1]:80",
    ]


def test_who_never_finishes_a_request_is_sent_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riebench.paint.listening.HEAD_SECONDS", 0.2)
    whole = f"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    for begun in (b"", whole[:30], whole + whole[:30]):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(begun)
            with connection.makefile("rb") as answer:
                assert answer.read().startswith(b"HTTP/1.1 200" if len(begun) > len(whole) else b"")


def test_other_addresses_need_the_token(studio: Studio) -> None:
    access = Access.of("0.0.0.0", 1234)
    assert access.token is not None
    assert len(access.token) >= 32
    assert Access.of("127.0.0.1", 1234).token is Access.of("::1", 1234).token is None
    assert Access.of("192.168.1.2", 1234).hosts == ["192.168.1.2:1234"]
    with serving(studio, access) as served:
        for path in ("/", "/main.js", "/api/models", "/?token=wrong", "/api/models?token=" + access.token):
            assert served.ask(path).status == 401
        assert served.ask("/api/models", Cookie=f"{access.cookie}=wrong").status == 401
        welcome = served.ask(f"/?token={access.token}")
        assert (welcome.status, welcome.headers["location"]) == (303, "./")
        cookie = welcome.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert served.ask("/api/models", Cookie=cookie.partition(";")[0]).status == 200


# ---- the queue -----------------------------------------------------------------------------------------------------


def test_the_latest_of_a_client_wins_and_ranks_hold() -> None:
    queue, gate, begun, order = Queue(), threading.Event(), threading.Event(), []

    def held(ticket: Ticket) -> None:
        begun.set()
        gate.wait(10)

    def noting(name: str) -> Any:
        return lambda ticket: order.append(name) or name

    first = queue.submit("a", "held", Rank.picture, held)
    begun.wait(10)
    score = queue.submit("a", "scores", Rank.later, noting("score"))
    old = queue.submit("a", "picture", Rank.picture, noting("old"))
    other = queue.submit("b", "picture", Rank.picture, noting("other"))
    new = queue.submit("a", "picture", Rank.picture, noting("new"))
    assert queue.place("a")["scores"] == {"before": 3, "steps": 0, "of": 0}
    assert old.result.cancelled()
    gate.set()
    assert [t.result.result(10) for t in (first, new, other, score)] == [None, "new", "other", "score"]
    assert order == ["other", "new", "score"]
    assert queue.place("a") == {}
    assert queue.close(10)


def test_work_in_parts_lets_others_first_and_what_nobody_waits_for_ends() -> None:
    queue, order = Queue(), []
    reached, go = threading.Event(), threading.Event()

    def parts(ticket: Ticket) -> Iterator[str]:
        for part in "xyz":
            order.append(part)
            reached.set()
            go.wait(10)
            yield part

    slow = queue.submit("a", "scores", Rank.later, parts)
    reached.wait(10)
    fast = queue.submit("a", "picture", Rank.picture, lambda ticket: order.append("fast"))
    go.set()
    assert slow.result.result(10) == "z"
    assert order == ["x", "fast", "y", "z"]

    stepping = threading.Event()
    ended = threading.Event()

    def steps(ticket: Ticket) -> None:
        try:
            while True:
                ticket.at_step()
                stepping.set()
                time.sleep(0.001)
        except Dropped:
            ended.set()
            raise

    endless = queue.submit("a", "picture", Rank.picture, steps)
    stepping.wait(10)
    assert queue.place("a")["picture"]["steps"] > 0
    queue.drop(endless)
    assert ended.wait(10)
    with pytest.raises(CancelledError):
        endless.result.result(10)
    with pytest.raises(ZeroDivisionError):
        queue.submit("a", "x", Rank.look, lambda ticket: 1 // 0).result.result(10)
    assert fast.result.done()
    assert queue.close(10)


def test_a_line_has_an_end() -> None:
    queue, gate = Queue(), threading.Event()
    for number in range(MOST_WAITING):
        queue.submit(str(number), "held", Rank.picture, lambda ticket: gate.wait(10))
    with pytest.raises(Busy):
        queue.submit("one more", "held", Rank.picture, lambda ticket: None)
    gate.set()
    assert queue.close(10)


def test_later_requests_take_the_place_of_earlier_ones(served: Served, studio: Studio) -> None:
    """Twenty states of one client at once: the last is answered, those before it are dropped or answered."""
    states = [STATE.model_copy(update={"seed": 100 + number}) for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        futures = []
        for one in states:
            futures.append(pool.submit(served.ask, "/api/picture", one.model_dump()))
            time.sleep(0.002)
        answers = [future.result() for future in futures]
    assert {answer.status for answer in answers} <= {200, 409}
    assert any(answer.status == 409 for answer in answers)
    for one, answer in zip(states, answers, strict=True):
        if answer.status == 200:
            assert np.array_equal(pixels(answer.body), picture(studio.model, one))


def test_two_clients_do_not_mix(served: Served, studio: Studio) -> None:
    def paint(client: int) -> None:
        for number in range(6):
            one = STATE.model_copy(update={"seed": 10 * client + number})
            answer = served.ask("/api/picture", one.model_dump(), client=f"client-{client:04d}")
            assert answer.status == 200
            found[client].append((one, pixels(answer.body)))

    found: dict[int, list[tuple[State, np.ndarray]]] = {1: [], 2: []}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(paint, found))
    for one, image in [*found[1], *found[2]]:
        assert np.array_equal(image, picture(studio.model, one))


def test_a_client_that_leaves_is_forgotten(served: Served) -> None:
    gate = threading.Event()
    held = served.queue.submit("somebody-else", "held", Rank.picture, lambda ticket: gate.wait(20))
    body = json.dumps(BODY).encode()
    head = f"POST /api/picture HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nX-Client: leaving-soon\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as leaving:
        leaving.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: served.queue.place("leaving-soon") != {})
    wait_until(lambda: served.queue.place("leaving-soon") == {})
    gate.set()
    held.result.result(20)


def wait_until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


# ---- bad requests --------------------------------------------------------------------------------------------------

WEIRD: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**9, 10**400, 1e308, -0.0, "", "x" * 3000, "../../etc/passwd", "\0", "<img src=x>"),
    *([], {}, [[]], {"a": {}}, ["x"] * 50, "NaN", "mid.0", "mini", 2**53, [0, 64], [64, -1]),
]


def mutated(rng: random.Random, body: Any) -> Any:
    """A body with something in it replaced, removed or added."""
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = body
        while isinstance(at, (dict, list)) and at and rng.random() < 0.75:
            key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
            if not isinstance(at[key], (dict, list)) or not at[key]:
                break
            at = at[key]
        if isinstance(at, dict) and at:
            key = rng.choice([*at, "extra"])
            if rng.random() < 0.2:
                at.pop(key, None)
            else:
                at[key] = copy.deepcopy(rng.choice(WEIRD))
        elif isinstance(at, list) and at:
            at[rng.randrange(len(at))] = copy.deepcopy(rng.choice(WEIRD))
    return body


def fuzzed(rng: random.Random, route: str) -> bytes:
    """Mostly broken bodies, some valid ones, some that are no JSON."""
    layers = [
        {
            **BODY["layers"][0],
            "strength": rng.uniform(-5, 5),
            "feature": rng.randrange(500),
            "site": rng.choice(["mid.0", "up.0.1"]),
        }
        for _ in range(rng.choice((0, 1, 3)))
    ]
    state = {**BODY, "seed": rng.randrange(1000), "layers": layers}
    asked: dict[str, Any] = {
        "active": {"state": state, "site": "up.0.0", "x": rng.random(), "y": rng.random()},
        "effect": {"model": "mini", "site": "mid.0", "feature": 500, "seed": 0},
        "region": {
            "state": state,
            "site": "mid.0",
            "phrase": rng.choice(["heart", "star", "x" * 300]),
            "rows": 8,
            "columns": 8,
        },
    }
    body = asked.get(route, state)
    kind = rng.random()
    if kind < 0.05:
        return json.dumps(body).encode()
    if kind < 0.8:
        return json.dumps(mutated(rng, body)).encode()
    text = json.dumps(body).encode()
    if kind < 0.9:
        return text[: rng.randrange(len(text))]
    return rng.choice(
        [b"", b"\xff" * 50, b"[" * 50_000, b"{}", b"NaN", b'{"a":' * 20_000, rng.randbytes(200), b"1e999"]
    )


def test_a_thousand_requests(served: Served, studio: Studio) -> None:
    """No trace of the program, no growth, and the model as before."""
    modules = {name: part for name, part in studio.model.pipeline.components.items() if hasattr(part, "state_dict")}

    def fingerprints() -> dict[str, str]:
        return {name: weights_fingerprint(part) for name, part in modules.items()}

    before, image, process = fingerprints(), served.ask("/api/picture", BODY).body, psutil.Process()
    rng = random.Random(5)
    statuses: dict[int, int] = {}
    for number in range(1100):
        if number == 100:  # caches are full by now
            gc.collect()
            memory = process.memory_info().rss
        route = rng.choice(POSTS)
        answer = served.ask(f"/api/{route}", fuzzed(rng, route), client=f"client-{rng.randrange(5):05d}")
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status in (200, 413, 422), (route, answer)
        if answer.status != 200:
            assert set(answer.json) == {"error"}
            assert len(answer.said) < 700
            for trace in ("Traceback", "riebench/", ".py", "pydantic", "\n"):
                assert trace not in answer.said, answer.said
    gc.collect()
    growth = process.memory_info().rss / memory
    print(f"{statuses}, memory x {growth:.3f}")
    assert statuses[200] > 30
    assert statuses[422] > 800
    assert growth < 1.10
    assert fingerprints() == before
    assert served.ask("/api/picture", BODY).body == image


def test_faults_of_the_program_are_not_told(
    served: Served, studio: Studio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(studio, "run", fail)
    answer = served.ask("/api/picture", BODY)
    assert (answer.status, answer.said) == (500, "the server failed at this request; its terminal shows why")
    wait_until(lambda: "a secret" in caplog.text)
    monkeypatch.undo()
    assert served.ask("/api/picture", BODY).status == 200


# ---- the program ---------------------------------------------------------------------------------------------------


def started(*words: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "riebench", "paint", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_program_begins_and_ends(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(STATE.model_dump_json())
    with started("--port", "0", "--open", "state.json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[2]
        assert address.startswith("http://127.0.0.1:")
        assert "#s=" in address
        port = int(address.split(":")[2].split("/")[0])
        taken = started("--port", str(port))
        _, err = taken.communicate(timeout=600)
        assert taken.returncode == 2
        assert (
            err == f"riebench: the port {port} at 127.0.0.1 is taken; give another with --port, or 0 for a free one\n"
        )
        with socket.create_connection(("127.0.0.1", port)):  # somebody who never finishes a request
            asked = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
            seconds = time.monotonic() - asked
        assert process.returncode == 130
        assert err == ""
        print(f"ended after {seconds:.2f} s")
        listen("127.0.0.1", port).close()
