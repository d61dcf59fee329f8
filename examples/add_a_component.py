"""An accelerator with components of your own: other numbers, and a part that no preset has.

python examples/add_a_component.py

The component table has a fixed list of names, for each needs a number of actions (see
docs/cost_model.md). What has an area and no action of its own goes into `ima_other` or
`tile_other`, which every accelerator has; `number` says how many there are.
"""

import dataclasses

import numpy as np

from apq_jax import crossbar
from apq_jax.hardware import PRESETS, Accelerator, Component, dumps, loads
from apq_jax.hardware.workloads import WORKLOADS

base = PRESETS["isaac_ou"]

# Changed: index memory in 22 nm SRAM; the numbers are made up and say so in `source`.
small = dataclasses.replace(
    base.components.index_memory, area_um2=0.06, energy_pj=0.05, node_nm=22.0, source="example"
)
# Added: a decompression unit in every IMA.
decoder = Component(
    area_um2=1500.0, power_mw=0.8, energy_pj=0.0, action="none", number=1, source="example"
)
components = dataclasses.replace(base.components, index_memory=small, ima_other=decoder)
mine = dataclasses.replace(base, name="mine", components=components)

layers = WORKLOADS["vgg8"]
bits = np.full(len(layers), 8)


def shown(accelerator: Accelerator) -> None:
    chip = accelerator.chip()
    cost = crossbar.compute_cost(layers, crossbar.count_dense(layers, bits, chip), chip, bits)
    power, area = accelerator.totals()["ima"]
    print(
        f"{accelerator.name:9} IMA {power:.2f} mW {area:.5f} mm2; "
        f"VGG-8 {cost.area_mm2:.1f} mm2, {cost.energy_nj * 1e-3:.1f} uJ"
    )


shown(base)
shown(mine)

# As a file for --config.accelerator=mine.toml, with every number and its source.
text = dumps(mine)
same = loads(text, "mine.toml") == mine
print(f"mine.toml has {len(text.splitlines())} lines; it reads back: {same}")
