"""Trains one column of AlexNet in PyTorch on one core, alone or as one of a pair, and prints its steps as JSON."""
import argparse
import json
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from network import CLASSES, VARIANTS, Blocks, Column, Constant, Gloo


def load(column, weights, k):
    """Gives a column its part of the whole network's weights, `name: (weights, biases)`."""
    with torch.no_grad():
        for name, (w, b) in weights.items():
            layer, out = getattr(column, name), len(w) // 2
            rows = w[k * out:(k + 1) * out]
            layer.bias.copy_(b[k * out:(k + 1) * out])
            if isinstance(layer, Blocks):
                parts = rows.chunk(2, 1)
                layer.own.copy_(parts[k])
                layer.other.copy_(parts[1 - k])
                continue
            half = rows.shape[1] // 2
            own = layer.weight.shape[1] < rows.shape[1]  # the layer sees its own column's maps alone
            layer.weight.copy_(rows[:, k * half:(k + 1) * half] if own else rows)


def draw(column):
    """Initial weights where it does not matter which."""
    for p in column.parameters():
        nn.init.normal_(p, 0, 0.01)


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--variant", choices=VARIANTS, required=True)
    a.add_argument("--batch", type=int, default=128)
    a.add_argument("--steps", type=int, default=5, help="after one that does not count")
    a.add_argument("--rank", type=int, default=-1, help="0 or 1: of a pair, which meets at --meet")
    a.add_argument("--meet", metavar="FILE")
    a.add_argument("--paced", action="store_true",
                   help="wait for a line on standard input before every step, and print its seconds behind it")
    a.add_argument("--check", metavar="FILE", help="train what check.py wrote instead, and print the losses")
    a = a.parse_args()
    variant = VARIANTS[a.variant]
    torch.set_num_threads(1)
    torch.manual_seed(1 + max(a.rank, 0))
    layout = torch.contiguous_format
    if variant.tuned:
        layout = torch.channels_last
        torch.set_flush_denormal(True)
    check = torch.load(a.check) if a.check else None
    batch, steps, rate = (check["batch"], len(check["x"]), check["rate"]) if check else (a.batch, a.steps + 1, 1e-4)
    if a.rank >= 0:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{a.meet}", rank=a.rank, world_size=2)
    link = Gloo(a.rank) if a.rank >= 0 else Constant(batch, layout)
    column = Column(variant, link)
    load(column, check["weights"], max(a.rank, 0)) if check else draw(column)
    column = column.to(memory_format=layout)
    # The paper's rule while the rate stays as it is: v = momentum v + (decay w + g), w = w - rate v.
    optimizer = torch.optim.SGD(column.parameters(), rate, 0.9, weight_decay=0.0005, fused=variant.tuned)
    forward = torch.compile(column) if variant.compiled else column
    x = (torch.rand(batch, 3, 227, 227) - 0.5).contiguous(memory_format=layout)
    labels, masks = torch.arange(batch) * 7 % CLASSES, None
    seconds, busy, losses = [], [], []
    for step in range(steps):
        if check:
            half = slice(max(a.rank, 0) * 2048, (max(a.rank, 0) + 1) * 2048)
            x, labels = check["x"][step].contiguous(memory_format=layout), check["labels"][step]
            masks = [m[step][:, half] for m in check["masks"]]
        if a.rank >= 0:
            dist.barrier()
        if a.paced and not sys.stdin.readline():
            sys.exit("standard input ended")
        began, used = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        link.clear()
        loss = F.cross_entropy(forward(x, masks), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - used)
        if a.paced:
            print(f"{seconds[-1]:.6f}", flush=True)
    print(json.dumps({"variant": a.variant, "steps": seconds[1:], "busy": busy[1:], "losses": losses}))
    if a.rank >= 0:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
