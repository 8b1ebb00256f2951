"""The explorer in a real browser: it follows the controls, and what lasts is true."""

import itertools

import pytest

import smmu_lab
from smmu_lab.charts import breakdown

pytestmark = pytest.mark.browser

APPROACHES = ["qemu-today", "native-queue", "short-path", "vcmdq"]
CELL = f"""
import smmu_lab as lab
lab.explore(lab.Scenario(workload=lab.unmaps(pages=16), smmu=lab.Smmu(ril=False), vcpus=4), {APPROACHES})
"""
EVIL = '"><img src=x onerror=alert(1)>'
PICTURE = 'img[src^="data:image/svg"]'
BARS = """svg => Object.fromEntries([...svg.querySelectorAll("g[data-approach]")].map(row => [row.dataset.approach,
    Object.fromEntries([...row.querySelectorAll("rect[data-ns]")].map(bar =>
        [bar.dataset.stage, [Number(bar.dataset.ns), bar.getBoundingClientRect().width]]))]))"""


def opened(lab, page, name, cell):
    """Open a notebook with a live explorer; all of it is simulated."""
    page.notebook = lab.write(f"{name}.ipynb", cell)
    lab.open(page, page.notebook)
    lab.run_all(page)
    page.wait_for_selector('.explorer svg[data-pages="16"][data-level="full"]')


@pytest.fixture
def explorer(lab, page, request):
    """The page with a live explorer."""
    opened(lab, page, request.node.name, CELL)
    yield page
    assert page.outside == []
    assert page.errors == []
    assert page.complaints == []


def hold_to_comparison(page, **state):
    """Wait for the picture of a setting; each bar is as long as the comparison of the same runs says."""
    wanted = "".join(f'[data-{name}="{value}"]' for name, value in state.items())
    svg = page.wait_for_selector(f".explorer svg{wanted}", timeout=15_000)
    shown = svg.evaluate("svg => ({...svg.dataset})")
    scenario = smmu_lab.Scenario(
        workload=smmu_lab.unmaps(pages=int(shown["pages"]), ops=int(shown["operations"]) // int(shown["vcpus"])),
        smmu=smmu_lab.Smmu(ril=shown["ril"] == "True"),
        vcpus=int(shown["vcpus"]),
        costs=shown["costs"],
    )
    drawn = svg.evaluate(BARS)
    assert list(drawn) == APPROACHES
    scales = set()
    samples = smmu_lab.compare(scenario, APPROACHES).samples
    for name, bars in drawn.items():
        stages = {stage: ns for stage, ns in samples[name].breakdown.items() if ns}
        assert {stage: ns for stage, (ns, _) in bars.items()} == pytest.approx(stages, abs=0.01)
        scales.add(sum(px for _, px in bars.values()) / sum(stages.values()))
    assert max(scales) == pytest.approx(min(scales), rel=0.01)


def test_pictures_follow_keyboard_and_mouse_and_everything_can_be_undone(explorer):
    page = explorer
    hold_to_comparison(page, pages=16, ril=False, vcpus=4, costs="grace", level="full")
    pages, vcpus = page.get_by_label("Pages per unmap"), page.get_by_label("vCPUs")

    pages.focus()  # by keyboard
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    hold_to_comparison(page, pages=64, ril=False, vcpus=4, level="full")
    assert pages.get_attribute("aria-valuetext") == "64 (256 KiB)"
    assert pages.evaluate("input => input === document.activeElement")  # the focus outlives the redraw

    at = vcpus.bounding_box()  # by mouse: drag to the far end; while it is held there are previews, which say so
    page.mouse.move(at["x"] + at["width"] * 0.3, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] - 1, at["y"] + at["height"] / 2, steps=12)
    hold_to_comparison(page, pages=64, ril=False, vcpus=16, level="preview")
    page.wait_for_selector('.explorer .result[data-level="preview"][aria-busy="false"]')
    shown = int(page.locator(".explorer svg[data-operations]").get_attribute("data-operations"))
    assert f"Preview: {shown:,} of 16,000 unmaps" in page.locator(".explorer .basis").inner_text()
    assert "preview" in page.locator(".explorer .level").inner_text()
    page.mouse.up()
    hold_to_comparison(page, pages=64, ril=False, vcpus=16, level="full")
    assert "Full run: each bar rests on 16,000" in page.locator(".explorer .basis").inner_text()

    page.get_by_label("Range invalidation").click()
    page.get_by_label("Cost profile").select_option(label="n1")
    hold_to_comparison(page, pages=64, ril=True, vcpus=16, costs="n1", level="full")

    for state in ({"costs": "grace"}, {"ril": False}, {"vcpus": 4, "pages": 64}):  # a held slider is one step
        page.keyboard.press("Control+z")
        page.wait_for_selector(".explorer svg" + "".join(f'[data-{name}="{value}"]' for name, value in state.items()))
    page.keyboard.press("Control+Shift+z")
    page.wait_for_selector('.explorer svg[data-vcpus="16"][data-level="full"]')
    assert vcpus.get_attribute("aria-valuetext") == "16"
    page.get_by_role("button", name="Reset to where").press("Enter")
    hold_to_comparison(page, pages=16, ril=False, vcpus=4, costs="grace", level="full")
    page.get_by_role("button", name="Undo", exact=True).press("Enter")
    page.wait_for_selector('.explorer svg[data-vcpus="16"][data-level="full"]')

    page.evaluate("""() => { window.pictures = 0; new MutationObserver(() => window.pictures++)
        .observe(document.querySelector(".explorer .result"), {childList: true}); }""")
    pages.focus()
    for key in ["ArrowLeft", "ArrowRight"] * 20 + ["End"]:  # a burst makes no backlog
        page.keyboard.press(key)
    page.wait_for_selector('.explorer svg[data-pages="1024"]')
    page.wait_for_selector('.explorer .result[aria-busy="false"]')
    assert page.evaluate("window.pictures") < 25


EVIL_CELL = f"""
import smmu_lab as lab
evil = {EVIL!r}
topology = lab.Topology(name=evil, layouts=lab.Topology.preset("one-smmu").layouts)
scenario = lab.Scenario(workload=lab.unmaps(pages=16, ops=100), topology=topology, vcpus=2)
lab.explore(scenario, ["batched", "short-path", lab.approach("vcmdq").but(name=evil, title=evil)])
"""
APART = """() => {
    const mean = name => Number(document.querySelector(
        `.explorer svg[data-level="full"] g[data-approach="${name}"]`)?.dataset.meanNs);
    return mean("short-path*") > 0 && mean("short-path*") !== mean("short-path"); }"""


def test_hybrids_are_built_by_keyboard_and_what_cannot_be_is_said(lab, page, serious):
    opened(lab, page, "hybrids", EVIL_CELL)
    explorer = page.locator(".explorer")
    entries = explorer.locator(".entry")
    explorer.get_by_role("button", name="Approaches").press("Enter")
    assert entries.count() == 3
    explorer.get_by_role("checkbox", name="qemu-today").press(" ")
    explorer.locator('svg[data-level="full"] g[data-approach="qemu-today"]').wait_for()

    entries.nth(1).locator("summary").press("Enter")
    entries.nth(1).get_by_role("button", name="Add a what-if").press("Enter")
    explorer.locator('svg[data-level="full"] g[data-approach="short-path*"]').wait_for()
    what_if = entries.nth(2)
    completion = what_if.get_by_label("completion of short-path*")
    completion.select_option("kernel-cons")
    page.wait_for_function(APART)
    bars = explorer.locator(".result").inner_html()
    what_if.get_by_label("doorbell of short-path*").select_option("direct")
    what_if.locator(".problem", has_text="'direct' cannot be: it needs consumer 'hardware'").wait_for()
    assert "last setting that was simulated" in explorer.locator(".message").inner_text()
    assert explorer.locator(".result").inner_html() == bars
    assert completion.evaluate("select => select.selectedOptions[0].text") == "kernel-cons"
    for dark in (False, True):
        lab.dark(page, dark)
        assert serious(page, ".explorer") == []
    what_if.get_by_role("button", name="Revert to the row").press("Enter")
    what_if.locator(".problem:empty").wait_for(state="attached")
    explorer.locator(".message:empty").wait_for(state="attached")

    explorer.get_by_role("button", name="Workload").press("Enter")
    assert not what_if.is_visible()  # one group at a time
    explorer.get_by_label("Guest", exact=True).select_option("nvme_dd_r1m_j1_strict_61")
    explorer.locator('svg[data-pages="nvme_dd_r1m_j1_strict_61"]').wait_for()
    pages = explorer.get_by_label("Pages per unmap")
    assert pages.is_disabled()
    assert "a recorded guest does what it did" in explorer.locator(".everyday").inner_text()
    page.keyboard.press("Control+z")
    explorer.locator('svg[data-pages="16"][data-level="full"]').wait_for()
    assert pages.is_enabled()

    for group in ("Machine", "Costs", "Copy as code"):
        explorer.get_by_role("button", name=group).press("Enter")
    page.wait_for_function("document.querySelector('.explorer textarea').value.includes('lab.Scenario(')")
    assert "onerror" in explorer.get_by_label("Python", exact=True).input_value()
    explorer.get_by_role("button", name="Distribution").press("Enter")
    explorer.locator(".result svg polyline, .result svg path").first.wait_for()
    explorer.get_by_role("button", name="Figures").press("Enter")
    explorer.locator("td", has_text="onerror").wait_for()
    assert page.locator('img[src="x"]').count() == 0  # names are text
    assert page.outside == []
    assert page.errors == []
    assert page.complaints == []


def test_the_picture_lasts(explorer, lab):
    """Hidden beside the live widget; without kernel and widget it shows, even in a notebook that nobody trusts."""
    page = explorer
    assert page.locator(PICTURE).count() == 1
    assert not page.locator(PICTURE).is_visible()
    lab.save(page, page.notebook)
    page.goto("about:blank")
    lab.strip_state(page.notebook)
    lab.stop_kernels()
    lab.open(page, page.notebook)
    page.locator(PICTURE).wait_for()
    assert page.locator(".explorer").count() == 0
    assert page.locator(PICTURE).evaluate("img => img.naturalWidth") == 860
    assert page.locator(".jp-OutputArea td").first.inner_text() == APPROACHES[0]


def test_a_stopped_kernel_is_said_in_words(explorer, lab):
    page = explorer
    lab.stop_kernels()
    page.get_by_label("vCPUs").press("ArrowRight")
    page.wait_for_selector('.explorer .message:text("the kernel is busy or stopped")')
    page.complaints.clear()  # JupyterLab itself reports the lost connection


def test_no_label_is_cut_or_covered(page):
    setting = smmu_lab.Scenario(workload=smmu_lab.unmaps(pages=256, ops=8), smmu=smmu_lab.Smmu(ril=False), vcpus=8)
    runs = {name: smmu_lab.simulate(setting, name) for name in [*APPROACHES, "short-path-trapped-cons"]}
    for width in (480, 679, 680, 860, 1200):
        page.set_content(f"<body style='margin:0'>{breakdown(runs, width)}")
        boxes = page.evaluate("""() => [...document.querySelectorAll("text")].map(text => {
            const {left, right, top, bottom} = text.getBoundingClientRect();
            return [text.textContent, left, right, top, bottom]; })""")
        height = page.evaluate("document.querySelector('svg').getBoundingClientRect().height")
        for words, left, right, top, bottom in boxes:
            assert 0 <= left < right <= width, (width, words)
            assert 0 <= top < bottom <= height + 1, (width, words)
        for (one, l1, r1, t1, b1), (other, l2, r2, t2, b2) in itertools.combinations(boxes, 2):
            apart = r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 3 or b2 <= t1 + 3
            assert apart, f"{one!r} covers {other!r} at {width} px"
