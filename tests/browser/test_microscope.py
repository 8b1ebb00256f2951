"""The microscope in a real browser: every instant is what the journal says, whatever way leads there."""

from itertools import islice

import pytest

import smmu_lab
from smmu_lab.sim.watch import watch

pytestmark = pytest.mark.browser

EVIL = '"><img src=x onerror=alert(1)>'
SCENARIO = "lab.Scenario(workload=lab.unmaps(pages=8, ops=30), smmu=lab.Smmu(ril=False, queue_log2=7), vcpus=4)"
CELL = f"""
lab.microscope(lab.simulate({SCENARIO}, lab.approach("short-path").but(name={EVIL!r})))
"""
EL = ".microscope"
STEPS = 200  # far enough for the window of slots to move
TEXTS = "node => [...node.querySelectorAll('p, li, .slots button, .names > span')].map(each => each.textContent)"


@pytest.fixture(scope="module")
def journal():
    scenario = eval(SCENARIO, {"lab": smmu_lab})
    return watch(smmu_lab.simulate(scenario, "short-path"))


@pytest.fixture
def microscope(lab, page, request):
    page.notebook = lab.write(
        f"{request.node.name}.ipynb", "import smmu_lab as lab", CELL
    )  # `open` presses the first one
    lab.open(page, page.notebook)
    lab.run_all(page)
    page.wait_for_selector(f"{EL}[data-event='0']")
    yield page
    assert page.outside == []
    assert page.errors == []
    assert page.complaints == []


def told(page) -> dict:
    return page.locator(EL).evaluate("node => ({...node.dataset})")


def middle(page, journal, span) -> tuple[float, float]:
    """Where a span of the second lane is on the screen while the replay is at its start."""
    box = page.locator(f"{EL} canvas").bounding_box()
    seen = float(page.locator(f"{EL} .lanes").get_attribute("data-width"))
    lane = page.locator(f"{EL} .names > span").nth(1).bounding_box()
    across = (span["start"] + span["end"]) / 2 / seen * box["width"]
    return box["x"] + across, lane["y"] + 3 + 15 * span["row"] + 7


def slots(page) -> list:
    """The slots with their looks, and the registers."""
    looks = "all => all.map(slot => slot.className + slot.getAttribute('aria-label'))"
    return [page.locator(f"{EL} .slots button").evaluate_all(looks), page.locator(f"{EL} .circle").inner_html()]


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
    start, times, seen = state(page), [], {}
    for number in range(1, STEPS + 1):
        page.keyboard.press("ArrowRight")
        now = told(page)
        assert now["event"] == str(number)
        times.append(int(now["time"]))
        assert (int(now["prod"]), int(now["cons"])) == journal.at(0, times[-1])
        seen[number] = slots(page)
    stamps = {
        time
        for table, name in (("lists", "asked"), ("moves", "time"), ("spans", "end"))
        for time in journal.tables[table][name]
    }
    assert times == sorted(set(times))
    assert {time for time in stamps if 0 < time <= times[-1]} <= set(times)

    # every instant looks the same on the way back, and n steps back are the start again, to the pixel
    for number in range(STEPS, 0, -1):
        assert slots(page) == seen[number]
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

    # played on, it stands at each doorbell in turn, and never before the last one
    el.get_by_label("Jump to").select_option("doorbell")
    el.focus()
    page.keyboard.press("Home")
    for time in islice(doorbells, 6):
        page.keyboard.press(" ")
        page.wait_for_selector(f"{EL}[data-playing='false'][data-time='{time}']")

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
    far = int(told(page)["time"])
    assert far > near
    page.mouse.move(box["x"] + 201, box["y"] + 10)  # a hand that trembles: what is seen stands still meanwhile
    page.mouse.move(box["x"] + 200, box["y"] + 10)
    assert int(told(page)["time"]) == far
    page.mouse.up()

    # a bar is followed where one presses it with Shift
    page.keyboard.press("Home")
    first = next(span for span in journal.spans.rows() if span["lane"] == 1 and span["thin"])
    page.keyboard.down("Shift")
    page.mouse.click(*middle(page, journal, first))
    page.keyboard.up("Shift")
    assert steps.count() > 4
    el.focus()
    page.keyboard.press("Escape")

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
    lab.save(page, page.notebook)
    page.goto("about:blank")
    lab.stop_kernels()
    lab.open(page, page.notebook)
    page.wait_for_selector(f"{EL}[data-event='0']")
    page.locator(EL).focus()
    page.keyboard.press("ArrowRight")
    assert told(page)["event"] == "1"
    assert not page.locator("[data-picture] img").is_visible()

    page.goto("about:blank")
    lab.strip_state(page.notebook)
    lab.open(page, page.notebook)
    picture = page.locator('img[src^="data:image/svg"]')
    picture.wait_for()
    assert picture.get_attribute("alt").startswith("Replay of 1,080 commands in 120 lists")
    assert picture.evaluate("img => img.naturalWidth") == 860
    assert page.locator(EL).count() == 0
