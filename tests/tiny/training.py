"""Common parts of both trainings: processes that average gradients, schedule, moving average."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Schedule:
    """Duration and learning rate of a training.

    Attributes:
        minutes: wall time; the rate decays as its cosine.
        rate: the highest learning rate.
        warm_up: steps until that rate.
        save_minutes: time between checkpoints.
        local_steps: steps that each process takes alone before their weights are averaged; 1
            averages gradients instead. More of them lose less time where other programs run.
    """

    minutes: float
    rate: float = 1.5e-3
    warm_up: int = 300
    save_minutes: float = 8.0
    local_steps: int = 1


@dataclass(slots=True)
class MovingAverage:
    """Moving average of the weights, which is saved."""

    module: nn.Module
    decay: float = 0.999
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: t.detach().clone() for name, t in self.module.state_dict().items()}

    def update(self, step: int) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        current = self.module.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [current[name] for name in self.weights], share
        )


def clip_seconds(rng: Random, over: float) -> tuple[int, float]:
    """Draw the number and the duration of the clips of a step in each process.

    Short clips come first, because the order of words is learned fastest from few words. Very short
    clips mostly contain no word, or the beginning of one, and train the empty answer.
    """
    if over < 0.05:
        return 16, rng.uniform(1.0, 3.0)
    kind = rng.random()
    if kind < 0.08:
        return 24, rng.uniform(0.5, 1.2)
    if over < 0.12 or kind < 0.92:
        return 12, rng.uniform(1.2, 6.0)
    seconds = rng.uniform(7.0, 22.0)
    return max(2, round(40 / seconds)), seconds


def run_training(
    rank: int,
    world: int,
    *,
    modules: nn.ModuleList,
    schedule: Schedule,
    loss_of: Callable[[float], tuple[Tensor, dict[str, float]]],
    save: Callable[[dict[str, Tensor]], None],
) -> None:
    """Train until the time is over.

    Args:
        rank: rank of this process; rank 0 logs and saves.
        world: number of processes.
        modules: all trained modules; the first is saved.
        schedule: duration and learning rate.
        loss_of: function that draws a batch and returns its loss, for a fraction of the time.
        save: function that writes a checkpoint of averaged weights.
    """
    parameters = [p for p in modules.parameters() if p.requires_grad]
    decays = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.02}]
    decays.append({"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(decays, lr=schedule.rate, betas=(0.9, 0.98), fused=True)
    average = MovingAverage(modules[0])
    begun = last_save = time.monotonic()
    step, over, figures = 0, 0.0, dict[str, float]()
    log_step, log_time = 0, begun
    while over < 1:
        loss, parts = loss_of(over)
        loss.backward()
        now = time.monotonic()
        passed = (now - begun) / 60 / schedule.minutes
        if schedule.local_steps == 1:
            over = min(1.0, _average_gradients(parameters, passed, world))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * over)) / 2
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * cosine * min(1.0, (step + 1) / schedule.warm_up)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if schedule.local_steps > 1 and step % schedule.local_steps == 0:
            over = min(1.0, _average_weights(parameters, passed, world))
        for name, value in parts.items():
            figures[name] = 0.98 * figures.get(name, value) + 0.02 * value
        if rank:
            continue
        average.update(step)
        if step % 50 == 0:
            pace = (now - log_time) / (step - log_step)
            log_step, log_time = step, now
            shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
            minutes = (now - begun) / 60
            print(f"{minutes:6.1f} min step {step} {pace:.3f} s/step {shown}", flush=True)
        if now - last_save > schedule.save_minutes * 60:
            last_save = now
            save(average.weights)
    if not rank:
        save(average.weights)


def _average_gradients(parameters: list[nn.Parameter], over: float, world: int) -> float:
    """Average gradients over the processes, and also the elapsed fraction of the time."""
    if world == 1:
        return over
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([over])])
    torch.distributed.all_reduce(flat)
    flat /= world
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, grad in zip(parameters, flat[:-1].split(sizes), strict=True):
        parameter.grad = grad.view_as(parameter)
    return float(flat[-1])


def _average_weights(parameters: list[nn.Parameter], over: float, world: int) -> float:
    """Average weights over the processes, and also the elapsed fraction of the time."""
    if world == 1:
        return over
    values = [parameter.data for parameter in parameters]
    flat = torch.cat([*(value.flatten() for value in values), torch.tensor([over])])
    torch.distributed.all_reduce(flat)
    flat /= world
    for value, mean in zip(values, flat[:-1].split([v.numel() for v in values]), strict=True):
        value.copy_(mean.view_as(value))
    return float(flat[-1])


def join_group(rank: int, world: int, port: int) -> None:
    """Join a group of `world` processes, each on one core."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if world > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)


def load_weights(module: nn.Module, checkpoint: Path) -> None:
    """Load a checkpoint's weights."""
    from safetensors.torch import load_file

    weights = {name: t.float() for name, t in load_file(checkpoint / "model.safetensors").items()}
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"{checkpoint} is of another shape: {missing} {unexpected}")
