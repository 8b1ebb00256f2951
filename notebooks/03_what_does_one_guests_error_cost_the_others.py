# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does one guest's error cost the others?
#
# A guest's driver writes garbage into its command queue. A device drops off the bus in the middle of an invalidation. Somebody has
# to notice, somebody has to be told, and everything that stands in the same queue waits. **Who** waits is a property of the path that
# the commands take, and seldom the first thing that a design review looks at. Here it is looked at.

# %%
import smmu_lab as lab
from smmu_lab.record import STAGES
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

names = "qemu-today", "batched", "native-queue", "short-path", "vcmdq", "bare-metal"
load = lab.unmaps(pages=8, ats_devices=1, think="20us", ops=120)
sound = lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), guests=3, vcpus=2)

# %% [markdown]
# ## An entry that no SMMU knows
#
# vCPU 1 of guest 0 writes one more entry, of opcode 0x07, behind three commands of its unmap number 30. The rules (Arm IHI 0070, 7.1):
# the queue stops, CONS stays at that entry, CONS.ERR says CERROR_ILL, GERROR asks for attention. Linux' handler overwrites the entry
# with a CMD_SYNC and writes GERRORN; then the queue goes on.
#
# Guess first: under which approach does the guest hear nothing of it?

# %%
illegal = sound.but({"fault.kind": "illegal-command", "fault.vcpu": 1, "fault.op": 30, "fault.after": 3})
told = lab.inject(illegal, names)
told

# %% [markdown]
# * **qemu-today**, **short-path**: the queue stands for more than a *second*. Keep that in mind, we come back to it.
# * **native-queue**: the kernel reads the guest's queue by itself, and what it may not run, it passes over. Nobody is told, ever.
# * **batched**: three TLBIs are *lost*. QEMU's RFC v3 gathers them for one ioctl, meets the bad entry, and makes no ioctl at all. The guest
#   takes its pages for invalidated, and the SMMU still holds them. `host.reporting="strict"` is the same code with the ioctl made first:

# %%
Sheet(
    ("reporting", "commands lost"),
    [
        (how, str(lab.inject(illegal.but({"host.reporting": how}), ["batched"])["batched"].lost))
        for how in ("upstream", "strict")
    ],
    left=("reporting",),
)

# %% [markdown]
# ## The same error, one vCPU further left
#
# Now the bad entry is written by vCPU 0. That is the vCPU to which the error's interrupt goes. What could that change?

# %%
same = lab.inject(illegal.but({"fault.vcpu": 0}), names)
same

# %% [markdown]
# A CPU waits for its CMD_SYNC **with interrupts off** (`arm_smmu_cmdq_issue_cmdlist`). The handler that would replace the entry cannot run on the
# CPU that waits for it to be replaced. So the queue stands until the driver gives up after 1 s: its unmap returns though nothing was invalidated, the
# interrupt comes through, and everything goes on as if nothing had been. It takes longer than a second, because the poll loop's delays double,
# and the last one is half a second long. In the table above, vCPU 0 of `qemu-today` and `short-path` had the bad luck to wait for a CMD_SYNC behind the entry of
# its neighbour: the longer a path keeps a CPU waiting, the likelier that is.
#
# When was the guest told, and when did its handler run?

# %%
Sheet(
    ("approach", "told after", "handled after", "queue stands", "gave up"),
    [
        (
            name,
            *(show_time(stop[what] - stop["stopped"]) for what in ("told", "handled", "resumed")),
            str(each.timeouts),
        )
        for name, each in same.effects.items()
        for stop in each.run.stops.rows()
    ],
    left=("approach",),
    caption="from the entry in error on, vCPU 0",
)

# %% [markdown]
# ## A device that answers late
#
# The device of guest 0 takes 200 µs longer to answer one ATC_INV. Nothing is wrong, no error is told. Who waits?

# %%
late = lab.inject(sound.but({"fault.kind": "stalled-device", "fault.op": 30, "fault.delay": "200us"}), names)
late

# %% [markdown]
# Every CMD_SYNC of a queue waits for the ATC_INVs before it, whoever sent them. All approaches here but the VCMDQ put the commands of all guests into
# **one** host queue, so one guest's device holds up all guests. With a VCMDQ only its own queue waits. (A microsecond more or less, here and above, is no waiting: after a fault
# lists meet others than before.)
#
# What does the time of the others go to? The stage that holds most of their longest unmap tells. Another guest waits in the host's queue, or behind a neighbour of its own that
# does. The struck guest's own other vCPU does not even get that far where doorbells trap: it has its commands in the queue, but PROD is written by one CPU after the other, and the one whose turn it
# is sits in its exit (`gather`). With a kernel worker it is the worker that does not come (`wake`).


# %%
def longest(run, guest, vcpu):
    """The longest operation of a vCPU: its latency, and the stage that holds most of it."""
    mine = [k for k, who in enumerate(zip(run.ops["guest"], run.ops["vcpu"], strict=True)) if who == (guest, vcpu)]
    worst = max(mine, key=run.latencies.__getitem__)
    stage = max(STAGES, key=lambda stage: run.ops[stage][worst])
    return show_time(run.latencies[worst]), f"{stage}: {STAGES[stage]}"


Sheet(
    ("approach", "vCPU 0.1", "in stage", "vCPU 1.0", "in stage "),
    [(name, *longest(late[name].run, 0, 1), *longest(late[name].run, 1, 0)) for name in names],
    left=("approach", "in stage", "in stage "),
    caption="the longest unmap of the struck guest's other vCPU, and of a vCPU of another guest",
)

# %% [markdown]
# ## A device that never answers
#
# PCI Express lets a device take a minute before an ATC_INV counts as timed out, and then half a minute more. The driver gives up after **one second**. So
# with `atc_timeout` as it is, the SMMU's own CERROR_ATC_INV_SYNC never arrives first. Let the SMMU give up after 10 ms instead, and after a minute:

# %%
gone = sound.but({"fault.kind": "atc-timeout", "fault.op": 30, "workload.ops": 40})
short = lab.inject(gone.but({"costs.atc_timeout": "10ms"}), names)
short

# %% [markdown]
# Only who runs the hardware's queue is told: the guest with a VCMDQ, and the host on bare metal. Everywhere else the error is the *host's*: its handler has the
# CMD_SYNC repeated, the ioctl succeeds, and the guest goes on with a device that may still use the old translation.

# %%
minute = lab.inject(gone, names)
minute

# %% [markdown]
# With a minute, every CMD_SYNC in the host's queue is given up after a second, of every guest: **gave up** counts them. `commands lost` is what was never
# executed; each wait that was given up may be an invalidation that came too late.
#
# ## Your turn
#
# 1. Stall the device for 2 s. Which approaches tell the guest, and what does its driver do to an innocent command then?
# 2. Let an unknown StreamID be named (`fault.kind="unknown-sid"`). `native-queue` loses commands, `batched` does not. Who looks the StreamID up?
# 3. `lab.approach("vcmdq").but(execution="parallel")` gives every queue an engine of its own. What is left in *other guests*?

# %%
assert told["native-queue"].seen == "nothing"
assert told["batched"].lost == 3
assert told["vcmdq"].timeouts == 0
assert same["vcmdq"].timeouts == 1
assert all(late[name].most > 100_000 for name in names if name != "vcmdq")
assert late["vcmdq"].most < 1_000
assert {name for name in names if short[name].seen != "nothing"} == {"vcmdq", "bare-metal"}
print("ALL-DONE")
