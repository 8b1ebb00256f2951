"""The public names are the documented ones, and each exists."""

import smmu_lab as lab

DOCUMENTED = {
    "Costs",
    "Fault",
    "Host",
    "InvalidInput",
    "Scenario",
    "Smmu",
    "Topology",
    "approach",
    "approaches",
    "costs",
} | {
    "amplification",
    "check_approach",
    "compare",
    "contention",
    "dashboard",
    "exercise",
    "explore",
    "inject",
    "layouts",
    "microscope",
    "neighbours",
    "read_trace",
    "show_topology",
    "simulate",
    "traces",
    "unmaps",
}


def test_the_public_names_are_the_documented_ones():
    assert set(lab.__all__) == DOCUMENTED <= set(dir(lab))


def test_each_public_name_exists_and_is_documented():
    for name in lab.__all__:
        assert getattr(lab, name).__doc__, name
