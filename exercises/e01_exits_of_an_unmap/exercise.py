# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # e01: The exits of an unmap
#
# A guest takes a DMA buffer away from its device. Its driver publishes invalidations in the command queue and waits
# until they are done. Meanwhile the guest may have to leave its CPU. **How often, and how far: to the VMM, or to the
# host's kernel only?**
#
# What the driver does (Linux 7.2, strict mode, pages of 4 KiB):
#
# - **TLBIs.** With range invalidation (`ril`), at most 7 commands, however many pages. Without it, one command per
#   page; from 512 pages on a single `TLBI_NH_ASID` instead.
# - **ATC_INVs.** One for each device with ATS (`ats_devices`), when the TLBIs are *done*: a device must not fetch
#   again what the SMMU still holds.
# - **Lists.** It publishes at most 64 commands at a time, by one write of PROD: the *doorbell*. The 65th command opens
#   the next list.
# - **Waiting.** The last list of the TLBIs carries a `CMD_SYNC` besides, and so does that of the ATC_INVs. The driver
#   waits for it by reading CONS. If the consumer works while the guest stands still, the first read sees it done.
#
# Whether a write of PROD or a read of CONS makes the guest exit depends on the approach, which says so itself:
# `lab.approach("short-path").doorbell` and `.completion`.
#
# One vCPU, idle queues. You need no simulator: paper will do. 15 minutes.

# %%
import smmu_lab as lab

exercise = lab.exercise("e01")

for name in ("qemu-today", "batched", "native-queue", "short-path", "vcmdq"):
    row = lab.approach(name)
    print(f"{name:14} doorbell {row.doorbell:16} completion {row.completion}")

# %% [markdown]
# ## 1. One unmap, by hand
#
# Predict first. Then put your numbers in the place of the dots, and let the simulator count.

# %%
exercise.problem(256)

# %%
exercise.check({"vmm": ..., "kernel": ...}, 256)

# %% [markdown]
# ## 2. Every unmap, as a rule
#
# Complete the function. `check` tries it on 50 problems. When it is wrong, you see a case in which it is, and a hint.


# %%
def predict(problem):
    """Exits of one unmap; read problem.approach, problem.pages, problem.ril and problem.ats_devices."""
    vmm = ...
    kernel = ...
    return {"vmm": vmm, "kernel": kernel}


exercise.check(predict)

# %% [markdown]
# ## 3. Afterwards
#
# `exercise.explanation` says why, and shows a solution. It also asks what the counts mean for a design.

# %%
print("ALL-DONE")
