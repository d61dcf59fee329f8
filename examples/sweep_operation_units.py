"""What a network costs with operation units of other sizes: the cost model alone, no weights.

python examples/sweep_operation_units.py

Small units need converters of few bits, but many reads; a whole crossbar is read at once, by
converters of 8 bits. Here ResNet-20, unpruned, 8-bit weights and inputs.
"""

import dataclasses

import jax
import numpy as np

from apq_jax import crossbar
from apq_jax.hardware import PRESETS
from apq_jax.hardware.workloads import WORKLOADS

layers = WORKLOADS["resnet20"]
bits = np.full(len(layers), 8)
sizes = [(4, 4), (9, 8), (16, 16), (32, 32), (64, 64), (128, 128)]
accelerators = [
    dataclasses.replace(PRESETS["isaac_ou"], name=f"{h}x{w}", unit_rows=h, unit_columns=w)
    for h, w in sizes
]


def cost(chip):
    return crossbar.compute_cost(layers, crossbar.count_dense(layers, bits, chip), chip, bits)


print(
    f"{'unit':>8} {'ADC':>4} {'slots':>8} {'energy, uJ':>11} {'latency, ms':>12} {'area, mm2':>10}"
)
for one in accelerators:
    found = cost(one.chip())  # on the host: exact
    print(
        f"{one.name:>8} {one.adc_resolution:3}b {found.slots:8,} {found.energy_nj * 1e-3:11.1f} "
        f"{found.latency_us * 1e-3:12.2f} {found.area_mm2:10.2f}"
    )

# The same in one compiled program: an accelerator is numbers, stacked they are mapped over.
chips = jax.tree.map(lambda *numbers: np.stack(numbers), *(one.chip() for one in accelerators))
together = jax.jit(jax.vmap(cost))(chips)
best = int(together.energy_nj.argmin())
print(f"least energy: units of {accelerators[best].name}")
