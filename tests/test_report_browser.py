"""The report in a real browser: no console errors, nothing cut off, narrow and wide, light and dark."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.commands import Ended, the_run
from tests.helpers.reports import bake_random, small_model, write_report_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Counts the elements that are wider than the frame, outside of scrolling boxes, once the page is loaded.
PROBE = """
<iframe style="border: 0; width: WIDTHpx; height: 900px" srcdoc="PAGE"></iframe>
<script>
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const wide = [...page.body.querySelectorAll("*")].filter(
    (one) => !one.parentElement.closest(".scroll") && one.getBoundingClientRect().right > root.clientWidth + 0.5);
  const broken = [...page.images].filter((one) => !one.complete || !one.naturalWidth);
  const style = page.defaultView.getComputedStyle(page.body);
  document.title = [root.clientWidth, root.scrollWidth, wide.length, broken.length, page.images.length,
    style.backgroundColor].join(" | ");
};
</script>
"""


def probe_page(page: str, width: int, dark: bool, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Open a page in a frame of that width; return the values of the probe and the lines of the console."""
    assert CHROMIUM is not None
    probe = PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(page))
    head = '<!DOCTYPE html><html style="color-scheme: light dark"><head><meta charset="utf-8"><title></title></head>'
    (tmp_path / "probe.html").write_text(f'{head}<body style="margin: 0">{probe}</body></html>', encoding="utf-8")
    options = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    done = subprocess.run(
        [
            CHROMIUM,
            *(f"--{option}" for option in [*options.split(), "disable-sync", "hide-scrollbars"]),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={max(width, 500)},900",
            "--enable-logging=stderr",
            "--dump-dom",
            (tmp_path / "probe.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (title,) = re.findall("<title>(.*)</title>", done.stdout)[:1]
    return title.split(" | "), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 400, 1400])
@pytest.mark.parametrize("which", ["finished", "long names"])
def test_browser_shows_the_whole_page_without_errors(
    finished: tuple[Ended, Path], tmp_path: Path, which: str, width: int, dark: bool
) -> None:
    run = the_run(finished[1])
    if which == "long names":
        run = Path(shutil.copytree(run, tmp_path / "run"))
        data = bake_random(tmp_path / "set", [f"{'long' * 20} {label}" for label in range(31)])
        write_report_of(run, data, small_model(data))
    page = (run / "report.html").read_text(encoding="utf-8")
    (there, taken, wide, broken, images, ground), console = probe_page(page, width, dark, tmp_path)
    assert console == []
    assert (int(there), int(wide), int(broken)) == (width, 0, 0)
    assert int(taken) <= width
    assert int(images) > 30
    assert ground == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")
