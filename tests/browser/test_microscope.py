"""The microscope in a real browser: every instant is what the journal says, whatever way leads there."""

import json
from itertools import islice

import pytest

import smmu_lab
from smmu_lab.sim.watch import watch

pytestmark = pytest.mark.browser

EVIL = '"><img src=x onerror=alert(1)>'
SCENARIO = "lab.Scenario(workload=lab.unmaps(pages=8, ops=30), smmu=lab.Smmu(ril=False, queue_log2=7), vcpus=4)"
CELL = f"""
import smmu_lab as lab
lab.microscope(lab.simulate({SCENARIO}, lab.approach("short-path").but(name={EVIL!r})))
"""
EL = ".microscope"
TEXTS = "node => [...node.querySelectorAll('p, li, .slots button, .names span')].map(each => each.textContent)"


@pytest.fixture(scope="module")
def journal():
    scenario = eval(SCENARIO, {"lab": smmu_lab})
    return watch(smmu_lab.simulate(scenario, "short-path"))


@pytest.fixture
def microscope(lab, page, request):
    page.notebook = lab.write(f"{request.node.name}.ipynb", CELL)
    lab.open(page, page.notebook)
    lab.run_all(page)
    page.wait_for_selector(f"{EL}[data-event='0']")
    yield page
    assert page.outside == []
    assert page.errors == []
    assert page.complaints == []


def told(page) -> dict:
    return page.locator(EL).evaluate("node => ({...node.dataset})")


def state(page) -> list:
    """All that is shown: words, slots with their looks, lanes as pixels."""
    pixels = page.locator(f"{EL} canvas").evaluate("canvas => canvas.toDataURL()")
    looks = page.locator(f"{EL} .slots button").evaluate_all("all => all.map(slot => slot.className)")
    return [told(page), page.locator(EL).evaluate(TEXTS), looks, pixels]


def test_every_instant_is_what_the_journal_says(microscope, journal, lab):
    page = microscope
    el = page.locator(EL)
    el.scroll_into_view_if_needed()
    assert "<img" not in el.inner_html()
    assert EVIL in el.locator(".title").inner_text()

    # by keyboard: n steps forward, and each is the next event, with the registers of the journal
    el.focus()
    start, times = state(page), []
    for number in range(1, 41):
        page.keyboard.press("ArrowRight")
        now = told(page)
        assert now["event"] == str(number)
        times.append(int(now["time"]))
        assert (int(now["prod"]), int(now["cons"])) == journal.at(0, times[-1])
    stamps = {
        time
        for table, name in (("lists", "asked"), ("moves", "time"), ("spans", "end"))
        for time in journal.tables[table][name]
    }
    assert times == sorted(set(times))
    assert {time for time in stamps if 0 < time <= times[-1]} <= set(times)

    # n steps back are the start again, to the pixel
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert state(page) == start

    # what an instant shows does not hang on how one came there
    page.keyboard.press("End")
    end = state(page)
    page.keyboard.press("Home")
    assert state(page) == start
    scrub = el.get_by_label("Time", exact=True)
    scrub.evaluate("input => { input.value = input.max; input.dispatchEvent(new Event('input', {bubbles: true})); }")
    assert state(page) == end
    page.keyboard.press("Home")

    # jumps: every doorbell and every CMD_SYNC, in both directions
    doorbells = [move["time"] for move in journal.moves.rows() if move["prod"]]
    syncs = sorted(time for time in journal.lists["seen"] if time >= 0)
    el.focus()
    page.keyboard.press("Home")
    for time in islice(doorbells, 5):
        page.keyboard.press("d")
        assert told(page)["time"] == str(time)
    page.keyboard.press("Shift+D")
    assert told(page)["time"] == str(doorbells[3])
    page.keyboard.press("s")
    assert told(page)["time"] == str(next(time for time in syncs if time > doorbells[3]))
    page.keyboard.press("e")
    assert "No error in this run" in el.locator(".status").inner_text()

    # a breakpoint: it plays until the queue holds so many entries, and stands exactly there
    el.get_by_label("Jump to").select_option("fuller")
    least = el.get_by_label("At least", exact=True)
    assert least.input_value() == "64"  # half of the queue
    el.get_by_role("button", name="Jump on").click()
    assert "never holds more than" in el.locator(".status").inner_text()
    least.fill("18")
    full = next(time for time in doorbells if (at := journal.at(0, time))[0] - at[1] >= 18)
    el.get_by_label("stop there while playing").check()
    el.get_by_label("Speed").select_option("1000000")
    el.focus()
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    page.wait_for_selector(f"{EL}[data-playing='false'][data-time='{full}']")

    # a slot is a command: disassembled where one points, followed where one clicks
    slot = el.locator(".slots button:not(.state0)").first
    slot.hover()
    assert "TLBI_NH_VA" in el.locator(".told").inner_text()
    slot.click()
    steps = el.locator(".followed li")
    assert "the driver begins to write its list" in steps.first.inner_text()
    steps.last.get_by_role("button").click()
    assert int(told(page)["time"]) in syncs
    el.focus()
    page.keyboard.press("ArrowLeft")  # steps through its own stamps only
    assert int(told(page)["time"]) in set(journal.lists["covered"])
    page.keyboard.press("Escape")
    assert steps.count() == 0

    # by mouse: a press on the lanes goes there, a drag goes along
    box = el.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 10)
    page.mouse.down()
    near = int(told(page)["time"])
    page.mouse.move(box["x"] + 200, box["y"] + 10, steps=5)
    assert int(told(page)["time"]) > near
    page.mouse.up()

    # light and dark, and less motion: events one by one
    light = page.locator(f"{EL} canvas").evaluate("canvas => canvas.toDataURL()")
    lab.dark(page)
    page.wait_for_function("light => document.querySelector('.microscope canvas').toDataURL() !== light", arg=light)
    page.emulate_media(reduced_motion="reduce")
    el.focus()
    page.keyboard.press("Home")
    el.get_by_label("stop there while playing").uncheck()
    el.focus()
    page.keyboard.press(" ")
    page.wait_for_selector(f"{EL}[data-event='2']")
    page.keyboard.press(" ")
    assert told(page)["playing"] == "false"
    assert told(page)["frames"] == "0"


def test_it_replays_without_a_kernel(microscope, lab):
    """Reopened without a kernel it is alive, for all it needs is in the notebook; untrusted, it is a picture."""
    page = microscope
    assert page.locator("[data-picture] img").count() == 1
    assert not page.locator("[data-picture] img").is_visible()
    with page.expect_response(lambda r: r.request.method == "PUT" and page.notebook in r.url):
        page.keyboard.press("Control+s")
    page.goto("about:blank")
    for session in json.loads(lab.get("api/sessions")):
        lab.get(f"api/sessions/{session['id']}", "DELETE")
    lab.open(page, page.notebook)
    page.wait_for_selector(f"{EL}[data-event='0']")
    page.locator(EL).focus()
    page.keyboard.press("ArrowRight")
    assert told(page)["event"] == "1"
    assert not page.locator("[data-picture] img").is_visible()

    path = lab.folder / page.notebook
    saved = json.loads(path.read_text())
    del saved["metadata"]["widgets"]
    page.goto("about:blank")
    path.write_text(json.dumps(saved))
    lab.open(page, page.notebook)
    picture = page.locator('img[src^="data:image/svg"]')
    picture.wait_for()
    assert picture.get_attribute("alt").startswith("Replay of 1,080 commands in 120 lists")
    assert picture.evaluate("img => img.naturalWidth") == 860
    assert page.locator(EL).count() == 0
