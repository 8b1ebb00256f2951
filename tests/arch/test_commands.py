from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smmu_lab.arch import (
    ATC_INV_SIZE_ALL,
    FIELDS,
    HOST_ACCEPTS,
    OPCODES,
    VCMDQ_ACCEPTS,
    CError,
    Command,
    IllegalCommand,
    RejectedCommand,
    UnknownStream,
    decode,
    rewrite,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
ROWS = {row["id"]: row for row in GOLDEN["commands"]}


def number(value):
    return int(value, 0) if isinstance(value, str) else value


def raw(row):
    return struct.pack("<QQ", int(row["dw0"], 16), int(row["dw1"], 16))


def golden_fields(row):
    return {name: number(value) for name, value in row["fields"].items()}


@st.composite
def commands(draw, names=tuple(FIELDS)):
    name = draw(st.sampled_from(names))
    values = {}
    for f in FIELDS[name]:
        value = draw(st.integers(0, f.mask >> f.lo))
        values[f.name] = value << f.lo if f.address else value
    if name == "CFGI_ALL":
        values["range"] = 31
    return Command.of(name, **values), values


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_golden_command_encodes_and_decodes_to_its_words(row):
    command = Command.of(row["command"], **golden_fields(row))
    assert bytes(command) == raw(row)
    assert decode(raw(row)) == command
    assert (command.name, command.opcode) == (row["command"], int(row["opcode"], 16))
    assert golden_fields(row).items() <= command.fields.items()


@pytest.mark.parametrize("row", [r for r in ROWS.values() if "host_rewrite_of" in r], ids=lambda r: r["id"])
def test_the_host_rewrite_gives_the_golden_words(row):
    guest = decode(raw(ROWS[row["host_rewrite_of"]]))
    assert bytes(rewrite(guest, vmid=0x11, sids={0x100: 0x2301})) == raw(row)


@pytest.mark.parametrize("rule", [r for r in GOLDEN["decode_rules"] if "expect" in r], ids=lambda r: r["dw0"])
def test_a_golden_illegal_entry_is_refused_with_its_error_code(rule):
    assert rule["expect"] == "CERROR_ILL"
    with pytest.raises(IllegalCommand, match="CERROR_ILL") as refused:
        decode(raw(rule))
    assert refused.value.cerror is CError.ILL


def test_the_decode_rules_are_all_tested():
    # 0: test_a_golden_command_...; 1, 2: above; 3 and 4: the two tests on pages.
    assert len(GOLDEN["decode_rules"]) == 5


@given(st.integers(0, 31), st.integers(0, 31))
def test_num_and_scale_mean_nothing_without_tg(num, scale):
    assert Command.of("TLBI_NH_VA", num=num, scale=scale).pages == 1
    assert Command.of("TLBI_S2_IPA", num=num, scale=scale, tg=2).pages == (num + 1) * 2**scale


def test_atc_inv_size_52_is_the_whole_address_space():
    sizes = {n: Command.of("ATC_INV", size=n).pages for n in range(64)}
    assert sizes == {n: 2**n if n < ATC_INV_SIZE_ALL else None for n in range(64)}
    assert decode(raw(ROWS["atc_inv_all"])).pages is None


@pytest.mark.parametrize("name", sorted({n for n in FIELDS if "tg" not in {f.name for f in FIELDS[n]}} - {"ATC_INV"}))
def test_a_command_without_a_range_covers_no_number_of_pages(name):
    assert Command.of(name).pages is None


@given(commands())
def test_every_field_survives_the_round_trip(drawn):
    command, values = drawn
    again = decode(bytes(command))
    assert again == command
    assert hash(again) == hash(command)
    assert again.fields == values
    assert again == Command.of(command.name, **again.fields)


@given(commands())
def test_repr_and_pickle_give_the_command_back(drawn):
    command, _ = drawn
    assert eval(repr(command)) == command
    assert pickle.loads(pickle.dumps(command)) == command


@given(commands(), st.integers(0, 2**128 - 1))
def test_reserved_bits_are_ignored_on_decode(drawn, noise):
    command, _ = drawn
    defined = [0xFF | 1 << 10, 0]
    for f in FIELDS[command.name]:
        defined[f.word] |= f.mask
    reserved = ~(defined[0] | defined[1] << 64) & noise
    noisy = int.from_bytes(bytes(command), "little") | reserved
    assert decode(noisy.to_bytes(16, "little")) == command


@given(st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_a_command_or_illegal(entry):
    legal = entry[0] in OPCODES.values()
    try:
        command = decode(entry)
    except IllegalCommand:
        assert not legal or entry[1] & 4
    else:
        assert legal
        assert OPCODES[command.name] == entry[0]


def test_only_commands_that_name_a_stream_have_ssec():
    ssec = struct.pack("<QQ", 1 << 10, 0)
    for name, opcode in OPCODES.items():
        entry = bytes([opcode]) + ssec[1:]
        if any(f.name == "sid" for f in FIELDS[name]):
            with pytest.raises(IllegalCommand, match="SSec"):
                decode(entry)
        else:
            assert decode(entry) == Command.of(name)


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_of_a_command_do_not_overlap(name):
    used = [0xFF, 0]
    for f in FIELDS[name]:
        assert not used[f.word] & f.mask, f.name
        used[f.word] |= f.mask


def test_range_31_is_called_cfgi_all_whoever_wrote_it():
    assert Command.of("CFGI_STE_RANGE", range=31) == Command.of("CFGI_ALL")
    assert Command.of("CFGI_STE_RANGE", range=31).name == "CFGI_ALL"
    assert Command.of("CFGI_STE_RANGE", range=30, sid=1).name == "CFGI_STE_RANGE"
    with pytest.raises(ValueError, match=r"^CFGI_ALL.range: 3 is not valid: 31 \(for less"):
        Command.of("CFGI_ALL", range=3)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "TLBI_NHVA",
            {},
            r"^command 'TLBI_NHVA': unknown; did you mean 'TLBI_NH_VA'\? valid: PREFETCH_CFG, ",
        ),
        ("sync", {}, "did you mean 'CMD_SYNC'"),
        ("xxxxx", {}, "^command 'xxxxx': unknown; valid: PREFETCH_CFG"),
        (
            "TLBI_NH_ASID",
            {"asdi": 1},
            r"^TLBI_NH_ASID.asdi: unknown; did you mean 'asid'\? valid: vmid, asid$",
        ),
        ("TLBI_NSNH_ALL", {"vmid": 1}, "^TLBI_NSNH_ALL.vmid: unknown; valid: none$"),
        ("TLBI_NH_ASID", {"asid": 0x10000}, "^TLBI_NH_ASID.asid: 0x10000 is not valid: 0 to 0xffff$"),
        ("TLBI_NH_ASID", {"asid": -1}, "^TLBI_NH_ASID.asid: -0x1 is not valid: 0 to 0xffff$"),
        ("TLBI_NH_ASID", {"asid": 2.0}, "^TLBI_NH_ASID.asid: 2.0 is not valid: an integer, 0 to 0xffff$"),
        (
            "TLBI_NH_VA",
            {"va": 0x1004},
            r"^TLBI_NH_VA.va: 0x1004 is not valid: a multiple of 0x1000 below 2\^64$",
        ),
        ("TLBI_S2_IPA", {"ipa": 1 << 52}, r"ipa: 0x10000000000000 is not valid: .* below 2\^52$"),
        ("CMD_SYNC", {"cs": 4, "msh": 4}, "cs: 0x4 is not valid: 0 to 0x3\nCMD_SYNC.msh: 0x4 is not valid"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_valid(name, fields, message):
    with pytest.raises(ValueError, match=message):
        Command.of(name, **fields)


def test_global_is_written_global_with_an_underscore():
    broad = Command.of("ATC_INV", sid=1, global_=1)
    assert broad.fields["global"] == 1
    assert broad.but(global_=0) == Command.of("ATC_INV", sid=1)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_entry_has_16_bytes(size):
    with pytest.raises(ValueError, match=f"raw16: {size} bytes are not valid"):
        decode(bytes(size))


def test_a_command_does_not_change():
    command = Command.of("CFGI_STE", sid=1)
    command.fields["sid"] = 2
    with pytest.raises(AttributeError):
        command.dw0 = 0
    assert command.fields == {"sid": 1, "leaf": 0}


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Command.of("CFGI_ALL"), "CFGI_ALL sid=0x0 RANGE=31"),
        (Command.of("TLBI_NH_ASID", asid=0x2A), "TLBI_NH_ASID asid=0x2a"),
        (
            Command.of("TLBI_NH_VA", asid=0x2A, va=0x1_0000_0000, num=24, tg=1, ttl=3, leaf=True),
            "TLBI_NH_VA asid=0x2a va=0x100000000 range=25 pages (NUM 24, SCALE 0) TG=4K TTL=3 leaf",
        ),
        (Command.of("TLBI_NH_VA", va=0x1000, leaf=1), "TLBI_NH_VA asid=0x0 va=0x1000 leaf"),
        (Command.of("TLBI_NH_VA", num=3), "TLBI_NH_VA asid=0x0 va=0x0 NUM=3"),
        (decode(raw(ROWS["atc_inv"])), "ATC_INV sid=0x100 addr=0x8000 SIZE=2 (4 pages)"),
        (decode(raw(ROWS["atc_inv_all"])), "ATC_INV sid=0x100 ssv ssid=0x5 addr=0x0 SIZE=52 (all)"),
        (Command.of("ATC_INV", global_=1), "ATC_INV sid=0x0 global addr=0x0 SIZE=0 (1 page)"),
        (Command.of("PRI_RESP", sid=8, grpid=7, resp=2), "PRI_RESP sid=0x8 grpid=0x7 RESP=SUCC"),
        (Command.of("RESUME", sid=8, resp=1, stag=3), "RESUME sid=0x8 stag=0x3 RESP=RETRY"),
        (decode(raw(ROWS["sync_none"])), "CMD_SYNC CS=NONE MSH=ISH MSIATTR=15"),
        (decode(raw(ROWS["sync_msi"])), "CMD_SYNC CS=IRQ MSH=ISH MSIATTR=15 msiaddr=0x80001230"),
    ],
    ids=str,
)
def test_the_disassembly_reads_well(command, text):
    assert str(command) == text


@given(commands(), st.data())
def test_a_change_of_any_bit_shows_in_the_disassembly(drawn, data):
    command, values = drawn
    assume(values and command.name != "CFGI_ALL")
    f = data.draw(st.sampled_from(FIELDS[command.name]))
    bit = 1 << data.draw(st.integers(f.lo - f.shift, f.hi - f.shift))
    assert str(command.but(**{f.name: values[f.name] ^ bit})) != str(command)


def test_a_vcmdq_and_the_host_take_the_published_sets():
    assert sorted(VCMDQ_ACCEPTS) == ["ATC_INV", "CMD_SYNC", "TLBI_NH_ASID", "TLBI_NH_VA"]
    assert sorted(VCMDQ_ACCEPTS - HOST_ACCEPTS) == ["CMD_SYNC"]
    tlbi = ["TLBI_NH_ALL", "TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_NSNH_ALL"]
    assert sorted(HOST_ACCEPTS) == ["ATC_INV", "CFGI_CD", "CFGI_CD_ALL", *tlbi]


@given(commands(tuple(sorted(HOST_ACCEPTS))), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1))
def test_a_rewritten_command_carries_only_the_guests_vmid_and_physical_sids(drawn, vmid, psid):
    guest, values = drawn
    host = rewrite(guest, vmid, {values.get("sid", 0): psid})
    replaced = {"vmid": vmid, "sid": psid}
    if guest.name == "TLBI_NSNH_ALL":
        assert host == Command.of("TLBI_NH_ALL", vmid=vmid)
    else:
        assert host.name == guest.name
        assert host.fields == values | {n: v for n, v in replaced.items() if n in values}
        assert ("vmid" in values) != ("sid" in values)


@given(commands(tuple(sorted(FIELDS.keys() - HOST_ACCEPTS))))
def test_the_host_takes_nothing_else(drawn):
    with pytest.raises(RejectedCommand, match=f"^{drawn[0].name}: the host does not take it"):
        rewrite(drawn[0], 1, {0: 0})


def test_an_unknown_virtual_stream_is_named():
    with pytest.raises(UnknownStream, match=r"^ATC_INV.sid: the guest has no device 0x7 \(valid: 0x8, 0x10\)$"):
        rewrite(Command.of("ATC_INV", sid=7), vmid=1, sids={8: 1, 16: 2})


def test_a_vmid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"TLBI_NH_ALL.vmid: 0x10000 is not valid: 0 to 0xffff"):
        rewrite(Command.of("TLBI_NSNH_ALL"), vmid=0x10000, sids={})
