from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smmu_lab.arch import Command, atc_commands, atc_cover, unmap_commands

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
GRANULES = [
    (12, 1 << 12),
    (12, 1 << 21),
    (12, 1 << 30),
    (14, 1 << 14),
    (14, 1 << 25),
    (16, 1 << 16),
    (16, 1 << 29),
]
PAGE = 4096


def shown(command):
    fields = command.fields
    return {name: fields[name] for name in ("num", "scale", "ttl", "tg", "leaf")} | {"addr": hex(fields["va"])}


def span(command, granule):
    """Bytes [start, end) that a TLBI by address covers."""
    fields = command.fields
    unit = 1 << (2 * fields["tg"] + 10) if fields["tg"] else granule
    return fields["va"], fields["va"] + command.pages * unit


def assert_contiguous(commands, granule, start, end):
    for command in commands:
        first, after = span(command, granule)
        assert first == start
        start = after
    assert start == end


@st.composite
def unmaps(draw, most=1 << 20):
    page_shift, granule = draw(st.sampled_from(GRANULES))
    count = draw(st.integers(1, min(most, (1 << 43) // granule)))
    iova = draw(st.integers(0, (1 << 52) // granule - 1)) * granule
    return {"iova": iova, "size": count * granule, "granule": granule, "page_shift": page_shift}


@pytest.mark.parametrize("ril", [False, True], ids=["no_ril", "ril"])
@pytest.mark.parametrize("row", GOLDEN["range_decompositions"], ids=lambda row: row["label"])
def test_a_golden_range_becomes_its_commands(row, ril):
    expected = row.get("ril" if ril else "no_ril")
    commands = unmap_commands(
        int(row["iova"], 16), row["size"], row["granule"], ril, bool(row["leaf"]), 0x2A, row["page_shift"]
    )
    if expected is None:
        assert (row["label"], ril) == ("non-leaf, one page", False)
        return
    assert len(commands) == expected["count"]
    assert {c.name for c in commands} == {expected["opcode"]}
    assert {c.fields["asid"] for c in commands} == {0x2A}
    if "commands" in expected:
        assert [shown(c) for c in commands] == expected["commands"]
    if "first" in expected:
        assert shown(commands[0]) == expected["first"]
        assert shown(commands[-1]) == expected["last"]


@given(unmaps())
def test_leaf_ranges_cover_the_unmapped_bytes_exactly(unmap):
    assert_contiguous(unmap_commands(**unmap), unmap["granule"], unmap["iova"], unmap["iova"] + unmap["size"])


@given(unmaps())
def test_non_leaf_ranges_cover_one_page_too_many_where_the_erratum_asks_for_it(unmap):
    pages = unmap["size"] >> unmap["page_shift"]
    extra = (pages % 32 == 1) << unmap["page_shift"]
    commands = unmap_commands(**unmap, leaf=False)
    assert_contiguous(commands, unmap["granule"], unmap["iova"], unmap["iova"] + unmap["size"] + extra)


@given(unmaps(most=600))
def test_without_range_invalidation_one_command_covers_one_granule(unmap):
    granule = unmap["granule"]
    commands = unmap_commands(**unmap, ril=False)
    if unmap["size"] // granule >= granule // 8:
        assert commands == [Command.of("TLBI_NH_ASID")]
    else:
        assert len(commands) == unmap["size"] // granule
        assert_contiguous(commands, granule, unmap["iova"], unmap["iova"] + unmap["size"])
        assert not any(c.fields[n] for c in commands for n in ("tg", "ttl", "num", "scale"))


@given(unmaps(), st.booleans())
def test_linux_never_emits_num_31_nor_the_reserved_range(unmap, leaf):
    for command in unmap_commands(**unmap, leaf=leaf):
        fields = command.fields
        assert fields["num"] <= 30
        assert (fields["num"], fields["scale"], fields["ttl"]) != (0, 0, 0)


@given(unmaps(), st.booleans())
def test_pieces_grow_and_are_at_most_one_per_five_bits(unmap, leaf):
    scales = [c.fields["scale"] for c in unmap_commands(**unmap, leaf=leaf)]
    assert all(after - before >= 5 for before, after in pairwise(scales))


@pytest.mark.parametrize(
    ("page_shift", "granule", "tg", "ttl"),
    [
        (12, 1 << 12, 1, 3),
        (12, 1 << 21, 1, 2),
        (12, 1 << 30, 1, 1),
        (14, 1 << 14, 2, 3),
        (14, 1 << 25, 2, 2),
        (16, 1 << 16, 3, 3),
        (16, 1 << 29, 3, 2),
    ],
)
def test_tg_names_the_page_and_ttl_the_level_of_the_granule(page_shift, granule, tg, ttl):
    (leaf,) = unmap_commands(granule, granule, granule, page_shift=page_shift)
    (table,) = unmap_commands(granule, 2 * granule, granule, leaf=False, page_shift=page_shift)
    assert (leaf.fields["tg"], leaf.fields["ttl"], leaf.fields["leaf"]) == (tg, ttl, 1)
    assert (table.fields["tg"], table.fields["ttl"], table.fields["leaf"]) == (tg, 0, 0)


@pytest.mark.parametrize("ril", [False, True])
def test_size_0_invalidates_the_address_space(ril):
    assert unmap_commands(0, 0, ril=ril, asid=7) == [Command.of("TLBI_NH_ASID", asid=7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iova": -4096}, "^iova: -4096 is not valid: a multiple of 4096 from 0 on$"),
        ({"iova": 1}, "^iova: 1 is not valid"),
        ({"iova": 4096.0}, "^iova: 4096.0 is not valid"),
        ({"size": 4097}, "^size: 4097 is not valid: a multiple of 4096"),
        ({"size": -4096}, "^size: -4096 is not valid"),
        (
            {"iova": 4096, "granule": 1 << 21, "size": 1 << 21},
            "^iova: 4096 is not valid: a multiple of 2097152",
        ),
        (
            {"granule": 8192},
            "^granule: 8192 is not valid with page_shift 12: one of 4096, 2097152, 1073741824$",
        ),
        ({"page_shift": 14}, "^granule: 4096 is not valid with page_shift 14: one of 16384, 33554432$"),
        ({"page_shift": 13}, "^page_shift: 13 is not valid: one of 12, 14, 16$"),
        ({"iova": (1 << 64) - 4096, "size": 8192}, r"^size: 0x2000 is not valid: iova \+ size beyond 2\^64$"),
        ({"size": 1 << 44}, r"^size: 0x100000000000 is not valid: below 2\^32 pages"),
        ({"asid": 1 << 16}, "asid: 0x10000 is not valid: 0 to 0xffff$"),
    ],
)
def test_a_range_that_is_not_valid_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unmap_commands(**{"iova": 0, "size": 4096, **arguments})


@pytest.mark.parametrize("row", GOLDEN["atc_covers"], ids=lambda row: f"{row['iova']}+{row['size']}")
def test_a_golden_atc_cover(row):
    addr, size_field = atc_cover(int(row["iova"], 16), int(row["size"], 16))
    assert (hex(addr), size_field) == (row["addr"], row["size_field"])
    if "pages_covered" in row:
        assert [addr // PAGE, addr // PAGE + 2**size_field - 1] == row["pages_covered"]


@given(st.integers(0, 2**64 - 1), st.integers(0, 63), st.data())
def test_the_atc_cover_is_the_smallest_aligned_power_of_two_around_the_range(iova, bits, data):
    size = data.draw(st.integers(1, 1 << bits))
    assume(iova + size <= 1 << 64)
    addr, size_field = atc_cover(iova, size)
    block = PAGE << size_field
    assert addr % block == 0
    assert addr <= iova
    assert iova + size <= addr + block
    if size_field:
        half = block // 2
        assert iova // half != (iova + size - 1) // half


def test_the_atc_cover_of_everything_is_size_52():
    assert atc_cover(0, 1 << 64) == atc_cover(0, 0) == (0, 52)
    assert Command.of("ATC_INV", size=52).pages is None


@given(st.integers(0, 2**48), st.integers(0, 2**40), st.lists(st.integers(0, 2**32 - 1), max_size=9))
def test_one_atc_inv_goes_to_every_stream(iova, size, sids):
    commands = atc_commands(iova, size, sids)
    assert [c.fields["sid"] for c in commands] == sids
    assert all((c.fields["addr"], c.fields["size"]) == atc_cover(iova, size) for c in commands)
    assert not any(c.fields["ssv"] for c in commands)


def test_a_substream_is_valid_only_if_given():
    (command,) = atc_commands(0, 0, [0x100], ssid=5)
    assert bytes(command).hex() == "4058000000010000" + "3400000000000000"


@pytest.mark.parametrize(("iova", "size"), [(-1, 1), (0, -1), (1 << 63, (1 << 63) + 1), (0.5, 1)])
def test_an_atc_range_that_is_not_valid_is_refused(iova, size):
    with pytest.raises(ValueError, match="is not valid"):
        atc_commands(iova, size, [1])
