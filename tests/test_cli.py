"""The shell: tables for people, one JSON document for programs, one line per problem and exit status 2."""

import json
import subprocess
import sys

import pytest

import smmu_lab as lab


def run(*args, stdin=""):
    return subprocess.run(
        [sys.executable, "-c", "from smmu_lab.cli import main; main()", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_compare_prints_the_verdict_and_nothing_else_on_stderr():
    done = run("compare", "qemu-today", "vcmdq", "--trace", "nvme_dd_r1m_j1_strict_61", "--think", "20us")
    assert done.returncode == 0
    assert "vcmdq is fastest" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_precision_replicates():
    done = run("compare", "vcmdq", "--set", "workload.ops=20", "--precision", "0.2", "--json")
    data = json.loads(done.stdout)
    assert data["runs"]["vcmdq"]["replications"] >= 5


def test_compare_json_is_what_python_gives():
    done = run("compare", "batched", "vcmdq", "--pages", "64", "--no-ril", "--set", "workload.ops=50", "--json")
    scenario = lab.Scenario(workload=lab.unmaps(pages=64, ops=50), smmu=lab.Smmu(ril=False))
    assert json.loads(done.stdout) == json.loads(lab.compare(scenario, ["batched", "vcmdq"]).to_json())


def test_a_scenario_file_is_the_base_of_the_flags(tmp_path):
    file = tmp_path / "review.toml"
    file.write_text(lab.Scenario(workload=lab.unmaps(pages=3, ops=20), vcpus=2).to_toml())
    done = run("compare", "vcmdq", "--scenario", str(file), "--vcpus", "3", "--json")
    data = json.loads(done.stdout)["scenario"]
    assert (data["workload"]["pages"], data["vcpus"]) == (3, 3)


def test_a_topology_is_shown_and_exported(tmp_path):
    file = tmp_path / "machine.graphml"
    done = run("topology", "per-smmu", "--by", "vcmdq", "--vcpus", "2", "--graphml", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert "<graphml" in file.read_text()
    shown = run("topology", "per-smmu", "--by", "vcmdq", "--run", "--set", "workload.ops=20")
    assert "What limits most" in shown.stdout
    assert run("topology", "broadcast", "--dot").stdout.startswith("digraph")


def test_a_topology_comes_from_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "broadcast"\nsmmus = 3\n')
    done = run("compare", "batched", "--topology", str(file), "--ops", "20", "--json")
    assert json.loads(done.stdout)["scenario"]["topology"]["smmus"] == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("layouts", "vcmdq", "--topology", "broadcast"), "one-smmu-per-vcmdq"),
        (("amplification", "batched", "--smmus", "1,2,4", "--no-ats", "--set", "workload.ops=20"), "grows linearly"),
        (("neighbours", "vcmdq", "--set", "workload.ops=50"), "private queue"),
        (("contention", "batched", "--over", "guests=1,2", "--set", "workload.ops=20"), "guests = 2"),
    ],
)
def test_studies_of_topologies_print_their_tables(args, said):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert json.loads(run(*args, "--json").stdout)


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (["topology", "per-smu"], ["topology.preset 'per-smu': unknown; did you mean 'per-smmu'?"]),
        (
            ["compare", "vcmdq", "--topology", "broadcast"],
            ["topology under vcmdq: guest0.vsmmu0 -> smmu0, smmu1 breaks the rule 'one-smmu-per-vcmdq'"],
        ),
        (["topology", "--set", "topology.smmus=2"], ["topology.smmus: 2 is not valid: 1 without layouts"]),
        (["amplification", "--smmus", "few"], ["smmus: 'few' is not valid: numbers such as 1,2,4 or 1-16"]),
        (["contention", "batched", "--over", "guests"], ["over['guests']: [] is not valid"]),
        (["compare", "--guests", "2", "--set", "neighbour.guests=2"], ["neighbour.guests: 2 is not valid"]),
        (["compare", "--pages", "0"], ["workload.pages: 0 is not valid: a positive integer"]),
        (["compare", "--set", "workload.pagse=3"], ["workload.pagse: unknown; did you mean 'pages'?"]),
        (["compare", "batchd"], ["approach 'batchd': unknown; did you mean 'batched'?"]),
        (["compare", "--vcpus", "2.7", "--seed", "x"], ["vcpus: 2.7 is not valid", "seed: 'x' is not valid"]),
        (["compare", "--trace", "none.csv.gz"], ["none.csv.gz: cannot be read: No such file or directory"]),
        (["compare", "--precision", "1%"], ["precision: '1%' is not valid: a number above 0 and below 1, e.g. 0.01"]),
        (["present", "vcmdq", "--by", "batchd"], ["approach 'batchd': unknown; did you mean 'batched'?"]),
        (["present", "vcmdq", "--topology", "broadcast"], ["topology under vcmdq: guest0.vsmmu0 -> smmu0, smmu1"]),
        (["compare", "--set", "nonsense"], ["--set: 'nonsense' is not valid: path=value"]),
        (["compare", "--pages"], ["Option '--pages' requires an argument"]),
        (["frobnicate"], ["No such command 'frobnicate'"]),
        (["decode", "12zz"], ["entry 1: '12zz' is not valid: 32 hexadecimal digits"]),
        (["decode", "07" + 31 * "0"], ["entry 1: "]),
        (["trace", "summary", "nvme"], ["trace 'nvme': unknown"]),
    ],
)
def test_bad_input_is_one_line_per_problem_and_status_2(args, lines):
    done = run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    said = done.stderr.strip().splitlines()
    assert len(said) == len(lines)
    for line in lines:
        assert any(each.startswith(f"smmu-lab: {line}") for each in said), said


def test_what_present_needs_is_said():
    program = "import sys; sys.modules['voila'] = None; from smmu_lab.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "present"], capture_output=True, text=True, timeout=120)
    said = "smmu-lab: present: Voila is not installed: pip install 'smmu-lab[lab]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_decode_reads_arguments_stdin_and_traces():
    entry = "12000000000003000001c7f7ff000000"
    alone = run("decode", entry).stdout
    assert alone.startswith("TLBI_NH_VA asid=0x3")
    assert run("decode", stdin=f"{entry}\n\n{entry}\n").stdout == 2 * alone
    recorded = run("decode", "--trace", "nvme_dd_r1m_j1_strict_61").stdout.splitlines()
    assert len(recorded) == len(lab.read_trace("nvme_dd_r1m_j1_strict_61").commands)
    first = json.loads(run("decode", "--json", entry).stdout)
    assert (first["name"], first["fields"]["asid"]) == ("TLBI_NH_VA", 3)


def test_a_line_that_is_no_entry_is_named_after_the_entries_before():
    done = run("decode", stdin="46000000000000000000000000000000\n07\n")
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert done.stderr == "smmu-lab: line 2: '07' is not valid: 32 hexadecimal digits (there are 2)\n"


def test_a_closed_stdout_is_one_line_and_status_1():
    program = [sys.executable, "-c", "from smmu_lab.cli import main; main()", "approaches"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "", *program], stderr=subprocess.PIPE, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (1, b"smmu-lab: cannot write: stdout is closed\n")


def test_listings_are_json_too():
    assert [row["name"] for row in json.loads(run("approaches", "--json").stdout)] == [a.name for a in lab.approaches()]
    assert json.loads(run("costs", "n1", "--json").stdout)["exit_user"] == lab.costs("n1")["exit_user"].values()
    assert {each["name"] for each in json.loads(run("trace", "list", "--json").stdout)} == set(lab.traces())
    assert json.loads(run("trace", "summary", "nvme_dd_r1m_j1_strict_61", "--json").stdout)["doorbells"] == 128
