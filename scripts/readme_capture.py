"""Record the README's animated capture and the still picture beside it: docs/images/clicks.*.

A headless Chromium opens `explorer dashboard`, clicks as a reader would, and is photographed; the
time between two frames of the file is the time that passed, but no pause is longer than it takes
to read the words. Nothing is drawn by hand but the pointer, which a headless browser does not show,
and the line of words below the page. Run with ``make pictures`` after the widget has changed.

    python scripts/readme_capture.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.pages import CURVE, DISTANCES, ERRORS, ExplorerPage  # noqa: E402
from tests.browser.serving import (  # noqa: E402
    browsing,
    dashboard_address,
    dashboard_command,
    find_browser,
    own_folders,
    serving,
)

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1110, "height": 838}
"""Pixels of the page, which are shown one to one in a README."""

COLOURS = 192
LONGEST = 0.4
"""Seconds that a frame without words to read stays at most; a busy machine takes longer to draw."""

LARGEST = 2_000_000
"""Bytes of the animated file."""

STAGE = """
document.head.insertAdjacentHTML("beforeend", `<style>
  #pointer { position: fixed; z-index: 99; pointer-events: none; left: 0; top: 0;
    filter: drop-shadow(0 1px 1px #0008) }
  #pointer circle { opacity: 0 } #pointer.down circle { opacity: .55 }
  #words { position: fixed; z-index: 98; left: 0; right: 0; bottom: 0; height: 40px;
    background: #1b2a3a; color: #fff; font: 600 18px/40px "DejaVu Sans", Arial, sans-serif;
    text-align: center }
</style>`)
document.body.insertAdjacentHTML("beforeend", `<div id="words"></div>
  <svg id="pointer" width="34" height="34" viewBox="-8 -8 26 26"><circle r="7" fill="#f80"/>
  <path d="M0 0V15L4 11.5 7 18 9.5 17 6.6 10.6 12 10.4Z" fill="#fff" stroke="#000"/></svg>`)
const pointer = document.getElementById("pointer")
Element.prototype.scrollIntoView = () => {}  // the page of the capture stands still
const down = on => () => pointer.classList.toggle("down", on)
addEventListener("pointermove", ({clientX: x, clientY: y}) => {
  pointer.style.transform = `translate(${x - 10.5}px, ${y - 10.5}px)` }, true)
addEventListener("pointerdown", down(true), true)
addEventListener("pointerup", () => setTimeout(down(false), 350), true)
"""
"""The pointer, and the line of words."""

STORY = (
    ("Click: layer1 back to its first values …", "layer1 is critical:", 0),
    ("layer4 back to its first values …", "layer4 moved farthest and is robust:", 3),
    ("Ctrl-click: layer3 as well …", "Each alone is robust; together:", 2, "Control"),
)
"""What is said before a click, and before the error that came out; the row; a key held down."""


@dataclass(frozen=True)
class Frame:
    """What the page looked like."""

    then: float
    """Seconds of a clock."""

    longest: float
    """Seconds that it stays at most."""

    shown: Image.Image
    """The page."""


@dataclass
class Recording:
    """A page, and what it looked like when."""

    watched: ExplorerPage
    frames: list[Frame] = field(default_factory=list)
    """What it looked like; one for each change."""

    longest: float = LONGEST
    """Of the frames that follow."""

    at: tuple[float, float] = (SIZE["width"] / 2, SIZE["height"] - 90)
    """Where the pointer is."""

    def look(self) -> None:
        """Keep what the page shows, if it has changed."""
        now = time.monotonic()
        shown = Image.open(io.BytesIO(self.watched.page.screenshot())).convert("RGB")
        if not self.frames or ImageChops.difference(shown, self.frames[-1].shown).getbbox():
            self.frames.append(Frame(now, self.longest, shown))

    def wait(self, seconds: float) -> None:
        """Let time pass, looking."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            self.watched.page.wait_for_timeout(20)

    def say(self, words: str, seconds: float) -> None:
        """Put words below the page, and leave time to read them."""
        self.longest = max(seconds, LONGEST)
        self.watched.page.evaluate("text => { words.textContent = text }", words)
        self.wait(seconds)

    def move(self, goal: tuple[float, float]) -> None:
        """Move the pointer in a few steps."""
        (x, y), (to_x, to_y) = self.at, goal
        for share in (0.3, 0.7, 1):
            self.watched.page.mouse.move(x + share * (to_x - x), y + share * (to_y - y))
            self.look()
        self.at = goal

    def click(self, x: float, y: float, *keys: str) -> None:
        """Move the pointer to a cell of the heatmap of errors and click it."""
        goal = self.watched.place(x, y)
        self.move(goal)
        for key in keys:
            self.watched.page.keyboard.down(key)
        self.watched.page.mouse.click(*self.at)
        for key in keys:
            self.watched.page.keyboard.up(key)

    def step_aside(self) -> None:
        """Take the pointer, and what a cell says under it, off the heatmap."""
        self.move((SIZE["width"] - 40, SIZE["height"] - 60))


def main() -> None:
    """Record, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for both files")
    out = parser.parse_args().out
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    with tempfile.TemporaryDirectory() as folder:
        home, log = Path(folder), Path(folder) / "log"
        with (
            serving(dashboard_command(), own_folders(home), home, log) as server,
            browsing(executable) as chromium,
        ):
            page = ExplorerPage(chromium.new_context(viewport=SIZE).new_page())
            page.page.goto(dashboard_address(server, log))
            page.wait_for_figures(ERRORS, DISTANCES, CURVE)
            page.wait_for_status("Ready on")
            page.wait_for(
                "label => Bokeh.index && ![...Bokeh.index].find(view =>"
                "  view.model.html_attributes['aria-label']?.startsWith(label))"
                "  .model.renderers[1].data_source.data.text.includes('–')",
                DISTANCES,
            )
            frames = act(Recording(page))
    write(frames, out)


def act(recording: Recording) -> list[Frame]:
    """Click three cells as a reader would; return the frames, the last with its end."""
    page = recording.watched
    page.page.evaluate(STAGE)
    page.page.mouse.move(*recording.at)
    recording.say("Each cell: the test error with one layer put back to an earlier epoch", 2.2)
    for words, verdict, row, *keys in STORY:
        recording.say(words, 0.2)
        recording.click(0, row, *keys)
        together = ", ".join(f"layer{at + 1}" for at in ([2, 3] if keys else [row]))
        said = page.wait_for_status(f"{together} ← epoch 0: test error", "1,800 of 1,800 examples")
        recording.step_aside()
        recording.say(f"{verdict} {said.partition(': ')[2].partition(' (')[0]}", 2.3)
    return [*recording.frames, Frame(time.monotonic(), 0, recording.frames[-1].shown)]


def write(frames: list[Frame], out: Path) -> None:
    """Write clicks.gif, and its last frame as clicks.png."""
    still = frames[-1].shown
    still.quantize(COLOURS).save(out / "clicks.png", optimize=True)
    palette = still.quantize(COLOURS, dither=Image.Dither.NONE)
    first, *others = (
        frame.shown.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames[:-1]
    )
    lasting = [
        round(1000 * min(after.then - frame.then, frame.longest))
        for frame, after in itertools.pairwise(frames)
    ]
    path = out / "clicks.gif"
    first.save(path, save_all=True, append_images=others, duration=lasting, loop=0, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        sys.exit(f"{path.name} has {size:,} bytes; at most {LARGEST:,} were meant.")
    print(f"{path.name}: {len(lasting)} frames, {sum(lasting) / 1000:.1f} s, {size:,} bytes")


if __name__ == "__main__":
    main()
