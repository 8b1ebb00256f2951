import pytest

from smmu_lab.charts.palette import COLOURS, COMMANDS, FAMILIES, PARTIES, WAITING, contrast, identities, ink_on
from smmu_lab.record import STAGES
from smmu_lab.scenario import approaches

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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_stands_out_and_its_letter_can_be_read(command):
    letter, colour = COMMANDS[command]
    assert len(letter) == 1
    assert all(contrast(colour, paper) >= 3 for paper in JUPYTER.values())
    assert contrast(colour, ink_on(colour)) >= 4.5


def test_an_approach_looks_the_same_in_every_picture():
    rows = [row.name for row in approaches()]
    assert len(set(identities(rows).values())) == len(rows)
    assert all(identities([row])[row] == identities(rows)[row] for row in rows)
    strange = ["vcmdq*", "vcmdq", "<mine>", "yours", "vcmdq"]
    assert len(set(identities(strange).values())) == 4
    assert identities(strange)["vcmdq"] == identities(["vcmdq"])["vcmdq"]


@pytest.mark.parametrize("ink", FAMILIES)
def test_a_family_stands_out_in_both_themes(ink):
    assert all(contrast(ink, paper) >= 3 for paper in JUPYTER.values())
    assert set().union(*FAMILIES.values()) == {row.name for row in approaches()}


def test_hue_is_never_alone():
    """Within a party, a stage of work and one of waiting differ by thickness too; at most two share a thickness."""
    for stages in PARTIES.values():
        thick = [stage for stage in stages if stage not in WAITING]
        assert len(thick) == 1
        assert len(stages) - len(thick) <= 2
