"""Screenshots of the painting page in its main states, from the real server with mini, small enough for a README."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, COLOURS = 860, 224
ROWS = (0.19, 0.31, 0.44, 0.56, 0.69)
HEART = [(x, row) for number, row in enumerate(ROWS) for x in ((0.2, 0.5) if number % 2 == 0 else (0.5, 0.2))]


def main(out: Path) -> None:
    """Start a server, paint the heart, and write ``edited.png`` and ``slider.png``."""
    out.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "riebench", "paint", "--port", "0"]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(120_000)
            page.goto(address)
            paint_the_heart(page)
            write(page, out / "edited.png")
            page.check("input[value=slider]", force=True)
            page.select_option("#theme", "dark")
            write(page, out / "slider.png")
        finally:
            browser.close()
            server.terminate()


def paint_the_heart(page: Any) -> None:
    """A layer with the feature that turns red violet, painted over the heart, and its card."""
    page.select_option("#site", "up.0.0")
    page.fill("#query", "240")
    page.wait_for_selector("#list .row[data-number='240']:only-child")
    page.click("#list .row[data-number='240'] .add")
    page.click("#list .row[data-number='240'] .choose")
    page.fill("[aria-label='strength of layer 1, exact']", "16")
    page.keyboard.press("Enter")
    page.wait_for_selector("#card .tops canvas >> nth=8")
    box = page.locator("#over").bounding_box()
    for number, (x, y) in enumerate(HEART):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    page.fill("#query", "")
    page.click("text=Show its effect alone")
    page.wait_for_selector("#card .strip canvas >> nth=6")
    page.wait_for_selector("#scores:not(.old) .reader .changed")
    page.mouse.move(5, 5)


def write(page: Any, file: Path) -> None:
    """Write a screenshot of the page, smaller and with few colours."""
    page.wait_for_timeout(400)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        small = image.convert("RGB").resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
