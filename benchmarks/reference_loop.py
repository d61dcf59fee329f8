"""Runs the loop that people write today, in PyTorch; benchmarks/speed.py compares it to the search.

It follows AMC (He et al., ECCV 2018) and HAQ (Wang et al., CVPR 2019): a DDPG agent of 300-300
walks the layers and sets keep ratio, weight bits and input bits; masks and fake quantization are
applied to the weights, the network's accuracy is measured on the images, NumPy computes the cost,
and the agent is updated once a step. It is written well, because it is the opponent: batch
normalisation is folded into the weights, scores of column-vectors and ranges of inputs are
computed once, tensors are channels last, PyTorch's own kernels quantize, and evaluations record no
gradients.

Needs PyTorch: pip install -c constraints/3.11.txt -e '.[bench]'
"""

import copy
import dataclasses
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from apq_jax import crossbar, metrics
from apq_jax.pipeline.prepared import Prepared

MIN_KEEP = 0.2  # of a layer, as AMC has it
_EPSILON = 1e-5  # Flax's, of batch normalisation


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the loop: AMC's where it has them."""

    bfloat16: bool = False  # products of the network
    batch: int = 500  # images at a time
    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    replayed: int = 64  # transitions an update
    capacity: int = 2000  # transitions
    soft: float = 0.01  # how far the target networks follow
    warmup: int = 100  # episodes of random actions
    noise: float = 0.5  # deviation of the exploration after them
    decay: float = 0.99  # of the noise, an episode
    baseline: float = 0.95  # decay of the moving average that is taken off the rewards


class Episode(NamedTuple):
    """Policy, worth and seconds of an episode."""

    level: np.ndarray  # [L]
    weight_bits: np.ndarray  # [L]
    input_bits: np.ndarray  # [L]
    accuracy: float
    gain: float  # Σ_m weight_m ln(dense_m / cost_m)
    reward: float
    evaluation_seconds: float
    agent_seconds: float


class Layer(NamedTuple):
    """A convolution or a product, and the operations behind it."""

    weight: torch.Tensor  # [C, C_in, *kernel], batch normalisation folded in
    bias: torch.Tensor  # [C]
    padding: str  # "same", "valid"; "" of a product
    relu: bool
    pool: bool  # 2 x 2, rounding up


def convert_layers(name: str, params: Any) -> list[Layer]:
    """Converts Flax parameters of LeNet-5 or a VGG of `apq_jax.models` to PyTorch's layers."""
    params, layers = jax.tree.map(np.asarray, params), []
    weights, norms = params["params"], params.get("batch_stats", {})
    names = [name for name in weights if "kernel" in weights[name]]
    order = {"conv": 0, "fc": 1, "hidden": 1, "logits": 2}

    def place(name: str) -> tuple[int, int]:
        word = name.rstrip("0123456789")
        return order[word], int(name[len(word) :] or 0)

    # The last convolution of each block is pooled.
    ends = {"lenet5": (1, 2), "vgg8": (2, 4, 6), "vgg16": (2, 4, 7, 10, 13)}[name]
    for layer in sorted(names, key=place):
        kernel = weights[layer]["kernel"]
        convolves, index = kernel.ndim == 4, place(layer)[1]
        w = torch.from_numpy(np.array(kernel.transpose((3, 2, 0, 1) if convolves else (1, 0))))
        bias = torch.from_numpy(np.array(weights[layer].get("bias", np.zeros(w.shape[0], "f"))))
        norm = f"norm{index}" if convolves else f"norm_{layer}"
        if norm in norms:
            mean, variance = (torch.tensor(norms[norm][key]) for key in ("mean", "var"))
            scale = torch.tensor(weights[norm]["scale"]) / torch.sqrt(variance + _EPSILON)
            w = w * scale.reshape(-1, *(1,) * (w.ndim - 1))
            bias = torch.tensor(weights[norm]["bias"]) + (bias - mean) * scale
        padding = (
            "" if not convolves else "valid" if layer == "conv2" and name == "lenet5" else "same"
        )
        last = layer in ("fc3", "logits")
        layers.append(Layer(w, bias, padding, not last, convolves and index in ends))
    return layers


class Evaluator:
    """Measures accuracies of policies: masks, fake quantization, and the network on all images."""

    def __init__(
        self, layers: list[Layer], prepared: Prepared, calibration: np.ndarray, options: Options
    ) -> None:
        self.layers, self.options = layers, options
        self.images = _channels_last(np.asarray(prepared.subject.images))
        self.labels = torch.from_numpy(np.array(prepared.subject.labels)).long()
        high = prepared.accelerator.unit_rows
        self.scores, self.cuts = [], []
        for layer, planned in zip(layers, prepared.subject.plan, strict=True):
            rows = layer.weight.flatten(1)  # C, R
            groups = functional.pad(rows, (0, -rows.shape[1] % high)).unflatten(1, (-1, high))
            scores = groups.square().sum(dim=2)  # C, G
            ranked = scores.flatten().sort(descending=True).values
            kept = np.maximum(np.round(np.asarray(planned.keep) * len(ranked)), 1).astype(int) - 1
            self.scores.append(scores)
            self.cuts.append(ranked[torch.from_numpy(kept)])
        self.ranges: list[tuple[float, float]] = []
        with torch.inference_mode():
            self._run(_channels_last(calibration), [layer.weight for layer in layers], None)

    def __call__(self, level: np.ndarray, weight_bits: np.ndarray, input_bits: np.ndarray) -> float:
        """Returns the fraction of the images that the network classifies correctly."""
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=self.options.bfloat16),
        ):
            weights = [
                self._compress(layer, level[layer], int(weight_bits[layer]))
                for layer in range(len(level))
            ]
            correct = 0
            for images, labels in zip(
                self.images.split(self.options.batch),
                self.labels.split(self.options.batch),
                strict=True,
            ):
                correct += int((self._run(images, weights, input_bits).argmax(1) == labels).sum())
        return correct / len(self.labels)

    def _compress(self, index: int, level: int, bits: int) -> torch.Tensor:
        """Masks a layer's weights and rounds them, scaled by each output channel's largest."""
        weight, scores = self.layers[index].weight, self.scores[index]
        rows = weight.flatten(1)
        high = -(-rows.shape[1] // scores.shape[1])
        mask = (scores >= self.cuts[index][level]).repeat_interleave(high, dim=1)
        rows = rows * mask[:, : rows.shape[1]]
        top = 2 ** (bits - 1) - 1
        scale = rows.abs().amax(dim=1).clamp(min=1e-8) / top
        zero = torch.zeros(len(scale), dtype=torch.int32)
        rows = torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -top, top)
        rounded = rows.reshape(weight.shape)
        if weight.ndim == 4:
            return rounded.contiguous(memory_format=torch.channels_last)
        return rounded

    def _run(
        self, x: torch.Tensor, weights: list[torch.Tensor], input_bits: np.ndarray | None
    ) -> torch.Tensor:
        """Returns logits; without bits it keeps the ranges of the inputs and rounds none."""
        for index, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            if not layer.padding and x.ndim == 4:
                x = x.permute(0, 2, 3, 1).flatten(1)  # Flax's order; no copy, channels are last
            if input_bits is None:
                self.ranges.append((min(float(x.min()), 0.0), float(x.max())))
            else:
                low, high = self.ranges[index]
                top = 2 ** int(input_bits[index]) - 1
                scale = max(high - low, 1e-8) / top
                x = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, top)
            if layer.padding:
                x = functional.conv2d(x, weight, layer.bias, padding=layer.padding)
            else:
                x = functional.linear(x, weight, layer.bias)
            x = functional.relu(x) if layer.relu else x
            x = functional.max_pool2d(x, 2, ceil_mode=True) if layer.pool else x
        return x


def _channels_last(images: np.ndarray) -> torch.Tensor:
    """Returns images [N, H, W, C] as [N, C, H, W] whose pixels keep their order in memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


class _Critic(nn.Module):
    """The Q function of observations and actions; both enter the first layer, as in AMC's."""

    def __init__(self, seen: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(seen + actions, hidden)
        self.second, self.last = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, seen: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(torch.cat((seen, actions), dim=1)))
        return self.last(functional.relu(self.second(x)))


def _actor(seen: int, actions: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(seen, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, actions),
        nn.Sigmoid(),
    )


class ReferenceLoop:
    """Runs episodes of the agent, whose policies are of the same choices as the search's."""

    def __init__(
        self,
        name: str,
        prepared: Prepared,
        calibration: np.ndarray,
        seed: int,
        options: Options = Options(),
    ) -> None:
        """
        Args:
          name: of the network, `lenet5`, `vgg8` or `vgg16`.
          prepared: images, tables, limits and objective.
          calibration: training images [N, H, W, C] that tell the ranges of the inputs.
          seed: of the agent.
          options: its.
        """
        torch.manual_seed(seed)
        self.rng, self.options, self.prepared = np.random.default_rng(seed), options, prepared
        layers = convert_layers(name, prepared.subject.params)
        self.evaluate = Evaluator(layers, prepared, calibration, options)
        problem = jax.tree.map(np.asarray, prepared.problem)
        self.problem, self.actions = problem, len(prepared.space.sizes)
        self.keeps = np.stack([np.asarray(planned.keep) for planned in prepared.subject.plan])
        self.features = problem.features.astype(np.float32)
        seen = self.features.shape[1] + self.actions + 2
        self.actor = _actor(seen, self.actions, options.hidden)
        self.critic = _Critic(seen, self.actions, options.hidden)
        self.targets = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.learners = (
            torch.optim.Adam(self.actor.parameters(), options.actor_rate),
            torch.optim.Adam(self.critic.parameters(), options.critic_rate),
        )
        # Observation, action, reward, what is seen next, whether there is a next step.
        widths = seen, self.actions, 1, seen, 1
        self.memory = [torch.zeros(options.capacity, width) for width in widths]
        self.filled, self.next, self.done = 0, 0, 0
        self.average: float | None = None

    def run_episode(self) -> Episode:
        """Walks the layers, evaluates the policy, learns."""
        start = time.perf_counter()
        seen, actions = self._walk()
        policy = self._decode(actions)
        middle = time.perf_counter()
        accuracy = self.evaluate(*policy)
        gain, reward = self._compute_reward(policy, accuracy)
        after = time.perf_counter()
        self._remember(seen, actions, reward)
        if self.done >= self.options.warmup:
            for _ in range(len(actions)):
                self._update()
        self.done += 1
        end = time.perf_counter()
        agent = middle - start + end - after
        return Episode(*policy, accuracy, gain, reward, after - middle, agent)

    def _walk(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns observations [L, O] and executed actions [L, D] of an episode."""
        count, options = len(self.features), self.options
        noise = options.noise * options.decay ** max(self.done - options.warmup, 0)
        seen, actions, used = [], np.zeros((count, self.actions), np.float32), 0.0
        share = self.problem.share
        rest = share[:, 0, -1, -1][::-1].cumsum()[::-1]
        for layer in range(count):
            before = actions[layer - 1] if layer else np.zeros(self.actions, np.float32)
            seen.append(np.concatenate([self.features[layer], before, [used, rest[layer]]]))
            if self.done < options.warmup:
                action = self.rng.random(self.actions)
            else:
                with torch.inference_mode():
                    mean = self.actor(torch.tensor(seen[-1], dtype=torch.float32)).numpy()
                action = _draw_truncated(self.rng, mean, noise)
            actions[layer] = action
            level, *bits = (choices[layer] for choices in self._decode(actions[: layer + 1]))
            used += share[layer, level, bits[0] - 1, bits[1] - 1]
        return np.asarray(seen, np.float32), actions

    def _decode(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns keep levels, weight bits and input bits, [L] each.

        The keep ratio is linear in the action, from AMC's least of 0.2, because nearly all levels
        of the search, geometric down to a few hundredths, would be wasted on weights that nothing
        compensates. Bits are as `environment.decode` has them.
        """
        space = self.prepared.space
        keep = MIN_KEEP + (1.0 - MIN_KEEP) * actions[:, :1]
        level = np.abs(self.keeps[: len(actions)] - keep).argmin(axis=1)
        bits = []
        for column, choices in enumerate(space.bits, start=1):
            place = np.floor(actions[:, column] * len(choices)).astype(int)
            bits.append(np.asarray(choices)[np.clip(place, 0, len(choices) - 1)])
        weight_bits, input_bits = bits
        return level, weight_bits, input_bits

    def _compute_reward(
        self, policy: tuple[np.ndarray, ...], accuracy: float
    ) -> tuple[float, float]:
        """Returns the gain, and the reward of He et al., section 3.4."""
        prepared, problem = self.prepared, self.problem
        level, weight_bits, input_bits = policy
        chip = prepared.accelerator.chip()
        counts = crossbar.look_up_counts(prepared.tables, chip, level, weight_bits)
        cost = crossbar.compute_cost(prepared.network.layers, counts, chip, input_bits)
        costs = np.asarray([getattr(cost, name) for name in metrics.METRICS], np.float64)
        gain = float(problem.weights @ np.log(problem.dense / costs))
        # AMC's reward for accuracy first: -error ln(cost). With the search's reward, which pays
        # for what is saved and fines what is missed, this agent ends up pruning everything.
        return gain, (accuracy - 1.0) * (float(problem.weights @ np.log(problem.dense)) - gain)

    def _remember(self, seen: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """Stores every step of the episode with the reward of the whole episode."""
        decay = self.options.baseline
        average = reward if self.average is None else self.average
        self.average = decay * average + (1 - decay) * reward
        count = len(seen)
        place = torch.arange(self.next, self.next + count) % self.options.capacity
        after = np.concatenate([seen[1:], np.zeros_like(seen[:1])])
        goes_on = (np.arange(count) < count - 1)[:, None]
        rewards = np.full((count, 1), reward - self.average)
        values = seen, actions, rewards, after, goes_on
        for memory, value in zip(self.memory, values, strict=True):
            memory[place] = torch.from_numpy(np.asarray(value, np.float32))
        self.next = int(place[-1] + 1) % self.options.capacity
        self.filled = min(self.filled + count, self.options.capacity)

    def _update(self) -> None:
        """Updates critic and actor, a batch each; DDPG (Lillicrap et al., arXiv 1509.02971)."""
        drawn = torch.from_numpy(self.rng.integers(0, self.filled, self.options.replayed))
        seen, actions, rewards, after, goes_on = (memory[drawn] for memory in self.memory)
        with torch.no_grad():
            actor, critic = self.targets
            target = rewards + goes_on * critic(after, actor(after))
        of_actor, of_critic = self.learners
        of_critic.zero_grad()
        functional.mse_loss(self.critic(seen, actions), target).backward()
        of_critic.step()
        of_actor.zero_grad()
        (-self.critic(seen, self.actor(seen)).mean()).backward()
        of_actor.step()
        with torch.no_grad():
            for model, follows in zip((self.actor, self.critic), self.targets, strict=True):
                pairs = list(follows.parameters()), list(model.parameters())
                torch._foreach_lerp_(*pairs, self.options.soft)


def _draw_truncated(rng: np.random.Generator, mean: np.ndarray, deviation: float) -> np.ndarray:
    """Draws normal numbers, again where they fall outside [0, 1]."""
    draw = rng.normal(mean, deviation)
    while ((draw < 0) | (draw > 1)).any():
        draw = np.where((draw < 0) | (draw > 1), rng.normal(mean, deviation), draw)
    return draw
