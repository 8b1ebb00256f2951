"""What holds for every widget: its script is readable source that asks nobody, and it lasts."""

import re

import pytest

from smmu_lab.view.live import SCRIPTS, script

NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.js")))
def test_a_script_asks_nobody_and_makes_no_code(name):
    source = re.sub(r"^\s*(//|/\*|\*).*", "", script(name).replace(NAMESPACE, ""), flags=re.MULTILINE)
    assert not re.search(r"\bimport\b[^:]|\beval\b|https?:|\bfetch\b|XMLHttp|WebSocket|new Function", source)


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_a_script_can_be_read_in_one_sitting(path):
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= 500
    assert max(map(len, lines)) <= 122
