# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a noisy neighbour cost?
#
# Two guests, one SMMU. One of them is quiet: it unmaps a few pages now and then, and wants to have them back soon. The other one is
# whatever it likes to be. It may be its **equal**. It may be a **flood**: large ranges, one after the other, without thinking. Or one of
# its devices may answer every ATC_INV 100 µs late: a **stall**, no error, nothing that anybody is told of.
#
# **Predict first.** Write your answers down before you run anything:
#
# 1. Under which of these approaches does the *stall* reach the quiet guest: `qemu-today`, `short-path`, `vcmdq`, `bare-metal`?
# 2. Under which of them does the *flood* hurt it most?

# %%
from IPython.display import HTML

import smmu_lab as lab
from smmu_lab.charts import still
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

quiet = lab.Scenario(workload=lab.unmaps(pages=16, think="20us", ops=100), smmu=lab.Smmu(ril=False), vcpus=2)

# %% [markdown]
# ## The table
#
# The quiet guest does the same in all company: same seeds, same gaps, so differences are paired. The neighbour goes on until the quiet
# guest is through, and is not measured. `bare-metal` and `ecmdq` have no guests: there the two are groups of CPUs of one host. This takes
# half a minute.

# %%
table = lab.neighbours(quiet)
print(table.verdict)
table.latency_sheet("p99")

# %%
table.slowdown_sheet()

# %% [markdown]
# ## Question 1: the stall
#
# A CMD_SYNC completes after all ATC_INVs before it *in its queue*, whoever wrote them. Every approach that puts the commands of all guests
# into the host's one CMDQ lets the quiet guest wait for a device that it does not have, and never heard of. That is bare metal, too: it
# is the queue that counts, not the virtual machine. `vcmdq`, `vcmdq-overlay` and `ecmdq` have queues of their own. There the stall makes the
# quiet guest a little *faster*: while its neighbour waits, it does not use the engine.
#
# Why is **per-command** so much worse than all others, with more than a millisecond? Two costs multiply. The quiet guest's 16 TLBIs are 16 lists with a
# CMD_SYNC each, and each of these waits. And the v1 patch sends ATC_INVs behind *every* TLBI of the neighbour, so its device is stalled all
# the time.

# %%
table.promises_sheet()

# %%
table.tests_sheet()

# %% [markdown]
# A promise follows from the row's columns: who shares no queue promises that nobody else's ATC_INV holds it up. *yes* means that a test
# could have said *no*; in the tests of this project, hardware that breaks the promise is caught. Where nothing is promised, the harm is shown.
#
# ## Question 2: the flood
#
# Many would say `qemu-today`, where everything is shared and slow. Look at its row again: the flood does *nothing* to it. It is under **vcmdq** and on bare
# metal that p99 grows to 16 times of what it is alone, and that the quiet guest ends up, in the mean, as slow as under QEMU of today. How far does the flood get,
# under each of them?

# %%
flooded = quiet.but({"guests": 2, "neighbour.guests": 1, "neighbour.workload": table.flood})
fifo, turns, parallel = (table[name].approach for name in ("vcmdq", "vcmdq, round-robin", "vcmdq, parallel"))


def tlbis(row):
    """TLBIs that the SMMU runs in a microsecond, for the quiet guest and for the flood."""
    run = lab.simulate(flooded, row)
    return [
        sum(each["tlbi"] for each in run.issued.rows() if each["guest"] == guest) / run.duration * 1000
        for guest in (0, 1)
    ]


names = "qemu-today", "batched", "native-queue", "short-path", fifo, turns, parallel
Sheet(
    ("approach", "quiet guest", "flood", "p99 of the quiet guest"),
    [
        (
            name := row if isinstance(row, str) else row.name,
            *(f"{each:.2f}" for each in tlbis(row)),
            show_time(table[name].latency["flood"].p99.value),
        )
        for row in names
    ],
    left=("approach",),
    caption=f"TLBIs per microsecond; one engine that does nothing else runs {1000 / quiet.costs.t_tlbi:.1f}",
)

# %% [markdown]
# **A slow path is a rate limiter.** Under `qemu-today` every TLBI of the flood is an ioctl with a host CMD_SYNC that is waited for, one after the other under the flood's
# own big lock: it comes to half a TLBI per microsecond, 4 % of what the engine can do. Give it a queue of its own, and it comes to 85 %. Lists are served in
# order of arrival, and the driver writes all eight lists of a large unmap before it waits: what stands in front of the quiet guest is up to 2 vCPUs x 511 TLBIs x 80 ns = 82 µs. It keeps
# less than a third of the rate that it has alone (0.42 of 1.45). Isolation that nobody designed goes away with the exits.
#
# How large must the flood's ranges be?

# %%
over = {"neighbour.workload.pages": [1, 16, 64, 128, 256, 511]}
larger = lab.contention(flooded, ["qemu-today", "batched", fifo, turns], over)
HTML(still(larger.chart(), "qemu-today is flat at 56 µs; vcmdq rises from 3 to 55 µs; the others stay low"))

# %% [markdown]
# The line of `vcmdq` meets that of `qemu-today`: beside a flood of 2 MiB ranges, the quiet guest has nothing left of its fast path. The line at the bottom is the same
# hardware with **round-robin** arbitration, a command of each queue in turn. It is not free: beside a guest of its own kind, lists that were served one after
# the other are now served together, and both end late (*equal: mean* above).
#
# Engines that are private (`vcmdq, parallel`) are the only ones for which the table says *exactly*: not one operation starts or ends a nanosecond later.
#
# ## What range invalidation does to all of this
#
# The same with an SMMU that takes ranges: an unmap of 511 pages is two TLBIs.

# %%
ranges = lab.neighbours(quiet.but({"smmu.ril": True}), ["qemu-today", "batched", "short-path", fifo, "bare-metal"])
print(ranges.verdict)
ranges.slowdown_sheet()

# %% [markdown]
# The flood is gone: it has no long lists left to send. The stall is still there for everybody in the shared queue. It is a matter of how many CMD_SYNCs wait, not of how many
# commands: under `qemu-today` it falls from 188 to 80 µs, as the quiet guest's unmap is one TLBI with one host CMD_SYNC now, and not 16. Two neighbours, two different
# cures: *range invalidation* (or arbitration) against a flood, *a private queue* against a stall.
#
# ## Where do 131 and 260 µs come from?
#
# Look at the p99s of `short-path` in the first table, beside a flood and with the stall: few values, whatever the seed, and each about twice another one. And `short-path-polled`, a different approach, has nearly
# the same two. No queue does that.

# %%
stalled = flooded.but({"neighbour.workload": quiet.workload.but(ats_devices=1, stall="100us")})
for name, made in {"flood": flooded, "stall": stalled}.items():
    waits = lab.simulate(made, "short-path").series
    steps = sorted({round(ns, -3) // 1000 for ns in waits if ns > 25_000})
    print(f"{name}: unmaps of more than 25 µs end after", ", ".join(map(str, steps)), "µs")
print("1 + 2 + 4 + ... =", ", ".join(str(2**k - 1) for k in range(5, 9)))

# %% [markdown]
# It is the guest's own poll loop. Its `udelay` doubles: 1, 2, 4, ... µs, so after the first steps it looks again at 31, 63, 127 and 255 µs and a bit, and does not see what was done
# long before. The neighbour moves an unmap past one of these steps, and the guest's driver does the rest: beside the flood the mean is less than twice what it is alone, and p99 seven times.
#
# ## Not noisy, just many
#
# Nobody floods here. All guests are alike, and think for 2 µs only. How many can share one SMMU?

# %%
many = quiet.but({"workload.think": "2us", "workload.ops": 60})
crowd = lab.contention(many, ["qemu-today", "batched", "short-path", "vcmdq"], {"guests": [1, 2, 4, 8, 16]})
HTML(still(crowd.chart(), "all lines rise once the engine is busy; vcmdq first, qemu-today last"))

# %%
costs = quiet.costs
lists = 1e9 / (16 * costs.t_tlbi + costs.sync_occ)
singly = 1e9 / (16 * (costs.t_tlbi + costs.sync_occ))
print(f"16 TLBIs and a CMD_SYNC: at most {lists:,.0f} a second; a CMD_SYNC behind each TLBI: {singly:,.0f}")
Sheet(
    ("approach", "16 guests, per second", "limited by", "fair to guests"),
    [
        (
            point.approach,
            f"{point.figures.throughput.value:,.0f}",
            point.figures.station,
            f"{point.figures.fairness.value:.3f}",
        )
        for point in crowd.points
        if point.at["guests"] == 16
    ],
    left=("approach", "limited by"),
)

# %% [markdown]
# In the end all of them are the engine, at what the costs say by hand, and share it fairly (Jain's index of the guests' throughputs: 1 is equal, 1/n is everything for one of n).
# `vcmdq` is the first to feel the crowd, because its guests are the first to fill the engine. `qemu-today` is the last to feel it, and then has
# less than half of the throughput: each of its TLBIs brings a CMD_SYNC of its own. `short-path` is a little *above* the bound of one CMD_SYNC for each unmap: a
# worker that finds the lists of two vCPUs issues them with one.
#
# ## Who shares can be arranged
#
# Three guests, two host CPUs for workers that never sleep. Left to themselves they take whichever CPU is free. *Pinned*, two of them have one CPU together. Guess Jain's index:

# %%
three = many.but({"guests": 3, "workload.pages": 4, "workload.think": 0, "host.worker_cpus": 2})
over = {
    "approach.completion": ["msi-word", "shared-cons"],
    "host.placement": ["any", "pinned"],
    "vcpus": [2, 4, 8],
}
lab.contention(three, ["short-path-polled"], over).sheet()

# %% [markdown]
# With `msi-word` pinning gives shares of 1/2, 1 and 1/2, so 2² / (3 x 3/2) = 8/9 = 0.889, however many vCPUs there are. With the polled CONS of `shared-cons` it is *fairer*, most of all with 8 vCPUs.
# Nobody gained by that: line for line, *per second* is lower and the mean is higher than with `msi-word`. What happens to the guest that has a CPU for itself?

# %%
row = lab.approach("short-path-polled")
for completion in ("msi-word", "shared-cons"):
    run = lab.simulate(three.but({"vcpus": 8, "host.placement": "pinned"}), row.but(completion=completion))
    drains = [[each["syncs"] for each in run.batches.rows() if each["guest"] == guest] for guest in range(3)]
    print(
        completion, "CMD_SYNCs per drain:", ", ".join(f"guest {k} {sum(n) / len(n):.1f}" for k, n in enumerate(drains))
    )

# %% [markdown]
# Guest 1 has the CPU. With an MSI word its 8 vCPUs see the end together, come back together, and its worker takes 8 lists at once. When they poll, each oversleeps by a step of its own; they
# come back one by one, and the worker makes twice as many drains with half as much in them, each with a host CMD_SYNC that is waited for. The privileged guest loses its privilege to its own poll loop. *Fair is not
# the same as good.*
#
# ## What to take to a review
#
# * "Isolated" is two questions. *Whose CMD_SYNCs stand in the same queue?* That decides about stalls. *Who feeds the same engine, and in what order is it served?*
#   That decides about floods. A VCMDQ answers the first one only.
# * A faster path raises what a flood can take. Whoever removes exits removes a rate limiter, and should say what takes its place.
# * A mean that doubles can be a p99 that is seven times as long: ask for both, and ask which poll loop is between.
#
# ## Your turn
#
# 1. Let the quiet guest change a context descriptor before every fourth unmap (`workload.cd_every=4`). A VCMDQ does not take the CFGI_CD; it goes through the host's CMDQ, which all guests
#    share. Does the stall reach it there? Think about who writes ATC_INVs into *that* queue, then run `neighbours`.
# 2. Give the guests 8 vCPUs, so that four share each VCMDQ. What is left of the bound of *turns*?
# 3. Stall the device for 20 µs instead of 100. How does what the stall adds grow, and from where on linearly?

# %%
assert table["qemu-today"].slowdown("flood", 0.99).value < 1.1
assert table["vcmdq"].slowdown("flood", 0.99).value > 10
assert all(table[name].harm().low > 25_000 for name in ("qemu-today", "short-path", "bare-metal"))
assert all(case.kept for case in table.cases.values() if case.outcomes)
assert all(case.slowdown("flood", 0.99).value < 1.2 for case in ranges.cases.values())
print("ALL-DONE")
