import pytest

from smmu_lab.charts.palette import COLOURS, PARTIES, WAITING, contrast, ink_on
from smmu_lab.record import STAGES

JUPYTER = {"light": "#ffffff", "dark output": "#111111", "dark cell": "#212121"}


def test_every_stage_has_its_place_colour_and_meaning():
    assert tuple(stage for stages in PARTIES.values() for stage in stages) == tuple(STAGES)
    assert set(COLOURS) == set(STAGES)
    assert set(STAGES) > WAITING
    assert len(set(COLOURS.values())) == len(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stands_out_in_both_themes(stage):
    assert all(contrast(COLOURS[stage], paper) >= 3 for paper in JUPYTER.values())
    assert contrast(COLOURS[stage], ink_on(COLOURS[stage])) >= 4.5


def test_hue_is_never_alone():
    """Within a party, a stage of work and one of waiting differ by thickness too; at most two share a thickness."""
    for stages in PARTIES.values():
        thick = [stage for stage in stages if stage not in WAITING]
        assert len(thick) == 1
        assert len(stages) - len(thick) <= 2
