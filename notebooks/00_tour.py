# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here: a tour in five minutes
#
# A guest's driver takes a page away from a device. The device's IOMMU may still hold the old translation, so the driver
# writes **invalidation commands** into a queue in memory, ends them with a **CMD_SYNC**, rings a **doorbell** (a write
# of the queue's PROD register) and waits until CONS has passed its CMD_SYNC. Only then may the page be used again.
#
# In a virtual machine somebody has to pick these commands up and bring them to the real SMMU. *Who?* The VMM with one
# ioctl per command, or per doorbell? The kernel, reading the guest's own queue? A kernel thread that the doorbell wakes?
# The hardware itself? A [mail thread of March 2023](https://lore.kernel.org/all/ZB23WJu2BEH0yC%2Fy@nvidia.com/) asked.
# Here you can run the answers.
#
# Run the cells from top to bottom with Shift+Enter.

# %%
import smmu_lab as lab

# %% [markdown]
# ## 1. What is asked for
#
# The guest unmaps 25 pages. An SMMU with range invalidation takes one command; without it the driver writes one per
# page. Commands are 16 bytes; here they are as the guest writes them, and disassembled.

# %%
from smmu_lab.arch import unmap_commands

for command in unmap_commands(0x1_0000_0000, 25 * 4096, ril=True, asid=3):
    print(bytes(command).hex(" ", 8), "=", command)

without_ranges = unmap_commands(0x1_0000_0000, 25 * 4096, ril=False, asid=3)
print(f"without range invalidation: {len(without_ranges)} commands, the first one {without_ranges[0]}")

# %% [markdown]
# ## 2. A real guest
#
# These guests were recorded: an unmodified Linux, every doorbell and every command it wrote. Their *times* are those of
# an emulator and are not used; what they ask for, in which order and on which vCPU, is.

# %%
lab.traces()

# %%
guest = lab.read_trace("nvme_dd_r4k_j4_strict_61")
guest

# %% [markdown]
# ## 3. The comparison
#
# Every approach serves the same unmaps of that guest, four vCPUs that read from an NVMe disk, with 20 µs of other work
# between two unmaps. Differences are taken unmap by unmap; the costs are those of a machine like NVIDIA Grace.

# %%
scenario = lab.Scenario(workload=guest.workload(think="20us"), costs="grace")
approaches = "qemu-today", "batched", "native-queue", "short-path", "vcmdq", "bare-metal"
lab.compare(scenario, approaches)

# %% [markdown]
# Read it like this:
#
# * *events per unmap*: QEMU of today exits twice, once for the doorbell and once to read CONS, whatever the unmap.
#   Batching saves nothing per unmap here, because range invalidation makes each unmap one command: `batched` wins only
#   what several vCPUs put behind one doorbell.
# * *where the mean goes*: in `lock` and `gather` vCPUs wait for each other's exits; a queue in hardware has neither.
# * every figure rests on costs, most of which are estimates: `lab.costs("grace")` shows each with its range and source.

# %% [markdown]
# ## 4. Turn the knobs
#
# Pages per unmap, range invalidation, vCPUs, machine; under *Approaches* any column of any of them. Two questions to try: at how many pages *without* range invalidation
# does `batched` leave `qemu-today` behind? And does it ever, *with* it?

# %%
lab.explore()

# %% [markdown]
# ## 5. Watch one command
#
# The same machine, in slow motion. **→** steps to the next thing that happens, **←** back; **d** goes to the next doorbell, **f** follows a
# command. What is thick works, what is thin waits.

# %%
lab.microscope(lab.simulate(scenario, "qemu-today"), commands=2_000)

# %% [markdown]
# ## 6. Something that surprised us
#
# Let the guest read CONS from a shared page instead of by an exit, and both mean and tail get *worse*:

# %%
few = scenario.but({"workload.think": "50us"})
lab.compare(few, ["short-path-trapped-cons", "short-path"]).latency_sheet()

# %% [markdown]
# Linux polls CONS in steps: nine short ones, then a `udelay` that doubles each time: 1, 2, 4, 8 µs. The steps are counted,
# not timed. Exit-free reads are quick, so the driver reaches the long delays sooner, and sleeps past a CMD_SYNC that was
# done long ago. Removing an exit is not enough if the wait is not redesigned with it.

# %% [markdown]
# ## 7. What is not modelled
#
# Caches and translation (a TLBI costs the same whatever it hits), stolen CPU time, page faults, NUMA, errors and timeouts
# of devices, and the map side. Hardware queues are served first come, first served. Costs are constants but for the wake-up
# of a kernel thread. [docs/model.md](../docs/model.md) has the whole list; every result should be read with it.
#
# ## Key points
#
# * An unmap costs a PROD write and a wait for CONS. Under QEMU both are exits to the VMM.
# * With range invalidation there is nothing to batch within an unmap; what remains is the exits, and the wait for others.
# * Take the exits away (a queue in hardware) and what is left is the SMMU itself.
#
# ## Check yourself
#
# How many exits does an unmap of 130 pages cost without range invalidation? Work it out, then open the exercise
# [e01](../exercises/e01_exits_of_an_unmap/exercise.ipynb) and let the simulator judge.

# %%
print("ALL-DONE")
