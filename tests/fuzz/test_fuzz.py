"""Random and damaged input, in a small dose; `python -m tests.fuzz.long` goes on for as long as it is told."""

import pytest
from hypothesis import given, settings

from smmu_lab.arch import Command
from tests.fuzz.properties import PROPERTIES


@pytest.mark.parametrize("name", PROPERTIES)
def test_it_holds_for_any_input(name):
    check, strategies = PROPERTIES[name]
    settings(max_examples=200)(given(**strategies)(check))()


def test_a_field_is_set_once_however_it_is_spelled():
    assert Command.of("ATC_INV", sid=1, sid_=2).fields["sid"] == 2


def test_no_name_of_a_field_is_taken_for_an_argument():
    with pytest.raises(ValueError, match=r"^TLBI_NH_ALL.self: unknown; valid: vmid$"):
        Command.of("TLBI_NH_ALL").but(self=1)
