# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many vSMMUs does a guest need?
#
# A server has several SMMUs. A guest gets devices from behind two of them, and an emulated disk besides. How many SMMUs should it *see*? In the [thread of March 2023](https://lore.kernel.org/all/ZB23WJu2BEH0yC%2Fy@nvidia.com/) the question came up in
# one line: a VCMDQ belongs to one physical SMMU, so does that imply multiple vSMMU instances, **plus one for emulated devices**?
#
# One vSMMU for everything is simpler: for the VMM, for the firmware tables, for whoever configures it. This notebook looks at what it costs.
#
# **Write down your guesses first:**
#
# 1. The guest unmaps memory of *one* device. It sees one vSMMU over 16 physical SMMUs. How many commands do SMMUs run for one TLBI and its CMD_SYNC?
# 2. It sees 16 vSMMUs instead, and all its devices share *one* domain. Is an unmap now faster than with the one vSMMU, or slower?

# %%
from tomllib import loads

from IPython.display import HTML

import smmu_lab as lab
from smmu_lab.charts import still
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number, show_time

guest = lab.Scenario(workload=lab.unmaps(pages=4, think="20us", ops=120))


def on(preset, smmus=2, drives=("d0",), **more):
    """The guest on a layout; its vCPUs unmap memory of the domains in `drives`, in turn."""
    return guest.but(topology=lab.Topology.preset(preset, smmus=smmus, drives=drives, **more))


# %% [markdown]
# ## Three layouts
#
# `d0` is the domain (the ASID, the page tables) of the device `vf0` behind the first SMMU, `d1` that of `vf1` behind the second one. Follow the way of a command from the vCPU down.
# First **broadcast**: one vSMMU over both SMMUs. Its queue does not say which SMMU a TLBI is for: a TLBI names an ASID, and any device of the vSMMU might use that.
# So the VMM sends it to both.

# %%
lab.show_topology(on("broadcast"))

# %% [markdown]
# **per-smmu**: a vSMMU for each SMMU, each with a queue of its own, and one more for what the VMM emulates. That one leads nowhere: nothing behind it can hold a translation
# but the VMM itself.

# %%
lab.show_topology(on("per-smmu"))

# %% [markdown]
# **mixed** is what one builds who has heard nothing of the thread: one vSMMU for all of it.

# %%
lab.show_topology(on("mixed"))

# %% [markdown]
# ## Which layout takes what?
#
# Before you look: which of the seventeen approaches cannot run on *broadcast*? Which on *mixed*? And which of them does not care?

# %%
table = lab.layouts(guest, [on(name).topology for name in ("broadcast", "per-smmu", "mixed")])
table

# %% [markdown]
# * `vcmdq` refuses **broadcast**: the hardware queue sits in *one* SMMU, and what is written there reaches no other. That is the answer to the thread's first half: yes, hardware
#   queues imply a vSMMU for each physical SMMU.
# * **mixed** is taken only where the VMM decodes every command. An emulated device's invalidations have to be *seen* by the VMM, and a kernel worker, or a VCMDQ, consumes the queue
#   behind its back. So one emulated device takes the short path away from all the others: the second half, plus one for emulated devices. QEMU's RFC v3 refuses an emulated
#   device behind `accel=on` for that reason.
# * Bare metal does not care, and requests of virtio-iommu are not multiplied either: whoever knows which SMMU the domain's devices are behind has nothing to broadcast.
#
# ## Where nothing forbids it: what does the wrong layout cost?
#
# An emulated disk unmaps its buffers. Nothing in any SMMU knows of them. How many host commands should that be? How many are they behind *mixed*?


# %%
def emulated(preset, smmus):
    """Host commands and latency of the emulated device's unmaps; and latency of a real device's, with both at work."""
    alone = lab.simulate(on(preset, smmus, ["emulated"]), "qemu-today")
    both = lab.simulate(on(preset, smmus, ["d0", "emulated"]).but(vcpus=2), "qemu-today")
    real = [took for took, vcpu in zip(both.latencies, both.ops["vcpu"], strict=True) if vcpu == 0]
    return (
        show_number(alone.per_operation("host_commands")),
        show_time(alone.latency.mean.value),
        show_time(sum(real) / len(real)),
    )


figures = "host commands", "its unmap", "a real device's"
Sheet(
    ("SMMUs", *figures, *(f"{name} " for name in figures)),
    [(str(smmus), *emulated("mixed", smmus), *emulated("per-smmu", smmus)) for smmus in (1, 2, 4, 8)],
    caption="an emulated device behind one vSMMU for all (left), and behind a vSMMU of its own (right)",
)

# %% [markdown]
# Behind a vSMMU of its own an emulated device costs two exits and nothing else. In the mixed layout each of its TLBIs goes to *every* SMMU of the machine, where it hits nothing. And the VMM holds
# its big lock meanwhile, so the real device waits as well.
#
# The same as a picture, for four SMMUs: everything below the VMM is useless work.

# %%
lab.show_topology(lab.simulate(on("mixed", 4, ["emulated"]), "qemu-today"))

# %% [markdown]
# ## A domain behind one SMMU: linear, or flat?
#
# Now real devices only. One vCPU unmaps memory of `d0`, whose device is behind the first SMMU. The machine grows from 1 to 16 SMMUs. Guess what one more SMMU adds under `qemu-today`, which makes one ioctl
# per command. It is a sum of costs that `lab.costs("grace")` lists.

# %%
numbers = 1, 2, 4, 8, 12, 16
alone = lab.amplification(guest, "qemu-today", numbers)
HTML(still(alone.chart(shared=False), alone.verdict))

# %%
HTML(still(alone.chart(shared=False, what="commands"), alone.verdict))

# %%
c = guest.costs
step = c.ioctl + c.copy + c.conv + c.hsubmit + c.t_tlbi + c.t_sync
print("one vSMMU for all, without ATS:", alone.line("broadcast").growth)
print("one vSMMU for all, with ATS:   ", alone.line("broadcast", ats=True).growth)
print("a vSMMU for each:              ", alone.line("per-smmu").growth)
print("ioctl + copy + conv + hsubmit + t_tlbi + t_sync =", step, "ns")

# %% [markdown]
# *Broadcast* grows linearly, by exactly one more ioctl, TLBI and CMD_SYNC per SMMU. *Per instance* is flat: +0. Of the 32 commands that 16 SMMUs run for one unmap, 30 are for SMMUs that have never
# heard of the domain. With ATS the slope is the same: an ATC_INV names a StreamID, so it goes to its own SMMU, and is not multiplied.
#
# These intervals are no wider than a point, for nothing is random when one vCPU meets nobody. With four vCPUs there is company. Will the line keep its slope?

# %%
company = lab.amplification(guest.but({"vcpus": 4, "workload.think": "100us"}), "qemu-today", numbers, [False])
HTML(still(company.chart(shared=False), company.verdict))

# %%
print("one vSMMU for all:", company.line("broadcast").growth)
print("a vSMMU for each: ", company.line("per-smmu").growth)

# %% [markdown]
# It does not, and it is no line any more. An exit lasts longer with every SMMU, and it holds the VMM's lock. The others wait longer, and meet more of each other. *Flat* stays flat: what happens behind other
# SMMUs does not concern this domain.
#
# ## One domain behind all of them
#
# A guest may attach all its devices to one domain, those of one VFIO container for instance. Then every SMMU really has to run the TLBI. Both layouts need the same commands on the same SMMUs. Your second guess, please: which is faster?

# %%
HTML(still(alone.chart(shared=True), alone.verdict))

# %% [markdown]
# A vSMMU for each is *three times dearer*, on one vCPU that meets nobody. Where does the time go? Eight SMMUs, stage by stage:

# %%
runs = [lab.simulate(on(preset, 8, shared=True), "qemu-today") for preset in ("broadcast", "per-smmu")]
Sheet(
    ("stage", "one vSMMU for all", "a vSMMU for each"),
    [
        (stage, *(show_time(run.breakdown[stage]) for run in runs))
        for stage, spent in runs[0].breakdown.items()
        if spent
    ],
    left=("stage",),
    caption="one unmap of a domain with a device behind each of 8 SMMUs, qemu-today",
)

# %% [markdown]
# The ioctls, and what the SMMUs do (`handoff`, `queue`, `execute`) take the same time to the nanosecond. What is eight times as much is the *way there*: eight lists are built, eight doorbells exit, eight times CONS is read by an exit. Linux goes through a domain's SMMUs
# one after the other, and waits for each CMD_SYNC before it writes the next command (`arm_smmu_domain_inv_range`). One vSMMU that broadcasts crosses the boundary once, and lets the host do the loop.
#
# So *broadcast* is not simply the bad layout. It is the better one for domains that span, and the worse one for those that do not. Is it, under every approach? Guess what becomes of the v1 patch (`per-command`) with ATS.


# %%
def grows(line):
    """The slope with its interval, and whether it is one."""
    return (str(line.fit.slope), line.fit.shape) if line.fit else ("-", line.refusal)


names = "qemu-today", "per-command", "short-path-sync", "vcmdq"
shared = {name: lab.amplification(guest, name, numbers, [True]) for name in names}
Sheet(
    ("approach", "one vSMMU for all", "growth", "a vSMMU for each", "growth "),
    [
        (
            name,
            *grows(made.line("broadcast", shared=True, ats=True)),
            *grows(made.line("per-smmu", shared=True, ats=True)),
        )
        for name, made in shared.items()
    ],
    left=("approach", "growth", "growth "),
    caption="what one more SMMU adds to an unmap of a domain that has a device with ATS behind each of them",
)

# %% [markdown]
# * `short-path-sync` has light exits: the difference shrinks, and does not turn, for every instance still has a wait of its own.
# * `per-command` turns it. The v1 patch answers every TLBI and each of the k ATC_INVs with an ATC_INV for *each device of the domain behind an SMMU*, on all k SMMUs: k times k lists. That is no line, and the table says so. A vSMMU for each keeps every fan-out to
#   one device.
# * `vcmdq` has no choice, and here it would like one: `short-path-sync` that broadcasts adds less per SMMU than a VCMDQ on each, for its one light exit covers them all.
#
# ## What a broadcast costs in throughput
#
# Eight vCPUs, each on a domain of its own behind an SMMU of its own. Nothing is shared that need be. Who gains most from a vSMMU for each?


# %%
def per_second(preset, name):
    """Unmaps per second of 8 vCPUs over 8 SMMUs; nothing where a rule forbids it."""
    scenario = on(preset, 8, [f"d{k}" for k in range(8)]).but(vcpus=8)
    return "-" if scenario.refuses(lab.approach(name)) else f"{lab.simulate(scenario, name).throughput:,.0f}"


Sheet(
    ("approach", "one vSMMU for all", "a vSMMU for each"),
    [
        (name, per_second("broadcast", name), per_second("per-smmu", name))
        for name in ("qemu-today", "batched", "short-path", "short-path-sync", "vcmdq")
    ],
    left=("approach",),
    caption="unmaps per second, 8 vCPUs over 8 SMMUs",
)

# %% [markdown]
# Whoever holds the big lock longest. And look at `batched`: with a queue for each vCPU there is nobody to be batched with, so it is `qemu-today` again, and nearly twice as fast as with a queue for all.
#
# ## A machine of your own
#
# A topology is a few lines of TOML. This one has four mistakes. Find them before you run the cell.

# %%
mine = """
name = "mine"
smmus = 2

[[layouts]]
[[layouts.vsmmus]]
name = "fast"
devices = [
  { name = "nvme", smmu = 0, vsid = 0x100, ats = true },
  { name = "nic", smmu = 2, vsid = 0x100, domain = "net" },
  { name = "console", kind = "emulated", vsid = 0x110, domain = "boot" },
  { name = "gpu", smmu = 1, domain = "net" },
]
"""
try:
    lab.Topology(**loads(mine))
except lab.InvalidInput as refused:
    print(*refused.problems, sep="\n\n")

# %% [markdown]
# Every refusal names the edge, the rule and a way out. With a vSMMU for the console, and one for each SMMU:

# %%
fixed = lab.Topology(
    **loads("""
name = "mine"
smmus = 2

[[layouts]]
drives = ["d0", "net"]
[[layouts.vsmmus]]
name = "storage"
devices = [{ name = "nvme", smmu = 0, vsid = 0x100, ats = true }]
[[layouts.vsmmus]]
name = "network"
devices = [
  { name = "nic", smmu = 1, vsid = 0x100, domain = "net" },
  { name = "gpu", smmu = 1, vsid = 0x108, domain = "net" },
]
[[layouts.vsmmus]]
name = "rest"
accel = false
devices = [{ name = "console", kind = "emulated", vsid = 0x110, domain = "boot" }]
""")
)
lab.show_topology(guest.but(vcpus=2, topology=fixed), "vcmdq")

# %% [markdown]
# ## What to take to a review
#
# * **A vSMMU for each physical SMMU, plus one for emulated devices**: hardware queues need both, by rule. Whoever else takes the VMM out of the path needs the second.
# * Without hardware queues it is a choice. For a domain behind one SMMU, one vSMMU for all costs an ioctl, a TLBI and a CMD_SYNC on every other SMMU, for nothing, and more than that with company. For a domain behind all of them it saves exits.
# * An emulated device behind a vSMMU for all is the worst of both: useless commands on every SMMU, under the big lock.
#
# ## Your turn
#
# 1. `lab.amplification(guest, "short-path")`: *broadcast* is no line here, though one vCPU meets nobody. Look at the stage `complete`: what does the guest do while the worker is busy?
# 2. How many devices per SMMU does a VINTF take? `lab.Topology.preset("per-smmu", devices=17)` under `vcmdq` knows.
# 3. A driver that rang all doorbells of a shared domain *before* it waited for the first would pay the wait once. What would 16 instances cost then under `vcmdq`, and what stands in the way in `arm_smmu_domain_inv_range`?

# %%
assert abs(alone.line("broadcast").fit.slope.value - step) < 1e-6
assert alone.line("broadcast").points[16].host == 32
assert alone.line("per-smmu").fit.shape == company.line("per-smmu").fit.shape == "flat"
assert company.line("broadcast").fit.shape == "not linear"
slopes = {
    name: [made.line(preset, True, True).fit for preset in ("broadcast", "per-smmu")] for name, made in shared.items()
}
assert all(slopes[name][0].slope.high < slopes[name][1].slope.low for name in ("qemu-today", "short-path-sync"))
assert slopes["per-command"][0].slope.low > slopes["per-command"][1].slope.high
assert emulated("mixed", 8)[0] == "16"
assert emulated("per-smmu", 8)[0] == "0"
assert str(table["vcmdq"]["broadcast"]) == "one-smmu-per-vcmdq"
assert str(table["short-path"]["mixed"]) == "vmm-reads-all"
print("ALL-DONE")
