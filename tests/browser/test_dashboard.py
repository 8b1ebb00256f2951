"""The dashboard in a real browser: every control by mouse or keyboard, and what is said of a stage is true."""

import itertools

import pytest

import smmu_lab
from smmu_lab.charts import differences, distribution, events, percentiles

pytestmark = pytest.mark.browser

NAMES = ["qemu-today", "short-path", "vcmdq"]
CELL = f"""
import smmu_lab as lab
s = lab.Scenario(workload=lab.unmaps(pages=16, ops=200), smmu=lab.Smmu(ril=False), vcpus=4)
lab.dashboard(lab.compare(s, {NAMES}))
"""
EVIL = '"><img src=x onerror=alert(1)>'
INJECTED = f"""
evil = {EVIL!r}
costs = lab.costs("n1").but(exit_user={{"source": evil, "meaning": evil}})
rows = [lab.approach("batched").but(name=evil, title=evil), "vcmdq"]
lab.dashboard(lab.compare(lab.Scenario(workload=lab.unmaps(ops=30), costs=costs), rows))
"""
SCENARIO = smmu_lab.Scenario(workload=smmu_lab.unmaps(pages=16, ops=200), smmu=smmu_lab.Smmu(ril=False), vcpus=4)
ROWS = """panel => [...panel.querySelectorAll("g[data-approach]")].filter(row => row.style.display !== "none")
    .map(row => [row.getBoundingClientRect().top, row.dataset.approach]).sort((a, b) => a[0] - b[0])
    .map(([, name]) => name)"""


def test_every_control_and_what_a_stage_is_made_of(lab, page, serious):
    name = lab.write("dashboard.ipynb", CELL, INJECTED)
    lab.open(page, name)
    lab.run_all(page)
    root = page.locator(".dashboard").first
    page.wait_for_selector('.dashboard[data-waiting="false"] g[data-approach="vcmdq"]')
    result = smmu_lab.compare(SCENARIO, NAMES)
    assert root.locator(".verdict").inner_text() == result.verdict
    breakdown = root.locator('[data-panel="breakdown"]')

    # sort and hide: the rows follow at once, then the scale
    root.get_by_role("combobox", name="Order by").select_option("mean")
    assert breakdown.evaluate(ROWS) == sorted(NAMES, key=lambda each: result.samples[each].latency.mean.value)
    root.get_by_role("combobox", name="Order by").select_option("given")
    root.get_by_role("checkbox", name="qemu-today", exact=True).focus()
    page.keyboard.press("Space")
    page.wait_for_selector('.dashboard[data-rows="short-path vcmdq"][data-waiting="false"]')
    assert breakdown.locator('g[data-approach="qemu-today"]').count() == 0
    page.keyboard.press("Space")
    page.wait_for_selector(f'.dashboard[data-rows="{" ".join(NAMES)}"][data-waiting="false"]')

    # what a stage is made of, by pointer
    stage = breakdown.locator('g[data-approach="qemu-today"] rect[data-share][data-stage="handoff"]')
    costs = root.locator(".costs")
    stage.hover()
    costs.wait_for(state="visible")
    assert costs.get_attribute("role") == "tooltip"
    rows = costs.locator("tr[data-cost]")
    assert rows.evaluate_all("rows => rows.map(row => row.dataset.cost)") == ["ioctl", "conv", "copy"]
    said = rows.first.inner_text()
    cost = result.scenario.costs["ioctl"]
    for part in ("500 ns", "250 ns .. 1 µs", "inferred", "90%", cost.source, cost.meaning):
        assert part in said
    root.locator(".verdict").hover()
    costs.wait_for(state="hidden")
    breakdown.locator('text[data-key="execute"]').hover()
    costs.wait_for(state="visible")
    assert "92%: qemu-today; 41%: short-path, vcmdq" in costs.inner_text().replace("\n", " ")
    root.locator(".verdict").hover()
    costs.wait_for(state="hidden")

    # by keyboard: into the picture, along it, pin, close
    breakdown.locator('[data-costs][tabindex="0"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.stage") == "complete"
    page.keyboard.press("ArrowDown")
    assert costs.get_attribute("data-approach") == "short-path"
    assert "depends on when it polls" in costs.inner_text()
    page.keyboard.press("Enter")
    assert costs.get_attribute("role") == "dialog"
    root.locator(".verdict").hover()
    assert costs.is_visible()
    page.keyboard.press("Escape")
    costs.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.stage") == "complete"

    # names and sources are texts
    evil = page.locator(".dashboard").nth(1)
    evil.locator('[data-key="doorbell"]').last.hover()
    assert evil.locator(".costs").inner_text().count(EVIL) == 3  # meaning, approach, source
    assert evil.get_by_role("checkbox", name=EVIL, exact=True).is_checked()
    assert page.locator(".dashboard img").count() == 0

    # tabs, scale, reference
    root.get_by_role("tab", name="Where the time goes").focus()
    page.keyboard.press("ArrowRight")
    assert root.locator('[data-panel="distribution"]').is_visible()
    assert not breakdown.is_visible()
    root.get_by_role("checkbox", name="Logarithmic latency").click()
    linear = distribution(result.samples, 860, log=False).count("µs</text>")
    assert root.locator('[data-panel="distribution"] svg text:text("µs")').count() == linear
    root.get_by_role("tab", name="Time saved").click()
    root.get_by_role("combobox", name="Reference").select_option("vcmdq")
    saved = root.locator('[data-panel="differences"] g[data-approach="qemu-today"]')
    lost = result.difference("vcmdq", "qemu-today").value
    assert float(saved.get_attribute("data-saved-ns")) == pytest.approx(lost, abs=0.01)

    for dark in (False, True):
        lab.dark(page, dark)
        for panel in root.get_by_role("tab").all():
            panel.click()
            assert serious(page, ".dashboard") == []

    lab.save(page, name)

    # without a kernel all of it still works, and it is said
    lab.stop_kernels()
    root.get_by_role("tab", name="Events").click()
    root.get_by_role("checkbox", name="short-path", exact=True).click()
    assert root.locator('[data-panel="events"]').evaluate(ROWS) == ["qemu-today", "vcmdq"]
    page.wait_for_selector('.dashboard .message:text("No answer from the kernel")')
    page.complaints.clear()  # JupyterLab itself reports the lost connection

    # a document without the state of its widgets keeps their pictures
    page.goto("about:blank")
    lab.strip_state(name)
    lab.open(page, name)
    pictures = page.locator('img[src^="data:image/svg"]')
    pictures.first.wait_for()
    assert page.locator(".dashboard").count() == 0
    assert pictures.evaluate_all("all => all.map(img => img.naturalWidth)") == [860] * 10
    assert page.outside == []
    assert page.errors == []


def test_no_label_is_cut_or_covered(page):
    names = [*NAMES, "batched", "native-queue", "short-path-trapped-cons", "virtio-iommu", "bare-metal"]
    result = smmu_lab.compare(SCENARIO, names)
    saved = {name: result.difference("qemu-today", name) for name in names}
    for width in (480, 540, 860, 1200):
        charts = [
            distribution(result.samples, width),
            distribution(result.samples, width, log=False),
            percentiles(result.samples, width),
            percentiles(result.samples, width, log=False),
            differences(saved, "qemu-today", "unmap", width),
            differences({name: result.difference("vcmdq", name) for name in names}, "vcmdq", "unmap", width),
            events(result.samples, width),
        ]
        for chart in charts:
            page.set_content(f"<!doctype html><body style='margin:0'>{chart}")
            boxes = page.evaluate("""() => [...document.querySelectorAll("text")].map(text => {
                const {left, right, top, bottom} = text.getBoundingClientRect();
                return [text.textContent, left, right, top, bottom]; })""")
            height = page.evaluate("document.querySelector('svg').getBoundingClientRect().height")
            for words, left, right, top, bottom in boxes:
                assert -0.5 <= left < right <= width + 0.5, (width, words)
                assert 0 <= top < bottom <= height + 1, (width, words)
            for (one, l1, r1, t1, b1), (other, l2, r2, t2, b2) in itertools.combinations(boxes, 2):
                apart = r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 3 or b2 <= t1 + 3
                assert apart, f"{one!r} covers {other!r} at {width} px"
    assert page.errors == []
    assert page.complaints == []
