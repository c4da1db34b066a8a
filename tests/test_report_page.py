"""The HTML page in a real browser: filters, deep links, hover, hostile prompts, many pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_helpers import record, write_run

from riebench.records import Record
from riebench.report.written import write_report

HOSTILE = "a [duck] </script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


def many(pairs: int, methods: tuple[str, ...], strengths: tuple[float, ...] = (0, 1, 2)) -> list[Record]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(pairs):
        more: dict[str, Any] = {"category": 1 + i % 3, "prompt": HOSTILE if i == 0 else f"a [duck] {i}"}
        found.append(record(f"p{i:03d}", 0.5, 0.0, method="none", options={}, **more))
        for m, method in enumerate(methods):
            for strength in strengths:
                clip = 0.5 + 0.1 * strength + 0.01 * m + 0.01 * float(rng.normal())
                truth = {"edit_success": float(strength > 1), "kept": 1.0}
                found.append(
                    record(f"p{i:03d}", clip, 0.2 * strength, method=method, strength=strength, truth=truth, **more)
                )
    found.append(
        record("p001", None, None, method="sae", strength=9, category=2, prompt="a [duck] 1", reason="<b>no</b>")
    )
    return found


def page_of(folder: Path, records: list[Record]) -> Path:
    """A report of a run whose pictures are all the same file."""
    run = write_run(folder / "run", records)
    (run / "images").mkdir()
    first = run / "images" / "first.png"
    Image.new("RGB", (64, 64), "teal").save(first)
    for pair in {r.pair_id for r in records}:
        for name in ("base", "source", "mask-base", "mask-source"):
            (run / "images" / f"{pair}-{name}.png").hardlink_to(first)
    for r in records:
        if r.status == "ok":
            (run / "images" / f"{r.pair_id}-{r.key}.png").hardlink_to(first)
    write_report([run], folder / "out", figures=False)
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("page"), many(9, ("sae", "steering")))


@pytest.fixture
def opened(browser: Any, small: Path) -> Iterator[Any]:
    """The page with everything that goes wrong in it."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda request: page.wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(small.as_uri())
    yield page
    assert page.wrong == []
    page.close()


def card(page: Any, index: int) -> Any:
    """A card of the gallery, once it is near enough to be filled."""
    found = page.locator(f"#card-{index}")
    found.evaluate("card => card.scrollIntoView()")
    found.locator(".prompts").wait_for()
    return found


def cards(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(".card", "all => all.map(c => c.getAttribute('aria-label').slice(5))")
    return found


def test_filters(opened: Any) -> None:
    assert len(cards(opened)) == 9
    opened.select_option("#by-category", "add object")
    assert cards(opened) == ["p001", "p004", "p007"]
    assert opened.inner_text("#count") == "3 of 9 pairs"
    opened.select_option("#by-method", "sae")
    opened.select_option("#by-strength", "2")
    first = card(opened, 1)
    assert first.locator(".strip").count() == 2  # references, and sae
    assert "strength 2" in first.inner_text()
    assert "strength 1" not in first.inner_text()
    opened.select_option("#by-strength", "9")
    assert cards(opened) == ["p001"]
    assert "failed: <b>no</b>" in card(opened, 1).inner_text()
    opened.click("#reset")
    assert len(cards(opened)) == 9


def test_lowest_and_highest_first(opened: Any) -> None:
    opened.select_option("#by-method", "sae")
    opened.select_option("#by-strength", "1")
    values: dict[str, list[float]] = {}
    for order in ("clip_text_edit lowest", "clip_text_edit highest", "lpips_base lowest"):
        opened.select_option("#by-sort", order)
        texts = []
        for name in cards(opened):
            caption = card(opened, int(name[1:])).locator("figcaption", has_text="CLIP").first.inner_text()
            texts.append(float(caption.split("CLIP ")[1].split()[0]))
        values[order] = texts
    assert values["clip_text_edit lowest"] == sorted(values["clip_text_edit lowest"])
    assert values["clip_text_edit highest"] == sorted(values["clip_text_edit lowest"], reverse=True)


def test_prompts_stay_text(opened: Any) -> None:
    assert opened.evaluate("window.broken") is None
    assert "</script><script>window.broken = 1</script>" in card(opened, 0).inner_text()
    assert opened.locator("#cards script, #cards img[src='x']").count() == 0


def test_deep_link(browser: Any, small: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{small.as_uri()}#pair=p007")
    page.wait_for_timeout(200)
    assert page.locator(".aimed").get_attribute("aria-label") == "pair p007"
    assert 0 <= page.locator(".aimed").bounding_box()["y"] < 900
    page.select_option("#by-category", "change object")
    page.evaluate("location.hash = 'pair=p004'")  # not among those shown: the filters give way
    page.wait_for_timeout(200)
    assert page.locator(".aimed").get_attribute("aria-label") == "pair p004"
    page.evaluate("location.hash = 'pair=nobody'")
    page.wait_for_selector("#unknown:not([hidden])")
    assert "nobody" in page.inner_text("#unknown")
    page.close()


def test_hover_and_keyboard_show_pairs_and_interval(opened: Any) -> None:
    points = opened.locator("#chart .point")
    before = points.count()
    assert before == 7  # three strengths of two methods, and none
    opened.locator("#chart .point[aria-label^='steering, mid.0, strength 2']").hover()
    assert "9 pairs" in opened.inner_text("#tip")
    assert "CLIP 0.7" in opened.inner_text("#tip")
    assert " to " in opened.inner_text("#tip")
    points.first.focus()
    assert opened.is_visible("#tip")
    opened.uncheck("#curve-methods input[value=steering]")
    assert points.count() == 4
    opened.select_option("#curve-category", "add object")
    opened.locator("#chart .point").last.hover()
    assert "3 pairs" in opened.inner_text("#tip")


def test_intervals_of_the_steps_are_chosen_where_there_are_several(browser: Any, small: Path, tmp_path: Path) -> None:
    records = [
        record(pair, 0.5 + slope * strength, 0.2 * strength, strength=strength, on_steps=on_steps, steps=4)
        for pair in "ab"
        for on_steps, slope in (((0,), 0.1), ((1, 2, 3), 0.2), (None, 0.3))
        for strength in (0, 1)
    ]
    page = browser.new_page()
    page.goto(page_of(tmp_path, records).as_uri())
    assert page.locator("#curve-steps option").all_inner_texts() == ["each interval", "0", "1-3", "all"]
    points = page.locator("#chart .point")
    assert points.count() == 6
    page.select_option("#curve-steps", "1-3")
    assert points.count() == 2
    assert points.last.get_attribute("aria-label").startswith("sae steps 1-3, mid.0, strength 1\n2 pairs")
    assert card(page, 0).locator(".strip").count() == 4  # references, and three intervals
    page.select_option("#by-steps", "0")
    assert card(page, 0).locator(".who").all_inner_texts() == ["references", "sae steps 0, mid.0"]
    page.goto(small.as_uri())
    assert not page.is_visible("#curve-steps")
    assert not page.is_visible("#by-steps")
    page.close()


SCROLLING = """() => new Promise(done => {
  const times = [];
  let last = performance.now();
  const step = now => {
    times.push(now - last);
    last = now;
    window.scrollBy(0, 200);
    times.length < 120 ? requestAnimationFrame(step) : done(times);
  };
  window.scrollTo(0, 0);
  requestAnimationFrame(step);
})"""


def test_many_pairs_stay_fluid(browser: Any, tmp_path: Path) -> None:
    """300 pairs x 7 methods: the page holds the pictures near the window alone, and frames stay short."""
    methods = ("sae", "steering", "neurons", "random", "sae-adaptive", "mine", "yours")
    file = page_of(tmp_path, many(300, methods, (1,)))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(file.as_uri())
    assert page.locator(".card").count() == 300
    assert page.locator("img").count() < 300
    page.evaluate("window.scrollTo(0, document.body.scrollHeight / 2)")
    page.wait_for_timeout(300)
    middle = page.locator(".card", has=page.locator("img"))
    assert middle.count() < 30
    assert page.locator("#cards img").first.evaluate("image => image.complete && image.naturalWidth > 0")
    frames = page.evaluate(SCROLLING)
    assert sorted(frames)[len(frames) // 2] < 60, frames  # milliseconds, on a machine that is busy with other tests
    page.close()


def test_every_name_of_a_method_has_its_colour(tmp_path: Path) -> None:
    """Also that of a method outside the denoiser, which has a mark, and those with a k."""
    points = [(pair, s, s / 4, (0.25,) if s == 1 else None) for pair in "ab" for s in (0.0, 1.0)]
    records = [
        record(pair, 0.5 + s / 10, lpips, options={"k": k}, strength=s, at_lpips=tried)
        for pair, s, lpips, tried in points
        for k in (5, 9)
    ]
    records += [
        record(pair, 0.5 + s / 10, lpips, method="paste", strength=s, at_lpips=tried, notes={"acts": "outside"})
        for pair, s, lpips, tried in points
    ]
    text = page_of(tmp_path, records).read_text(encoding="utf-8")
    for name in ("sae", "sae k=5", "paste", "paste †"):
        assert re.search(rf'<span class="dot"[^>]*></span>{name}<', text), name


def test_the_pictures_that_count_are_marked(tmp_path: Path) -> None:
    """One picture where it meets the LPIPS that ranks, the two between which the score is read otherwise."""
    records = [
        record("a", 0.501546 + lpips, lpips, strength=s, at_lpips=(0.1,) if s == 1.5 else None)
        for s, lpips in ((1.0, 0.05), (1.5, 0.1), (2.0, 0.3))
    ]
    records += [record("b", 0.5 + lpips, lpips, strength=s) for s, lpips in ((1.0, 0.05), (2.0, 0.3), (3.0, 0.4))]
    text = page_of(tmp_path, records).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert data["budget"] == 0.1
    assert data["pairs"][0]["records"][0][3][data["metrics"].index("clip_text_edit")] == 0.551546  # rounded once, there
    assert {p["id"]: [(r[2], r[6]) for r in p["records"]] for p in data["pairs"]} == {
        "a": [(1.0, 0), (1.5, 1), (2.0, 0)],
        "b": [(1.0, 2), (2.0, 2), (3.0, 0)],
    }
