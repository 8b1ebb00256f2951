"""Every recorded command decodes, from its bytes alone, to what QEMU decoded when it met it."""

from pathlib import Path

import pytest

from smmu_lab.arch import decode
from smmu_lab.scenario import read_trace, traces
from smmu_lab.scenario.recorded import QEMU_OPCODES

FILES = sorted(Path(__file__).parents[1].glob("data/traces/*.csv.gz"))


@pytest.mark.parametrize("source", [*traces(), *FILES], ids=lambda source: Path(source).name.split(".")[0])
def test_each_command_decodes_to_what_qemu_said(source):
    commands = read_trace(source).commands
    decoded = 0
    for index in range(len(commands)):
        raw = commands.raw16(index)
        if raw is None:
            assert source not in traces(), "a bundled guest is complete"
            continue
        command = decode(raw)
        decoded += 1
        assert bytes(command) == raw
        assert command.opcode == commands.opcode[index]
        fields = command.fields
        if command.name in ("TLBI_NH_VA", "TLBI_NH_ASID"):
            assert fields["asid"] == commands.asid[index]
        if command.name == "TLBI_NH_VA":
            assert fields["va"] == commands.addr[index]
            assert fields["tg"] == commands.tg[index]
            assert fields["ttl"] == commands.ttl[index]
            assert fields["leaf"] == commands.leaf[index]
            assert command.pages == commands.num_pages[index]
        if command.name == "CFGI_STE":
            assert fields["sid"] == commands.addr[index]
    assert decoded == sum(commands.recorded)


def test_the_names_are_those_of_the_specification():
    assert {QEMU_OPCODES["SYNC"], QEMU_OPCODES["PREFETCH_CONFIG"]} == {0x46, 0x01}
