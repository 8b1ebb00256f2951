"""The explorer in a real browser: it follows the controls, and what lasts is true."""

import itertools
import json

import pytest

import smmu_lab
from smmu_lab.charts import breakdown

pytestmark = pytest.mark.browser

APPROACHES = ["qemu-today", "native-queue", "short-path", "vcmdq"]
CELL = f"""
import smmu_lab as lab
lab.explore(lab.Scenario(workload=lab.unmaps(pages=16), smmu=lab.Smmu(ril=False), vcpus=4), {APPROACHES})
"""
PICTURE = 'img[src^="data:image/svg"]'
BARS = """svg => Object.fromEntries([...svg.querySelectorAll("g[data-approach]")].map(row => [row.dataset.approach,
    Object.fromEntries([...row.querySelectorAll("rect[data-ns]")].map(bar =>
        [bar.dataset.stage, [Number(bar.dataset.ns), bar.getBoundingClientRect().width]]))]))"""


@pytest.fixture
def explorer(lab, page, request):
    """The page with a live explorer."""
    page.notebook = lab.write(f"{request.node.name}.ipynb", CELL)
    lab.open(page, page.notebook)
    lab.run_all(page)
    page.wait_for_selector('.explorer svg[data-pages="16"]')
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


def test_bars_follow_the_controls(explorer):
    page = explorer
    hold_to_comparison(page, pages=16, ril=False, vcpus=4, costs="grace")
    pages, vcpus = page.get_by_label("Pages per unmap"), page.get_by_label("vCPUs")

    pages.focus()  # by keyboard
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    hold_to_comparison(page, pages=64, ril=False, vcpus=4)
    assert pages.get_attribute("aria-valuetext") == "64 pages, 256 KiB"
    assert pages.evaluate("input => input === document.activeElement")  # the focus outlives the redraw

    at = vcpus.bounding_box()  # by mouse: drag to the far end
    page.mouse.move(at["x"] + at["width"] / 4, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] - 1, at["y"] + at["height"] / 2, steps=12)
    page.mouse.up()
    hold_to_comparison(page, pages=64, ril=False, vcpus=16)

    page.get_by_label("Range invalidation").click()
    page.get_by_label("Costs").select_option("n1")
    hold_to_comparison(page, pages=64, ril=True, vcpus=16, costs="n1")


def test_a_burst_makes_no_backlog(explorer):
    page = explorer
    page.evaluate("""() => { window.pictures = 0; new MutationObserver(() => window.pictures++)
        .observe(document.querySelector(".explorer .result"), {childList: true}); }""")
    page.get_by_label("Pages per unmap").focus()
    for key in ["ArrowLeft", "ArrowRight"] * 20 + ["End"]:
        page.keyboard.press(key)
    page.wait_for_selector('.explorer svg[data-pages="1024"]')
    page.wait_for_selector('.explorer .result[aria-busy="false"]')
    assert page.evaluate("window.pictures") < 20


def test_the_picture_lasts(explorer, lab):
    """Hidden beside the live widget; without kernel and widget it shows, even in a notebook that nobody trusts."""
    page = explorer
    assert page.locator(PICTURE).count() == 1
    assert not page.locator(PICTURE).is_visible()
    with page.expect_response(lambda r: r.request.method == "PUT" and page.notebook in r.url):
        page.keyboard.press("Control+s")
    page.goto("about:blank")
    path = lab.folder / page.notebook
    saved = json.loads(path.read_text())
    del saved["metadata"]["widgets"]
    path.write_text(json.dumps(saved))  # changed by hand: its signature is void
    path.with_suffix(".py").unlink(missing_ok=True)  # the paired script, now older
    for session in json.loads(lab.get("api/sessions")):
        lab.get(f"api/sessions/{session['id']}", "DELETE")
    lab.open(page, page.notebook)
    page.locator(PICTURE).wait_for()
    assert page.locator(".explorer").count() == 0
    assert page.locator(PICTURE).evaluate("img => img.naturalWidth") == 860
    assert page.locator(".jp-OutputArea td").first.inner_text() == APPROACHES[0]


def test_a_stopped_kernel_is_said_in_words(explorer, lab):
    page = explorer
    for session in json.loads(lab.get("api/sessions")):
        lab.get(f"api/sessions/{session['id']}", "DELETE")
    page.get_by_label("vCPUs").focus()
    page.keyboard.press("ArrowRight")
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
