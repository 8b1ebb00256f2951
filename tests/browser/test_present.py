"""`smmu-lab present` for real: large, by keyboard, asking nobody outside, and gone when told to."""

import json
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.browser.driving import private

pytestmark = pytest.mark.browser

COMMAND = [sys.executable, "-P", "-c", "from smmu_lab.cli import main; main()", "present", "--no-browser"]
SETTING = ["qemu-today", "vcmdq", "--by", "short-path", "--pages", "8", "--no-ril", "--set", "workload.ops=40"]
SMALLEST = """view => Math.min(...[...document.querySelectorAll(`header *, ${view} *`)]
    .filter(node => node.checkVisibility() && [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim()))
    .map(node => parseFloat(getComputedStyle(node).fontSize) * node.currentCSSZoom))"""


@pytest.fixture
def present(tmp_path):
    """present(*options) -> (process, what it says, mark): all processes that it starts have the mark."""
    started = []

    def start(*options):
        mark = f"SMMU_LAB_TEST={uuid.uuid4()}"
        home, here = tmp_path / "home", tmp_path / "here"
        here.mkdir(exist_ok=True)
        (here / "voila.py").write_text("raise SystemExit('the current folder is nobody to take settings from')")
        env = {**private(home), "TMPDIR": str(here), **dict([mark.split("=")])}
        process = subprocess.Popen(
            [*COMMAND, *options], cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline(), mark

    yield start
    for process in started:
        process.kill()
        process.communicate()


def alive(mark: str) -> list[str]:
    """The processes whose environment has a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in folder.joinpath("environ").read_bytes().split(b"\0"):
                found.append(folder.joinpath("cmdline").read_text().replace("\0", " "))
        except OSError:  # it is gone, or another account's
            pass
    return found


def test_a_review_by_keyboard(present, page, serious, tmp_path):
    process, address, mark = present(*SETTING)
    assert address.startswith("http://127.0.0.1:")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(address)
    page.wait_for_selector('.explorer svg[data-pages="8"]')

    pages = page.get_by_label("Pages per unmap")
    pages.press("ArrowRight")
    page.wait_for_selector('.explorer svg[data-pages="16"]')
    page.wait_for_selector('.explorer .result[data-level="full"]')
    picture = page.locator(".explorer svg[data-pages]").bounding_box()
    assert picture["y"] + picture["height"] <= 720
    assert page.evaluate(SMALLEST, ".explorer") >= 16
    assert serious(page, "body") == []

    page.get_by_role("link", name="Microscope").press("Enter")
    page.get_by_role("link", name="Microscope").and_(page.locator("[aria-current=page]")).wait_for()
    microscope = page.locator(".microscope")
    microscope.press("ArrowRight")
    page.wait_for_selector('.microscope[data-event="1"]')
    microscope.press("ArrowLeft")
    page.wait_for_selector('.microscope[data-event="0"]')
    assert not page.locator(".explorer").is_visible()
    assert page.evaluate("scrollY") == 0
    assert page.evaluate(SMALLEST, ".microscope") >= 16
    assert serious(page, "body") == []
    tick = page.locator(".microscope .axis text", has_text="100 µs")  # what is larger is still met by the pointer
    at, canvas = tick.bounding_box(), page.locator(".microscope canvas").bounding_box()
    page.mouse.click(at["x"] + at["width"] / 2, canvas["y"] + 5)
    assert 60_000 < float(microscope.get_attribute("data-time")) <= 102_000

    page.get_by_role("button", name="Full screen").press("Enter")
    page.wait_for_function("document.fullscreenElement === document.documentElement")
    assert (page.outside, page.errors, page.complaints) == ([], [], [])

    assert any("ipykernel" in each for each in alive(mark))
    process.terminate()
    assert process.wait(30) == 0
    assert alive(mark) == []
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["voila.py"]


def test_ctrl_c_ends_it(present):
    process, said, mark = present(*SETTING, "--json")
    assert json.loads(said)["address"].startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert (process.stdout.read(), process.stderr.read(), alive(mark)) == ("", "", [])


def test_who_does_not_know_the_token_gets_no_kernel(present):
    _, address, mark = present(*SETTING)
    for path in ("/", "/api/kernels"):
        with urllib.request.urlopen(urllib.parse.urljoin(address, path), timeout=30) as answer:
            assert urllib.parse.urlsplit(answer.url).path == "/login"
    assert not any("ipykernel" in each for each in alive(mark))


def test_a_port_that_is_taken_is_said(present):
    _, address, _ = present(*SETTING)
    port = str(urllib.parse.urlsplit(address).port)
    second, said, _ = present(*SETTING, "--port", port)
    assert second.wait(30) == 2
    assert (said, second.stderr.read()) == ("", f"smmu-lab: port: {port} is not valid: Address already in use\n")
