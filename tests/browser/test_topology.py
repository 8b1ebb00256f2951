"""The machine in a real browser: walked by keyboard, opened by click, told as Python tells it, and lasting."""

import pytest

import smmu_lab
from smmu_lab.charts.gather import gather
from smmu_lab.view.machine_live import cells

pytestmark = pytest.mark.browser

SETTING = "topology='per-smmu', guests=2, vcpus=2, workload=lab.unmaps(pages=1, ops=70), smmu=lab.Smmu(queue_log2=7)"
EVIL = "<img src=x onerror=boom()><b>"
EVIL_TOPOLOGY = {
    "name": EVIL,
    "layouts": [{"vsmmus": [{"name": f"{EVIL}!", "devices": [{"vsid": 8, "name": EVIL, "domain": EVIL[::-1]}]}]}],
}
CELLS = (
    "import smmu_lab as lab",  # by itself: whoever opens the notebook clicks it
    f"run = lab.simulate(lab.Scenario({SETTING}), 'vcmdq')\nlab.show_topology(run)",
    f"lab.show_topology(lab.Scenario(topology={EVIL_TOPOLOGY!r}), lab.approach('batched').but(title={EVIL!r}))",
)
BOX = "[data-cell][aria-label^='{}, ']"
PICTURE = 'img[src^="data:image/svg"]'
LIT = """el => [...el.querySelectorAll(".lit [data-cell].on")].map(
    box => box.getAttribute("aria-label").split(", ")[0])"""


@pytest.fixture
def machine():
    """The same machine as in the notebook, and what Python says of each part, by name."""
    lab = smmu_lab
    shown = lab.show_topology(lab.simulate(eval(f"lab.Scenario({SETTING})", {"lab": lab}), "vcmdq"))
    return {cell["title"]: cell for cell in cells(shown, gather(shown.graph, shown.bottleneck))}


def test_a_machine_is_walked_and_opened_and_it_lasts(lab, page, machine, serious):
    page.set_viewport_size({"width": 1280, "height": 720})
    notebook = lab.write("machine.ipynb", *CELLS)
    lab.open(page, notebook)
    lab.run_all(page)
    view, evil = (page.locator(".topology").nth(k) for k in (0, 1))
    evil.locator("[data-cell]").first.wait_for()
    hold_to_python(page, view, machine)
    walk_by_keys(page, view, machine)
    point(page, view, machine)
    hold_names_to_be_text(page, evil)
    assert view.locator("svg").first.evaluate("svg => svg.clientWidth > svg.parentElement.clientWidth")
    assert view.evaluate("el => el.scrollWidth <= el.clientWidth")  # the picture scrolls, not the cell
    view.locator(BOX.format("guest0.vsmmu0.vcmdq0")).click(position={"x": 10, "y": 8})
    page.wait_for_selector('.topology[data-selected="guest0.vsmmu0.vcmdq0"]')
    for dark in (False, True):
        lab.dark(page, dark)
        assert serious(page, ".topology") == []
    hold_what_is_open_to_survive(lab, page, notebook)
    assert page.outside == []
    assert page.errors == []
    assert page.complaints == []
    hold_picture_to_last(lab, page, notebook)


def hold_to_python(page, view, machine):
    """A click opens what Python says, registers included; another one's details take their place."""
    for name in ("guest0.vsmmu0.vcmdq0", "guest1.vcpu0", "smmu1", "guest1"):
        box = view.locator(BOX.format(name))
        (box.locator("text").first if name == "guest1" else box).click(position={"x": 10, "y": 8})
        page.wait_for_selector(f'.topology[data-selected="{name}"]')
        panel, cell = view.locator(".panel"), machine[name]
        assert panel.get_attribute("aria-label") == f"Details of {name}"
        assert panel.locator("dt").all_inner_texts() == [label for label, _ in cell["rows"]]
        assert panel.locator("dd").all_inner_texts() == [value for _, value in cell["rows"]]
        said = panel.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.children].map(each => each.textContent))"
        )
        assert said == [list(row) for sheet in cell["sheets"] for row in sheet["rows"]]
        assert panel.locator(".drawing svg").count() == bool(cell["svg"])
        assert view.locator('[aria-expanded="true"]').count() == 1
    registers = machine["guest0.vsmmu0.vcmdq0"]["sheets"][0]
    assert [row[2:] for row in registers["rows"]] == [("0x8c", "12", "1")] * 2  # 70 unmaps of 2 entries, in 128


def walk_by_keys(page, view, machine):
    """Along a layer and from one to the next; Enter opens, Escape closes, and the focus stays on the box."""
    name = "el => document.activeElement.getAttribute('aria-label').split(', ')[0]"
    view.locator(BOX.format("guest0.vcpu0")).focus()
    page.keyboard.press("ArrowDown")
    assert view.evaluate(name) == "guest0.vcpu1"
    page.keyboard.press("ArrowUp")
    way = [view.evaluate(name)]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        way.append(view.evaluate(name))
    kinds = [machine[each]["kind"] for each in way]
    assert way[:3] == ["guest0.vcpu0", "guest0.d0", "guest0.vsmmu0"]
    assert kinds[-1] == "passthrough device"
    view.locator(BOX.format("guest0.vcpu0")).focus()
    page.keyboard.press("ArrowLeft")
    assert view.evaluate(name) == "guest0"
    page.keyboard.press("ArrowRight")
    assert view.locator('[data-cell][tabindex="0"]').count() == 1
    for key in ("Enter", " "):
        page.keyboard.press(key)
        page.wait_for_selector('.topology[data-selected="guest0.vcpu0"]')
        assert view.locator(".panel").is_visible()
        page.keyboard.press("Escape")
        page.wait_for_selector('.topology[data-selected=""]')
        assert not view.locator(".panel").is_visible()
        assert view.evaluate(name) == "guest0.vcpu0"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # to the details, whose first control closes them
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close the details"
    page.keyboard.press("Enter")
    page.wait_for_selector('.topology[data-selected=""]')


def point(page, view, machine):
    """The way of a command stands out: what is on it, and the edges between; nothing else."""
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_selector('.topology[data-lit=""]')
    assert view.evaluate(LIT) == []
    view.locator(BOX.format("guest0.vsmmu1.vcmdq1")).hover(position={"x": 60, "y": 8})
    page.wait_for_selector('.topology[data-lit="guest0.vsmmu1.vcmdq1"]')
    lit = set(view.evaluate(LIT))
    assert lit == {
        *("guest0.vcpu1", "guest0.d1", "guest0.vsmmu1", "guest0.vsmmu1.vcmdq1", "guest0.vsmmu1.vintf"),
        *("smmu1", "guest0.vsmmu1.pcie.vf1"),
    }
    ends = view.locator("[data-way].on path[data-from]").evaluate_all(
        "paths => paths.map(path => [path.dataset.from, path.dataset.to])"
    )
    assert {end for pair in ends for end in pair} <= lit
    assert ["guest0.d1", "guest0.vsmmu1"] in ends
    page.mouse.move(0, 0)
    page.wait_for_selector('.topology[data-lit=""]')


def hold_names_to_be_text(page, view):
    """Whatever things are called, it is text: in the picture, in labels, in details."""
    box = view.locator("[data-cell]").filter(has=page.locator("rect[data-name*='.pcie.']"))
    box.click()
    page.wait_for_selector(".topology[data-selected*='.pcie.']")
    assert EVIL in view.locator(".panel header").inner_text()
    assert EVIL[::-1] in view.locator(".panel dl").inner_text()
    assert f"guest0.{EVIL}!" in view.locator("[data-cell] title").all_text_contents()
    assert EVIL in view.locator(".toolbar").inner_text()
    assert view.locator("img, b").count() == 0
    page.keyboard.press("Escape")


def hold_what_is_open_to_survive(lab, page, notebook):
    """A view that is drawn anew, here of a notebook that is opened again, opens what was open."""
    page.locator(BOX.format("guest0.vsmmu0")).first.click(position={"x": 60, "y": 8})
    page.wait_for_selector('.topology[data-selected="guest0.vsmmu0"]')
    lab.save(page, notebook)
    lab.open(page, notebook)
    page.wait_for_selector('.topology[data-selected="guest0.vsmmu0"]')
    page.wait_for_selector('.panel[aria-label="Details of guest0.vsmmu0"]')


def hold_picture_to_last(lab, page, notebook):
    """Hidden beside the live view; without kernel and widget it shows, even in a notebook that nobody trusts."""
    assert page.locator(PICTURE).count() == 2
    assert not page.locator(PICTURE).first.is_visible()
    lab.save(page, notebook)
    page.goto("about:blank")
    lab.strip_state(notebook)
    lab.stop_kernels()
    lab.open(page, notebook)
    page.locator(PICTURE).first.wait_for()
    assert page.locator(".topology").count() == 0
    assert page.locator(PICTURE).first.evaluate("img => img.naturalWidth") > 800
    assert page.outside == []
