"""One door for every setting: strict, all problems at once, the same words from Python, TOML and --set."""

import itertools
import pickle

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.scenario import (
    Approach,
    Host,
    InvalidInput,
    Scenario,
    Smmu,
    Unmaps,
    approach,
    approaches,
    costs,
    read_assignment,
    read_trace,
)
from smmu_lab.scenario.bundled import FOLDER
from smmu_lab.sim import simulate


def problems(make, *args, **kwargs):
    with pytest.raises(InvalidInput) as raised:
        make(*args, **kwargs)
    return list(raised.value.problems)


def test_an_error_that_has_been_elsewhere_says_the_same():
    """In a worker's process it is pickled, in a simulation simpy makes it anew."""
    error = InvalidInput(["vcpus: 0", "guests: 0"])
    for other in (pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert other.problems == error.problems
        assert str(other) == "vcpus: 0\nguests: 0"


DURATION = 'a duration such as "2.5us", or whole nanoseconds, up to an hour'
GOLDEN = {
    "workload.pages: 0 is not valid: a positive integer": {"workload.pages": 0},
    "workload.pagse: unknown; did you mean 'pages'?": {"workload.pagse": 3},
    "vcpus: 2.7 is not valid: an integer from 1 to 1024": {"vcpus": 2.7},
    "smmu.ril: 'yes' is not valid: true or false": {"smmu.ril": "yes"},
    "vcpus: True is not valid: an integer from 1 to 1024": {"vcpus": True},
    "costs.exit_kernal: unknown; did you mean 'exit_kernel'?": {"costs.exit_kernal": "1us"},
    f"costs.t_sync: '0.5ns' is not valid: {DURATION}": {"costs.t_sync": "0.5ns"},
    f"workload.think: 1.5 is not valid: {DURATION}": {"workload.think": 1.5},
    "workload.granule: '2KiB' is not valid: 4KiB, 16KiB or 64KiB": {"workload.granule": "2KiB"},
}


@pytest.mark.parametrize("message", GOLDEN)
def test_a_problem_names_the_field_the_value_and_what_is_valid(message):
    assert problems(Scenario().but, GOLDEN[message]) == [message]


@pytest.mark.parametrize("message", GOLDEN)
def test_python_toml_and_set_say_the_same(message, tmp_path):
    (path, value), *_ = GOLDEN[message].items()
    room, _, field = path.rpartition(".")
    written = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    file = tmp_path / "s.toml"
    file.write_text((f"[{room}]\n" if room else "") + f"{field} = {written}\n")
    assert problems(Scenario.from_toml, file) == [message]
    assert problems(Scenario().but, dict([read_assignment(f"{path}={written}")])) == [message]


def test_all_problems_come_at_once():
    found = problems(
        Scenario,
        workload={"kind": "unmaps", "pages": -1, "lazzy": True},
        smmu={"ril": 1},
        vcpus="4",
        costs="gracee",
        sed=1,
    )
    assert len(found) == 6
    assert {line.split(":")[0] for line in found} == {
        "workload.pages",
        "workload.lazzy",
        "smmu.ril",
        "vcpus",
        "costs",
        "sed",
    }


def test_a_scenario_is_frozen_and_keyword_only():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Scenario().seed = 2
    with pytest.raises(TypeError):
        Scenario(Unmaps())


def test_a_rate_takes_the_place_of_the_think_time():
    assert (Unmaps(rate=1000).gap, Unmaps(think=5).gap) == (1_000_000, 5)


def test_recorded_doorbells_need_the_queue_they_were_recorded_with():
    workload = read_trace("nvme_dd_r1m_j1_strict_61").workload(replay="recorded")
    assert Scenario(workload=workload).smmu.queue_log2 == 16
    assert problems(Scenario, workload=workload, smmu=Smmu(queue_log2=7)) == [
        "smmu.queue_log2: 7 is not valid: 16, to repeat the doorbells of the recorded guest nvme_dd_r1m_j1_strict_61"
    ]


def test_a_recorded_guest_brings_its_vcpus():
    workload = read_trace("nvme_dd_r4k_j4_strict_61").workload()
    assert Scenario(workload=workload).vcpus == 4
    assert problems(Scenario, workload=workload, vcpus=2) == [
        "vcpus: 2 is not valid: 4, as in the recorded guest nvme_dd_r4k_j4_strict_61"
    ]


def test_whole_fields_are_read_before_what_is_below_them():
    made = Scenario().but({"costs.exit_user": "2us", "costs": "n1", "workload.pages": 3, "workload": {"ops": 5}})
    assert (made.costs.profile, made.costs.exit_user) == ("n1", 2000)
    assert (made.workload.pages, made.workload.ops) == (3, 5)


def test_a_recorded_guest_also_brings_its_smmu():
    workload = read_trace("noril_nvme_dd_r1m_j1_strict_61").workload()
    assert not Scenario(workload=workload).smmu.ril
    assert not Scenario().but(workload=workload).smmu.ril
    assert problems(Scenario(workload=workload).but, {"smmu.ril": True}) == [
        "smmu.ril: True is not valid: False, as in the recorded guest noril_nvme_dd_r1m_j1_strict_61"
    ]


STRANGE = (
    {"self": 1},
    {3: 4},
    {"smmu": {3: 4}},
    {"smmu": {"self": 1}},
    {"costs": {"base": ["x"]}},
    {"costs": {"bse": "n1"}},
    {"costs": {3: 4}},
    {"costs.wake": "999999999s"},
    {"workload": {"kind": {}}},
    {"workload": None},
    {"workload.ops": 10**9},
    {"workload.rate": 10**9},
    {"vcpus": None},
    {"seed": float("nan")},
)


@pytest.mark.parametrize("given", STRANGE, ids=repr)
def test_strange_input_is_refused_in_words(given):
    assert all(": " in line for line in problems(Scenario().but, given))


def test_strange_names_are_refused_in_words():
    for name in (None, 3, [], "x" * 9999):
        assert problems(approach, name)
        assert problems(costs, name)
    assert problems(Scenario.from_toml, "a\0b")
    assert problems(Scenario.from_toml, "/")


def test_a_copy_of_a_bundled_trace_is_itself(tmp_path):
    copy = tmp_path / "nvme_dd_r4k_j4_strict_61.csv.gz"
    copy.write_bytes((FOLDER / "nvme_dd_r1m_j1_strict_61.csv.gz").read_bytes())
    trace = read_trace(copy)
    assert len(trace.workload().load().commands) == len(trace.commands)


def test_a_missing_file_and_broken_toml_are_one_line_each(tmp_path):
    assert "cannot be read" in problems(Scenario.from_toml, tmp_path / "none.toml")[0]
    bad = tmp_path / "bad.toml"
    bad.write_text("vcpus = = 3")
    assert len(problems(Scenario.from_toml, bad)) == 1


scenarios = st.builds(
    Scenario,
    workload=st.builds(
        Unmaps,
        pages=st.integers(1, 1 << 20),
        granule=st.sampled_from([4096, 16384, 65536]),
        ats_devices=st.integers(0, 64),
        lazy=st.booleans(),
        think=st.integers(0, 10**9),
        spread=st.sampled_from(["exponential", "constant"]),
        ops=st.integers(1, 10**6),
    ),
    smmu=st.builds(Smmu, ril=st.booleans(), queue_log2=st.integers(7, 19)),
    host=st.builds(Host, worker_cpus=st.integers(1, 9)),
    guests=st.integers(1, 9),
    vcpus=st.integers(1, 99),
    costs=st.sampled_from(["grace", "n1", "a57"]),
    seed=st.integers(0, 2**63),
)


@given(scenarios, st.integers(0, 10**6))
def test_toml_reads_back_to_an_equal_scenario(tmp_path_factory, scenario, wake):
    scenario = scenario.but({"costs.wake": wake, "costs.exit_user": {"value": 7000, "high": 8000, "low": 6000}})
    file = tmp_path_factory.mktemp("toml") / "s.toml"
    file.write_text(scenario.to_toml())
    assert Scenario.from_toml(file) == scenario


def test_but_changes_nothing_else():
    before = Scenario()
    after = before.but({"workload.pages": 64, "costs.exit_kernel": "0.9us"}, vcpus=3)
    assert after.but({"workload.pages": before.workload.pages}, costs=before.costs, vcpus=1) == before
    assert (after.workload.pages, after.costs.exit_kernel, after.vcpus) == (64, 900, 3)


DOORBELLS = ["trap-to-vmm", "trap-to-kernel", "kernel-call", "direct", "polled"]
CONSUMERS = ["vmm", "kernel-caller", "kernel-worker", "hardware"]
UNSUPPORTED = ["none", "skip", "stop-and-fix", "guest-routes"]
COMMANDS = {
    "front": ["smmu-commands"],
    "queues": ["cmdq", "cmdq+vcmdq", "ecmdq"],
    "doorbell": DOORBELLS,
    "consumer": CONSUMERS,
    "handoff": ["none", "marshalled", "per-command", "array", "array-at-sync", "queue"],
    "host_queue": ["cmdq", "vcmdq", "ecmdq"],
    "completion": ["vmm-cons", "kernel-cons", "shared-cons", "device-cons", "msi-word"],
    "unsupported": UNSUPPORTED,
}
REQUESTS = {
    "front": ["virtio-iommu"],
    "queues": ["cmdq", "virtqueue"],
    "doorbell": DOORBELLS,
    "consumer": CONSUMERS,
    "handoff": ["array", "map-unmap"],
    "host_queue": ["cmdq", "vcmdq"],
    "completion": ["shared-cons", "msi-word", "used-ring-poll", "used-ring-irq"],
    "unsupported": UNSUPPORTED,
}


@pytest.mark.parametrize("choices", [COMMANDS, REQUESTS], ids=["commands", "requests"])
def test_every_combination_runs_or_is_refused_with_a_reason(choices):
    scenario = Scenario(workload=Unmaps(pages=3, ops=2, ats_devices=1), smmu={"ril": False}, vcpus=2)
    possible, refused = [], []
    for chosen in itertools.product(*choices.values()):
        columns = dict(zip(choices, chosen, strict=True))
        try:
            routed = columns["unsupported"] == "guest-routes"
            vcmdqs = 2 if columns["queues"] == "cmdq+vcmdq" else 0
            fallback = "qemu-today" if routed else ""
            possible.append(Approach(name="row", title="", fallback=fallback, vcmdqs=vcmdqs, **columns))
        except InvalidInput as error:
            refused += error.problems
    assert all(line.startswith("approach.") and " cannot be: " in line for line in refused)
    assert len(possible) >= sum(row.front == choices["front"][0] for row in approaches())
    for row in possible:
        run = simulate(scenario, row)
        assert len(run.measured) == 4, row
        assert all(prod == cons for *_, prod, cons in run.queues), row


def test_a_what_if_keeps_its_origin_in_its_name():
    assert approach("batched").but(completion="shared-cons").but(host_group=127).name == "batched*"
    assert approach("batched").but(name="mine").name == "mine"


def test_a_fallback_on_hardware_or_without_use_is_refused():
    for other in ("vcmdq", "bare-metal", "vcmdq-emulated", "vhost-iommu"):
        assert "the guest's main queue is a trapped CMDQ" in problems(approach("vcmdq").but, fallback=other)[0]
    assert "nothing is routed there" in problems(approach("batched").but, fallback="qemu-today")[0]
    assert "if and only if" in problems(approach("batched").but, vcmdqs=7)[0]
    assert "takes every command" in problems(approach("bare-metal").but, unsupported="skip")[0]
    assert "did you mean 'batched'" in problems(approach("vcmdq").but, fallback="batchd")[0]
