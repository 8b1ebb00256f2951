"""The bench: C and the engine are one model, every approach keeps its budget of events and bytes, the report is whole.

Nothing here looks at a time: a busy machine must not fail a test.
"""

import json
import random
import shutil
import subprocess
import sys

import pytest

from smmu_lab.arch import decode
from smmu_lab.cli import app
from smmu_lab.scenario import InvalidInput, Scenario, Smmu, Unmaps, costs
from smmu_lab.sim import simulate
from smmu_lab.study import bench as module
from smmu_lab.study.bench import (
    CROWDS,
    DECODER_RATIOS,
    FINE,
    IMPORTS,
    RATIOS,
    Race,
    bench,
    decoders,
    on_a_fine_clock,
    rows,
    unmaps,
)
from smmu_lab.study.limit import COLUMNS, FORMS, Limit, Unavailable, load, operations

ROWS = rows()
SMALL = {"commands": 100, "vcpus": 2, "repetitions": 1, "scaling": False}
each_form = pytest.mark.parametrize("form", FORMS)
each_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


@pytest.fixture(scope="module")
def limit():
    """The compiled limit; without a compiler, the bench must say so."""
    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        return Limit()
    assert "no C compiler" in bench([1], ["bare-metal"], **SMALL).data["c"]["reason"]
    pytest.skip("no C compiler, and the bench says so")


@pytest.fixture(autouse=True)
def few_imports(monkeypatch):
    monkeypatch.setattr(module, "IMPORTS", {"python": "pass"})


# -- C is the engine ---------------------------------------------------------------------------------------------------


def random_load(seed):
    """Any load that the limit knows; some costs are nothing, so that much happens at one instant."""
    rng = random.Random(seed)
    table = costs(rng.choice(("grace", "n1", "a57")))
    for name in ("mmio_w", "g_cmd", "relax", "mmio_r", "g_fix", "t_tlbi"):
        if rng.random() < 0.2:
            table = table.but({name: rng.choice((0, 1, 5_001))})
    return Scenario(
        workload=Unmaps(
            pages=rng.randint(1, 64),
            ops=rng.randint(1, 60),
            think=rng.choice((0, 1, 300, 2_000, 20_000)),
            spread=rng.choice(("exponential", "constant")),
        ),
        smmu=Smmu(ril=False),
        vcpus=rng.randint(1, 16),
        costs=table,
        seed=seed,
    )


@each_form
@pytest.mark.parametrize("seed", range(40))
def test_c_does_what_the_engine_does(limit, form, seed):
    scenario = random_load(seed)
    run = simulate(scenario, "bare-metal")
    done, _ = limit.run(form, load(scenario))
    assert operations(done) == sorted(zip(run.ops["vcpu"], run.ops["start"], run.latencies, strict=True))
    published, ended = (done[COLUMNS.index(name) :: len(COLUMNS)] for name in ("published", "done"))
    assert set(published) == set(run.batches["rung"])
    assert set(run.batches["end"]) <= set(ended)


@each_form
def test_c_knows_the_shadow_of_cons_and_stops_where_a_cpu_would_wait_for_room(limit, form):
    waits, refused = {}, {}
    for seed in range(40):
        scenario = random_load(seed).but({"smmu.host_queue_log2": 10})
        waits[seed] = bool(simulate(scenario, "bare-metal").events.get("space"))
        try:
            limit.run(form, load(scenario))
            refused[seed] = ""
        except Unavailable as why:
            refused[seed] = str(why)
    assert {seed: bool(why) for seed, why in refused.items()} == waits
    assert {why.partition(" at ")[0] for why in refused.values()} == {"", "the queue is full"}


def test_an_event_per_list_or_one_per_command(limit):
    scenario = unmaps(8, 900, 4)
    events = {form: limit.run(form, load(scenario))[1] for form in FORMS}
    assert events["c_per_batch"] == Race(scenario, ROWS["bare-metal"]).calls == 100
    assert events["c_per_command"] > 900


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workload.pages": 65}, "at most 64 TLBIs"),
        ({"workload.ats_devices": 1}, "one list each"),
        ({"workload.lazy": True}, "strict unmaps"),
        ({"workload.rate": 100}, "closed loop"),
        ({"guests": 2}, "one host's CPUs"),
        ({"smmu.errata": "tlbi-apart"}, "nothing else"),
    ],
)
def test_what_c_does_not_know_it_refuses(change, reason):
    with pytest.raises(Unavailable, match=reason):
        load(unmaps(8, 900, 4).but(change))


def test_without_a_compiler_the_bench_goes_on_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    report = bench([1], ["bare-metal"], **SMALL)
    assert report.data["c"]["compiler"] is None
    assert "no C compiler" in report.data["c"]["reason"]
    (row,) = report.data["rows"]
    assert {row[form] for form in FORMS} == {None}
    assert row["ratios"]["engine/c_per_batch"] is None
    assert row["engine"]["commands_per_s"]["median"] > 0
    assert "no C compiler" in repr(report)


def test_a_compiler_that_fails_is_no_error(monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert "false does not compile" in bench([1], ["bare-metal"], **SMALL).data["c"]["reason"]


# -- budgets -----------------------------------------------------------------------------------------------------------

EXTRA = ("poll", "owner", "space", "host-cpu", "wake", "busy-poll")
"""Not in the budget of an issue call: one each per failed poll that takes the VMM's lock, per wait for another owner,
for room or for a host CPU, per wake-up of a worker, and per busy-poll that expires."""


@each_row
@pytest.mark.parametrize("batch", [1, 8, 64, 200])
def test_at_most_four_events_per_issue_call(row, batch):
    race = Race(unmaps(batch, 200 * (batch + 1), 1), row)
    race.lap(0)
    events = dict(race.events["engine"])
    assert sum(count for cause, count in events.items() if cause not in EXTRA) <= 4 * race.calls, events


@each_row
def test_an_issue_call_is_a_doorbell_when_nobody_rides_along(row):
    scenario = unmaps(200, 4_000, 1)
    assert Race(scenario, row).calls == simulate(scenario, row).counts.doorbells


@each_row
@pytest.mark.parametrize(("batch", "budget"), [(8, 50), (1, 100)])
def test_bytes_per_command(row, batch, budget):
    """A request of virtio-iommu is an operation of its own, with a drain of its own."""
    scenario = unmaps(batch, 2_000, 16)
    run = simulate(scenario, row)
    race = Race(scenario, row)
    size = run.ops.bytes + run.batches.bytes
    if row.front == "virtio-iommu":
        assert size <= 2 * 100 * race.calls
    else:
        assert run.counts.commands == race.commands
        assert size <= budget * race.commands


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_json_document_is_whole():
    args = ["bench", "--json", "--commands", "500", "--repetitions", "1", "--no-scaling", "--batch", "8"]
    done = subprocess.run(
        [sys.executable, "-c", "from smmu_lab.cli import main; main()", *args],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data.keys() >= {"python", "simpy", "machine", "c", "repetitions", "rows", "refused", "import_s", "decoding"}
    assert data["disagreements"] == data["refused"] == []
    assert [row["approach"] for row in data["rows"]] == list(ROWS)
    assert {row["batch"] for row in data["rows"]} == {8}
    assert data["import_s"].keys() == IMPORTS.keys()
    decoding = data["decoding"]
    assert decoding["commands"] == 500
    assert all(decoding[name]["commands_per_s"].keys() == {"min", "median", "max"} for name in decoders(1))
    assert decoding["ratios"].keys() == {f"{slow}/{fast}" for slow, fast in DECODER_RATIOS}
    for row in data["rows"]:
        for model in ("engine", "textbook"):
            assert row[model]["repetitions"] == 1  # the textbook ran once, and what it did was checked and counted
            assert row[model]["cpu_s"].keys() == {"min", "median", "max"}
            assert row["events_per_call"][model] > 0
        assert row["events_per_call"]["engine"] == pytest.approx(sum(row["causes_per_call"].values()))
        in_c = row["approach"] == "bare-metal" and data["c"]["reason"] is None
        assert [row[form] is not None for form in FORMS] == [in_c] * 2
        assert {name: spread is not None for name, spread in row["ratios"].items()} == {
            f"{slow}/{fast}": in_c or (slow, fast) == ("textbook", "engine") for slow, fast in RATIOS
        }


def test_every_decoder_reads_the_same_entries():
    unpack, commands, lines = (list(read()) for read in decoders(20).values())
    assert unpack == [(command.dw0, command.dw1) for command in commands]
    assert lines == list(map(str, commands))
    assert [command.name for command in commands] == 2 * (8 * ["TLBI_NH_VA"] + ["CMD_SYNC"]) + 2 * ["TLBI_NH_VA"]
    assert commands == [decode(bytes(command)) for command in commands]


def test_the_cost_is_set_against_commands_and_vcpus(monkeypatch):
    monkeypatch.setattr(module, "SIZES", (90, 900))
    report = bench([8], ["bare-metal"], **SMALL | {"scaling": True}, by_the_book=False)
    sweeps = report.data["scaling"]
    assert [point["commands"] for point in sweeps["commands"]] == [90, 900]
    assert [point["vcpus"] for point in sweeps["vcpus"]] == list(CROWDS)
    shown = repr(report)
    assert "against the number of commands" in shown
    assert report.data["rows"][0]["textbook"] is None


def test_a_textbook_that_differs_is_found(monkeypatch):
    true = module.textbook

    def wrong(scenario, row):
        done = true(scenario, row)
        return done._replace(ops=[(*op[:4], op[4] + 1) for op in done.ops])

    assert bench([1], ["bare-metal"], **SMALL).disagreements == []
    monkeypatch.setattr(module, "textbook", wrong)
    found = ["batches of 1, bare-metal: textbook and the engine differ"]
    report = bench([1], ["bare-metal"], **SMALL)
    assert report.disagreements == found
    assert f"WRONG: {found[0]}" in repr(report)


def test_c_that_differs_is_found(monkeypatch, limit):
    run = Limit.run

    def wrong(self, form, prepared):
        done, events = run(self, form, prepared)
        done[COLUMNS.index("latency")] += form == "c_per_batch"
        return done, events

    monkeypatch.setattr(Limit, "run", wrong)
    found = bench([1], ["bare-metal"], **SMALL).disagreements
    assert found == ["batches of 1, bare-metal: c_per_batch and the engine differ"]


def test_a_disagreement_is_status_1(monkeypatch):
    monkeypatch.setattr(Race, "disagreements", lambda race, progress: iter(["they differ"]))
    args = "bench --json --batch 1 --approach bare-metal --commands 100 --repetitions 1 --no-scaling --no-textbook"
    assert app(args.split(), standalone_mode=False) == 1


def test_what_a_scenario_refuses_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(Scenario, "refuses", lambda self, row: ("no", "never") if row.name == "vcmdq" else ())
    report = bench([1, 2], ["vcmdq", "bare-metal"], **SMALL)
    assert [row["approach"] for row in report.data["rows"]] == ["bare-metal"] * 2
    assert report.data["refused"] == [{"batch": n, "approach": "vcmdq", "reasons": ["no", "never"]} for n in (1, 2)]
    assert "left out: batches of 2, vcmdq: never" in repr(report)


def test_an_unknown_approach_is_bad_input():
    with pytest.raises(InvalidInput, match="did you mean 'vcmdq-round-robin'"):
        bench([1], ["vcmdq-round-robbin"], **SMALL)


def test_a_finer_clock_is_the_same_load():
    coarse = unmaps(8, 500, 1).but({"workload.spread": "constant"})
    fine = simulate(on_a_fine_clock(coarse), "bare-metal")
    assert [latency // FINE for latency in fine.latencies] == simulate(coarse, "bare-metal").latencies
