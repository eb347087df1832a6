"""What the peers of scripts/bench recovery train: alexnet-32 (shard/networks/alexnet-32.yaml), each of two workers on
half of every batch. All of a step is drawn from its number, so a run that is disturbed can end in the same bits."""
import hashlib
import json
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

STEPS = int(os.environ.get("PEER_STEPS", "400"))
BATCH = int(os.environ.get("PEER_BATCH", "32"))
EVERY = 10  # steps between checkpoints


class Events:
    """Lines of JSON, with a time each, that the harness reads while the process runs."""

    def __init__(self, directory, **known):
        self.known = known
        self.file = open(os.path.join(directory, f"events-{os.getpid()}-{time.time_ns()}.jsonl"), "a", buffering=1)

    def __call__(self, event, **more):
        line = {"event": event, "at": time.time(), "pid": os.getpid(), **self.known, **more}
        self.file.write(json.dumps(line) + "\n")


def normalise(x):
    """Response normalisation in two columns; torch divides alpha by the size, the paper does not."""
    return torch.cat([F.local_response_norm(c, 5, alpha=5e-4, beta=0.75, k=2.0) for c in x.chunk(2, 1)], 1)


class Net(nn.Module):
    """The eight layers, both columns side by side: what stays within a column is a convolution in two groups."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(64, 64, 3, padding=1, groups=2)
        self.fc6, self.fc7, self.fc8 = nn.Linear(1024, 512), nn.Linear(512, 512), nn.Linear(512, 10)

    def forward(self, x, masks):
        x = F.max_pool2d(normalise(F.relu(self.conv1(x))), 3, 2, ceil_mode=True)
        x = F.max_pool2d(normalise(F.relu(self.conv2(x))), 3, 2, ceil_mode=True)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2, ceil_mode=True).flatten(1)
        x = F.relu(self.fc6(x)) * masks[0]
        x = F.relu(self.fc7(x)) * masks[1]
        return self.fc8(x)


def build():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(7)
    net = Net()
    return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def backward(net, optimizer, step, rank):
    """Forward and backward of a worker's half of a step's batch."""
    g = torch.Generator().manual_seed(1000003 * step + rank + 1)
    n = BATCH // 2
    x, y = torch.randn(n, 1, 32, 32, generator=g), torch.randint(0, 10, (n,), generator=g)
    masks = [(torch.rand(n, 512, generator=g) < 0.75).float() for _ in range(2)]
    optimizer.zero_grad()
    F.cross_entropy(net(x, masks), y).backward()


def digest(net, optimizer):
    h = hashlib.sha256()
    for p in net.parameters():
        h.update(p.detach().numpy().tobytes())
    for p in net.parameters():
        m = optimizer.state.get(p, {}).get("momentum_buffer")
        if m is not None:
            h.update(m.numpy().tobytes())
    return h.hexdigest()


def save(path, net, optimizer, step):
    torch.save({"step": step, "net": net.state_dict(), "optimizer": optimizer.state_dict()}, path + ".tmp")
    os.replace(path + ".tmp", path)


def load(path, net, optimizer):
    if not os.path.exists(path):
        return 0
    d = torch.load(path)
    net.load_state_dict(d["net"])
    optimizer.load_state_dict(d["optimizer"])
    return d["step"]
