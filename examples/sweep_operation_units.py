"""Computes a network's cost for operation units of several sizes, without weights.

python examples/sweep_operation_units.py

Small units need converters of few bits but many reads. A whole crossbar is read at once, but by
converters of 8 bits. The network is ResNet-20, unpruned, with 8-bit weights and inputs.
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


def compute_cost(chip):
    """Computes the cost of the network on a chip."""
    return crossbar.compute_cost(layers, crossbar.count_dense(layers, bits, chip), chip, bits)


print(
    f"{'unit':>8} {'ADC':>4} {'slots':>8} {'energy, uJ':>11} {'latency, ms':>12} {'area, mm2':>10}"
)
for accelerator in accelerators:
    cost = compute_cost(accelerator.chip())  # exact, because it is computed on the host
    print(
        f"{accelerator.name:>8} {accelerator.adc_resolution:3}b {cost.slots:8,} "
        f"{cost.energy_nj * 1e-3:11.1f} {cost.latency_us * 1e-3:12.2f} {cost.area_mm2:10.2f}"
    )

# The same in one compiled program, because a chip is a tree of numbers that can be stacked.
chips = jax.tree.map(lambda *numbers: np.stack(numbers), *(a.chip() for a in accelerators))
costs = jax.jit(jax.vmap(compute_cost))(chips)
best = int(costs.energy_nj.argmin())
print(f"least energy: units of {accelerators[best].name}")
