# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where is my command now?
#
# A guest unmaps four pages, and its driver writes five entries: four TLBIs and a CMD_SYNC. Before you go on, guess: while the
# guest waits, who holds them longest under QEMU of 2026? And is it the same party once a kernel thread serves the queue?

# %%
import smmu_lab as lab

scenario = lab.Scenario(workload=lab.unmaps(pages=4, ops=40), smmu=lab.Smmu(ril=False), vcpus=2)

# %% [markdown]
# ## One list, by way of the VMM
#
# Press **Step** (or →) and watch the slots: dotted while they are written, framed when PROD covers them, filled when the VMM
# has taken them up, dashed when CONS is behind them. ← takes you back. Click a slot to follow its command: its stamps
# are listed below, and stepping then goes from one of them to the next.

# %%
lab.microscope(lab.simulate(scenario, "qemu-today"))

# %% [markdown]
# Four TLBIs are four round trips: decode, ioctl, the host's queue, the engine, and back, one after the other; where the VMM's
# lane is thin, it waits for the engine. The vCPU is outside of the guest all that time: its doorbell is an exit that ends when the
# queue is empty. Look at `guest0 KVM exits`: each unmap has a second exit, for the read of CONS.
#
# ## The same, by a kernel thread

# %%
lab.microscope(lab.simulate(scenario, "short-path"))

# %% [markdown]
# Two things moved. The doorbell's exit is short, and its vCPU goes on at once, to poll CONS on a shared page. And all entries go to the
# SMMU as *one* list: the engine lane has one bar per drain, not one per TLBI. In exchange there is a thin bar that was not there before:
# `wake`. Press `d` for the next doorbell and see how often the thread was already awake.
#
# The stamps are figures as well. From the doorbell until the consumer takes the commands up, and from there until CONS covers
# them, for each list:

# %%
from smmu_lab.sim.watch import watch
from smmu_lab.units import show_time

for name in ("qemu-today", "short-path", "vcmdq"):
    lists = watch(lab.simulate(scenario, name)).lists
    waits = [taken - rung for rung, taken in zip(lists["published"], lists["taken"], strict=True)]
    works = [done - taken for taken, done in zip(lists["taken"], lists["covered"], strict=True)]
    print(
        f"{name:11} until taken up {show_time(sum(waits) / len(waits)):>8}, until done {show_time(sum(works) / len(works)):>8}"
    )

# %% [markdown]
# So it is not the same party. Under QEMU most of the time is the consumer's own: an ioctl and a CMD_SYNC of the host's for each command.
# On the short path most of it is the wait for somebody to begin.
#
# ## The whole comparison
#
# One command is an anecdote. The dashboard has all of them: the tail, the intervals, the events, and (point at a stage, or reach it with
# the keyboard) the costs that a stage is made of, with what is known about each.

# %%
lab.dashboard(lab.compare(scenario.but({"workload.ops": 300}), ["qemu-today", "batched", "short-path", "vcmdq"]))

# %% [markdown]
# ## Key points
#
# * A list has seven stamps: begun, written, published, taken up, visible, covered by CONS, seen. Approaches differ in who is at work between
#   two of them, and in nothing else.
# * The slots and lanes are replayed from stamps; nothing is simulated while you look. So a step back is exact, and the notebook still plays
#   without a kernel when it was saved with its widgets.
# * Addresses in the slots are examples. The simulation counts commands: which page a TLBI names changes no time.
#
# ## Check yourself
#
# Without looking: under `vcmdq`, which lane is missing, and why is `lock` missing with it? Then replay it.

# %%
print("ALL-DONE")
