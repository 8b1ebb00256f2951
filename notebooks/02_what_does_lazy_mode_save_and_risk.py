# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does lazy mode save, and what does it risk?
#
# In **strict** mode an unmap returns when its invalidation has completed. In **lazy** mode (`iommu.strict=0`) it puts the address
# into a flush queue and returns at once; after 255 unmaps or 10 ms one TLBI_NH_ASID invalidates them all. Until then the device
# can still reach pages that their owner has back. That is the bargain: here are both sides of it.

# %%
from IPython.display import HTML

import smmu_lab as lab
from smmu_lab.charts import curve, curve_sheet, still
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number, show_time

# %% [markdown]
# ## What it saves
#
# One vCPU unmaps 4 pages at a time, some 20 µs apart. Guess first: for which approach does lazy mode matter most, and for
# which hardly at all?

# %%
load = lab.unmaps(pages=4, ops=2_000, think="20us")
strict = lab.Scenario(workload=load, smmu=lab.Smmu(ril=False))
lazy = strict.but({"workload.lazy": True})
names = "qemu-today", "batched", "short-path-sync", "vcmdq", "bare-metal"
runs = {name: (lab.simulate(strict, name), lab.simulate(lazy, name)) for name in names}

# %%
Sheet(
    ("approach", "strict", "lazy", "saved per unmap", "pages exposed, lazy", "pages exposed, strict"),
    [
        (
            name,
            show_time(now.latency.mean.value),
            show_time(later.latency.mean.value),
            show_time(now.latency.mean.value - later.latency.mean.value),
            show_number(later.sample.exposed),
            show_number(now.sample.exposed),
        )
        for name, (now, later) in runs.items()
    ],
    left=("approach",),
    caption="latency of one unmap, and the pages that a device can reach although they were unmapped, at any instant",
)

# %% [markdown]
# * What lazy mode saves is what the path to the hardware costs: a lot for a guest whose doorbells trap, little for one with a
#   hardware queue. **The faster the path, the less reason there is to be lazy.**
# * What it risks does not depend on the path at all: some 500 pages are open at any instant, whoever carries the flush. In
#   strict mode it is zero, because an unmap ends after its own invalidation.
#
# ## How long, and for how many pages
#
# A busy CPU fills its flush queue long before the 10 ms are over; a quiet one waits for the timer. `exposure` is counted in
# page-nanoseconds: pages times the time between an unmap's return and the end of the flush that covers it.

# %%
gaps = [2_000, 5_000, 10_000, 20_000, 40_000, 80_000, 160_000]
done = [lab.simulate(lazy.but({"workload.think": gap, "workload.ops": 40 * 255 + 1}), "vcmdq") for gap in gaps]
open_time = {"mean time a page stays open": [run.counts.exposure / sum(run.ops["pages"]) for run in done]}
HTML(
    still(
        curve("Until a page is safe again", "time between two unmaps", gaps, open_time), "a line that rises and bends"
    )
)

# %%
curve_sheet("Until a page is safe again", "time between two unmaps", gaps, open_time)

# %% [markdown]
# With 255 unmaps to a flush, a page is open for about 127 gaps: at 20 µs that is 2.6 ms. From 40 µs on the timer comes first,
# and the mean goes to half of its 10 ms, whatever the load.
#
# ## What to take to a review
#
# * Compare strict modes first. An approach that is only fast in lazy mode has moved the cost into the exposure.
# * The lab's flushes cover one CPU each; Linux flushes all CPUs of a domain at once, so with several vCPUs the exposure here is
#   an upper bound ([docs/model.md](../docs/model.md)).

# %%
print("ALL-DONE")
