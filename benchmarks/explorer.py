"""How long the explorer's page takes to answer a slider: from the key press to the drawn figures, in headless Chromium.

    python benchmarks/explorer.py [RECORD] [--chromium PATH]
"""

import argparse
import shutil
import subprocess
import sys

import numpy as np
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", nargs="?", default="fits/reset02_design")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    asked = parser.parse_args()
    command = [sys.executable, "-m", "thymodel", "explore", asked.record, "--port", "0", "--no-browser"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    address = next(line.split()[0] for line in served.stdout if line.startswith("http://"))
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=asked.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address)
            page.wait_for_selector("figure[data-name=dose_response]:not(.waiting)", timeout=120_000)
            for key in ("dose.progenitors", "age"):
                # two ways of 15 steps, with another day between them, so that no end is met and no view comes back
                took = [_answered(page, key, "ArrowLeft") for _ in range(15)]
                _answered(page, "day.progenitors", "ArrowRight")
                took += [_answered(page, key, "ArrowRight") for _ in range(15)]
                print(f"{key}: median {np.median(took):.0f} ms, 90% {np.quantile(took, 0.9):.0f} ms, "
                      f"longest {max(took):.0f} ms of {len(took)} answers, none seen before")
            browser.close()
    finally:
        served.terminate()
        served.wait()


def _answered(page, key: str, arrow: str) -> float:
    """One step of a slider, once the page rests."""
    page.wait_for_timeout(200)
    page.wait_for_selector("figure[data-name=dose_response]:not(.waiting)", timeout=120_000)
    before = page.get_attribute("body", "data-answers")
    page.locator(f"[id='{key}']").press(arrow)
    page.wait_for_selector(f"body:not([data-answers='{before}'])", timeout=120_000)
    return float(page.get_attribute("body", "data-took"))


if __name__ == "__main__":
    main()
