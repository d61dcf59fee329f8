"""Builds an accelerator with components of your own: other numbers, and a part of no preset.

python examples/add_a_component.py

The component table has a fixed list of names, because each name needs a number of actions (see
docs/cost_model.md). A part that has an area but no action goes into `ima_other` or `tile_other`,
which every accelerator has; `number` says how many of the part there are.
"""

import dataclasses

import numpy as np

from apq_jax import crossbar
from apq_jax.hardware import PRESETS, Accelerator, Component, dumps, loads
from apq_jax.hardware.workloads import WORKLOADS

base = PRESETS["isaac_ou"]

# Changed: index memory in 22 nm SRAM. The numbers are made up, and `source` says so.
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


def show(accelerator: Accelerator) -> None:
    """Prints the power and area of an IMA, and the cost of VGG-8."""
    chip = accelerator.chip()
    cost = crossbar.compute_cost(layers, crossbar.count_dense(layers, bits, chip), chip, bits)
    power, area = accelerator.totals()["ima"]
    print(
        f"{accelerator.name:9} IMA {power:.2f} mW {area:.5f} mm2; "
        f"VGG-8 {cost.area_mm2:.1f} mm2, {cost.energy_nj * 1e-3:.1f} uJ"
    )


show(base)
show(mine)

# The text of a file for --config.accelerator=mine.toml, with every number and its source.
text = dumps(mine)
same = loads(text, "mine.toml") == mine
print(f"mine.toml has {len(text.splitlines())} lines; it reads back: {same}")
