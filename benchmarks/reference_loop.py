"""The loop that people write today, in PyTorch: what benchmarks/speed.py holds the search against.

After AMC (He et al., ECCV 2018) and HAQ (Wang et al., CVPR 2019): a DDPG agent of 300-300 walks
the layers and sets keep ratio, weight bits and input bits; masks and fake quantization are applied
to the weights, the network's accuracy is measured on the images, the cost is formed in NumPy, and
the agent is updated once a step. It is the opponent, so it is written well: batch normalisation is
folded into the weights, scores of column-vectors and ranges of inputs are computed once, tensors
are channels last, PyTorch's own kernels quantize, and nothing is recorded for gradients.

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

LEAST_KEEP = 0.2  # of a layer, as AMC has it
_EPSILON = 1e-5  # Flax's, of batch normalisation


@dataclasses.dataclass(frozen=True)
class Options:
    """AMC's, where it has them."""

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
    """What an episode found and took."""

    level: np.ndarray  # [L]
    weight_bits: np.ndarray  # [L]
    input_bits: np.ndarray  # [L]
    accuracy: float
    gain: float  # Σ_m weight_m ln(dense_m / cost_m)
    reward: float
    evaluation_seconds: float
    agent_seconds: float


class Layer(NamedTuple):
    """A convolution or a product, and what follows it."""

    weight: torch.Tensor  # [C, C_in, *kernel], batch normalisation folded in
    bias: torch.Tensor  # [C]
    padding: str  # "same", "valid"; "" of a product
    relu: bool
    pool: bool  # 2 x 2, rounding up


def layers_of(name: str, params: Any) -> list[Layer]:
    """LeNet-5 or a VGG of `apq_jax.models`, from its Flax parameters."""
    params, found = jax.tree.map(np.asarray, params), []
    weights, norms = params["params"], params.get("batch_stats", {})
    names = [name for name in weights if "kernel" in weights[name]]
    order = {"conv": 0, "fc": 1, "hidden": 1, "logits": 2}

    def place(name: str) -> tuple[int, int]:
        word = name.rstrip("0123456789")
        return order[word], int(name[len(word) :] or 0)

    # The last convolution of each block is pooled.
    ends = {"lenet5": (1, 2), "vgg8": (2, 4, 6), "vgg16": (2, 4, 7, 10, 13)}[name]
    for one in sorted(names, key=place):
        kernel = weights[one]["kernel"]
        convolves, number = kernel.ndim == 4, place(one)[1]
        w = torch.from_numpy(np.array(kernel.transpose((3, 2, 0, 1) if convolves else (1, 0))))
        bias = torch.from_numpy(np.array(weights[one].get("bias", np.zeros(w.shape[0], "f"))))
        norm = f"norm{number}" if convolves else f"norm_{one}"
        if norm in norms:
            mean, variance = (torch.tensor(norms[norm][key]) for key in ("mean", "var"))
            scale = torch.tensor(weights[norm]["scale"]) / torch.sqrt(variance + _EPSILON)
            w = w * scale.reshape(-1, *(1,) * (w.ndim - 1))
            bias = torch.tensor(weights[norm]["bias"]) + (bias - mean) * scale
        padding = (
            "" if not convolves else "valid" if one == "conv2" and name == "lenet5" else "same"
        )
        last = one in ("fc3", "logits")
        found.append(Layer(w, bias, padding, not last, convolves and number in ends))
    return found


class Evaluator:
    """Accuracy of policies: masks and fake quantization, then the network on all images."""

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
            self._run(_channels_last(calibration), [one.weight for one in layers], None)

    def __call__(self, level: np.ndarray, weight_bits: np.ndarray, input_bits: np.ndarray) -> float:
        """Fraction of the images that get their label."""
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=self.options.bfloat16),
        ):
            weights = [
                self._weight(at, level[at], int(weight_bits[at])) for at in range(len(level))
            ]
            right = 0
            for images, labels in zip(
                self.images.split(self.options.batch),
                self.labels.split(self.options.batch),
                strict=True,
            ):
                right += int((self._run(images, weights, input_bits).argmax(1) == labels).sum())
        return right / len(self.labels)

    def _weight(self, at: int, level: int, bits: int) -> torch.Tensor:
        """Masked, then rounded to its bits by the largest of each output channel."""
        weight, scores = self.layers[at].weight, self.scores[at]
        rows = weight.flatten(1)
        high = -(-rows.shape[1] // scores.shape[1])
        mask = (scores >= self.cuts[at][level]).repeat_interleave(high, dim=1)[:, : rows.shape[1]]
        rows = rows * mask
        top = 2 ** (bits - 1) - 1
        scale = rows.abs().amax(dim=1).clamp(min=1e-8) / top
        zero = torch.zeros(len(scale), dtype=torch.int32)
        rows = torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -top, top)
        found = rows.reshape(weight.shape)
        return found.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else found

    def _run(
        self, x: torch.Tensor, weights: list[torch.Tensor], input_bits: np.ndarray | None
    ) -> torch.Tensor:
        """Logits; without bits it notes the ranges of the inputs instead of rounding them."""
        for at, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            if not layer.padding and x.ndim == 4:
                x = x.permute(0, 2, 3, 1).flatten(1)  # Flax's order; no copy, channels are last
            if input_bits is None:
                self.ranges.append((min(float(x.min()), 0.0), float(x.max())))
            else:
                low, high = self.ranges[at]
                top = 2 ** int(input_bits[at]) - 1
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
    """Images [N, H, W, C] as [N, C, H, W] whose pixels keep their order in memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


class _Critic(nn.Module):
    """Q of observations and actions; the action joins in the first layer, as in AMC's."""

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
    """Episodes of the agent; its policies are from the same choices as the search's."""

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
        layers = layers_of(name, prepared.subject.params)
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

    def episode(self) -> Episode:
        """Walks the layers, evaluates the policy, learns."""
        start = time.perf_counter()
        seen, actions = self._walk()
        policy = self._policy(actions)
        middle = time.perf_counter()
        accuracy = self.evaluate(*policy)
        gain, reward = self._worth(policy, accuracy)
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
        """Observations [L, O] and executed actions [L, D] of an episode."""
        count, options = len(self.features), self.options
        noise = options.noise * options.decay ** max(self.done - options.warmup, 0)
        seen, actions, used = [], np.zeros((count, self.actions), np.float32), 0.0
        share = self.problem.share
        rest = share[:, 0, -1, -1][::-1].cumsum()[::-1]
        for at in range(count):
            before = actions[at - 1] if at else np.zeros(self.actions, np.float32)
            seen.append(np.concatenate([self.features[at], before, [used, rest[at]]]))
            if self.done < options.warmup:
                action = self.rng.random(self.actions)
            else:
                with torch.inference_mode():
                    mean = self.actor(torch.tensor(seen[-1], dtype=torch.float32)).numpy()
                action = _truncated(self.rng, mean, noise)
            actions[at] = action
            level, *bits = (one[at] for one in self._policy(actions[: at + 1]))
            used += share[at, level, bits[0] - 1, bits[1] - 1]
        return np.asarray(seen, np.float32), actions

    def _policy(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keep level, weight bits and input bits, [L] each.

        The keep ratio is linear in the action, from AMC's least of 0.2; the levels of the search,
        geometric down to a few hundredths, would nearly all be lost on weights that nothing
        compensates. Bits are as `environment.decode` has them.
        """
        space = self.prepared.space
        asked = LEAST_KEEP + (1.0 - LEAST_KEEP) * actions[:, :1]
        level = np.abs(self.keeps[: len(actions)] - asked).argmin(axis=1)
        bits = []
        for at, choices in enumerate(space.bits, start=1):
            place = np.floor(actions[:, at] * len(choices)).astype(int)
            bits.append(np.asarray(choices)[np.clip(place, 0, len(choices) - 1)])
        weight_bits, input_bits = bits
        return level, weight_bits, input_bits

    def _worth(self, policy: tuple[np.ndarray, ...], accuracy: float) -> tuple[float, float]:
        """The gain, and the reward, He et al., section 3.4."""
        prepared, problem = self.prepared, self.problem
        level, weight_bits, input_bits = policy
        chip = prepared.accelerator.chip()
        counts = crossbar.look_up_counts(prepared.tables, chip, level, weight_bits)
        cost = crossbar.compute_cost(prepared.network.layers, counts, chip, input_bits)
        costs = np.asarray([getattr(cost, name) for name in metrics.METRICS], np.float64)
        gain = float(problem.weights @ np.log(problem.dense / costs))
        # AMC's for accuracy first: -error ln(cost). One that is paid for what it saves and fined
        # for what it misses, as the search's is, ends up with everything pruned.
        return gain, (accuracy - 1.0) * (float(problem.weights @ np.log(problem.dense)) - gain)

    def _remember(self, seen: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """The reward of the episode is that of each of its steps."""
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
        """Critic and actor, a batch each; DDPG (Lillicrap et al., arXiv 1509.02971)."""
        at = torch.from_numpy(self.rng.integers(0, self.filled, self.options.replayed))
        seen, actions, rewards, after, goes_on = (memory[at] for memory in self.memory)
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


def _truncated(rng: np.random.Generator, mean: np.ndarray, deviation: float) -> np.ndarray:
    """A normal draw that is repeated where it falls outside [0, 1]."""
    draw = rng.normal(mean, deviation)
    while ((draw < 0) | (draw > 1)).any():
        draw = np.where((draw < 0) | (draw > 1), rng.normal(mean, deviation), draw)
    return draw
