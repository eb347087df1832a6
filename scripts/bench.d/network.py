"""One column of two-column AlexNet (shard/networks/alexnet.yaml) in PyTorch, plain and tuned.

A column holds half of every layer's maps. Before conv3, fc6, fc7 and fc8 it gets the other column's maps through a
link, and hands back the part of their gradient that it finds; before the loss the logits cross.
"""
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0  # response normalisation, paper's section 3.3
CLASSES = 1000
CROSSING = {"conv3": (128, 13, 13), "fc6": (128, 6, 6), "fc7": (2048,), "fc8": (2048,), "loss": (CLASSES // 2,)}


@dataclass(frozen=True)
class Variant:
    """A way to write the same network. `tuned` is what an expert writes by hand, `jemalloc` how it is started."""
    tuned: bool = False
    compiled: bool = False
    jemalloc: bool = False


VARIANTS = {
    "stock": Variant(),
    "stock-jemalloc": Variant(jemalloc=True),
    "tuned": Variant(tuned=True, jemalloc=True),
    "compile": Variant(compiled=True, jemalloc=True),
    "compile-tuned": Variant(tuned=True, compiled=True, jemalloc=True),
}


class Constant:
    """A link to nobody: the other column's maps are constants, and what is found for their gradient is dropped."""

    def __init__(self, batch, layout):
        generator = torch.Generator().manual_seed(1)
        self.maps = {}
        for name, shape in CROSSING.items():
            maps = torch.randn(batch, *shape, generator=generator).relu_()
            if name == "conv3":
                maps = maps.contiguous(memory_format=layout)
            self.maps[name] = maps.requires_grad_(name != "loss")  # as in a pair: its gradient is computed

    def start(self, name, x):
        return lambda: self.maps[name].reshape(x.shape)

    def back(self, _):
        return lambda: None

    def plain(self, name, x):
        return torch.cat((x, self.maps[name]), 1)

    def clear(self):
        for maps in self.maps.values():
            maps.grad = None


def flat(x):
    """The same memory as gloo wants it: contiguous by its strides."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 and not x.is_contiguous() else x


class Swap(torch.autograd.Function):
    """Both columns' maps side by side, sent and received as a user would: wait, then go on."""

    @staticmethod
    def forward(ctx, x, link):
        ctx.link = link
        other = link.trade(x.contiguous())()
        return torch.cat((x, other) if link.first else (other, x), 1)

    @staticmethod
    def backward(ctx, g):
        a, b = (part.contiguous() for part in g.chunk(2, 1))
        own, other = (a, b) if ctx.link.first else (b, a)
        return own + ctx.link.trade(other)(), None


class Gloo:
    """The link of one of two processes."""

    def __init__(self, rank):
        self.peer, self.first = 1 - rank, rank == 0

    def trade(self, x):
        """Sends x and returns what waits for its like."""
        got = torch.empty_like(x)
        work = [dist.irecv(flat(got), self.peer), dist.isend(flat(x), self.peer)]

        def wait():
            for w in work:
                w.wait()
            return got

        return wait

    def start(self, _, x):
        return self.trade(x)

    def back(self, g):
        return self.trade(g)

    def plain(self, name, x):
        if name == "loss":  # the gradient of one's own logits is complete already
            other = self.trade(x.detach())()
            return torch.cat((x, other) if self.first else (other, x), 1)
        return Swap.apply(x, self)

    def clear(self):
        pass


class Normalise(torch.autograd.Function):
    """Response normalisation with its analytic gradient. The sum over neighbouring maps is a 1x1 convolution with a
    band matrix, which oneDNN does at the speed of a matrix product; scale and offset ride in its weights and bias."""

    @staticmethod
    def window(x, factor, bias=None):
        i = torch.arange(x.shape[1])
        band = ((i[:, None] - i[None]).abs() <= SIZE // 2).float().mul_(factor)
        return F.conv2d(x, band[:, :, None, None], None if bias is None else torch.full((len(i),), bias))

    @staticmethod
    def forward(ctx, x):
        s = Normalise.window(x * x, ALPHA, K)
        m = s.rsqrt()
        m.mul_(m.sqrt())  # s^-0.75
        y = x * m
        ctx.save_for_backward(x, s, m, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, s, m, y = ctx.saved_tensors
        w = Normalise.window((g * y).div_(s), 2 * ALPHA * BETA)
        return (g * m).addcmul_(x, w, value=-1)


class Across(torch.autograd.Function):
    """A layer over both columns' maps by blocks: one's own is computed while the other's maps travel, and backward the
    gradient of the other's maps leaves first and travels while all the rest is computed."""

    @staticmethod
    def forward(ctx, x, own, other, bias, link, name):
        pending = link.start(name, x)
        if x.dim() == 4:
            y = F.conv2d(x, own, bias, padding=1)
            theirs = pending()
            y.add_(F.conv2d(theirs, other, padding=1))
        else:
            y = torch.addmm(bias, x, own.t())
            theirs = pending()
            y.addmm_(theirs, other.t())
        ctx.link = link
        ctx.save_for_backward(x, theirs, own, other)
        return y

    @staticmethod
    def backward(ctx, g):
        x, theirs, own, other = ctx.saved_tensors
        if x.dim() == 4:
            def part(maps, w, *what):
                return torch.ops.aten.convolution_backward(g, maps, w, [len(g[0])], [1, 1], [1, 1], [1, 1], False,
                                                           [0, 0], 1, what)
            pending = ctx.link.back(part(theirs, other, True, False, False)[0])
            gx = part(x, own, True, False, False)[0]
            _, gown, gbias = part(x, own, False, True, True)
            gother = part(theirs, other, False, True, False)[1]
        else:
            pending = ctx.link.back(g @ other)
            gx, gown, gother, gbias = g @ own, g.t() @ x, g.t() @ theirs, g.sum(0)
        partial = pending()
        return (gx if partial is None else gx.add_(partial)), gown, gother, gbias, None, None


class Blocks(nn.Module):
    """The parameters of a layer that Across computes."""

    def __init__(self, out, *shape):
        super().__init__()
        self.own, self.other = (nn.Parameter(torch.empty(out, *shape)) for _ in range(2))
        self.bias = nn.Parameter(torch.empty(out))


class Column(nn.Module):
    """One column. masks, where given, are those of dropout; else they are drawn."""

    def __init__(self, variant, link):
        super().__init__()
        self.variant, self.link = variant, link
        self.conv1 = nn.Conv2d(3, 48, 11, 4)
        self.conv2 = nn.Conv2d(48, 128, 5, padding=2)
        self.conv4 = nn.Conv2d(192, 192, 3, padding=1)
        self.conv5 = nn.Conv2d(192, 128, 3, padding=1)
        if variant.tuned and not variant.compiled:
            self.conv3 = Blocks(192, 128, 3, 3)
            self.fc6, self.fc7, self.fc8 = Blocks(2048, 128 * 36), Blocks(2048, 2048), Blocks(CLASSES // 2, 2048)
        else:
            self.conv3 = nn.Conv2d(256, 192, 3, padding=1)
            self.fc6, self.fc7, self.fc8 = nn.Linear(9216, 2048), nn.Linear(4096, 2048), nn.Linear(4096, CLASSES // 2)

    def across(self, name, x):
        layer = getattr(self, name)
        if isinstance(layer, Blocks):
            if name == "fc6":
                x = x.flatten(1)
            return Across.apply(x, layer.own, layer.other, layer.bias, self.link, name)
        x = self.link.plain(name, x)
        return layer(x.flatten(1) if name == "fc6" else x)

    def normalise(self, x):
        if self.variant.tuned:
            return Normalise.apply(x)
        return F.local_response_norm(x, SIZE, alpha=ALPHA * SIZE, beta=BETA, k=K)  # torch divides alpha by the size

    def forward(self, x, masks=None):
        """x: batch x 3 x 227 x 227, the image and 3 pixels of zero right and bottom. Returns the whole logits."""
        x = F.max_pool2d(self.normalise(F.relu(self.conv1(x), inplace=True)), 3, 2)
        x = F.max_pool2d(self.normalise(F.relu(self.conv2(x), inplace=True)), 3, 2)
        x = F.relu(self.across("conv3", x), inplace=True)
        x = F.relu(self.conv4(x), inplace=True)
        x = F.max_pool2d(F.relu(self.conv5(x), inplace=True), 3, 2)
        for i, name in enumerate(("fc6", "fc7")):
            x = F.relu(self.across(name, x), inplace=True)
            x = x * (torch.empty_like(x).bernoulli_(0.5) if masks is None else masks[i])  # the paper's: no scaling here
        x = self.across("fc8", x)
        return self.link.plain("loss", x)
