"""Trains the same steps as the product, in PyTorch, and compares: what the network saw, losses, every gradient, and
every weight behind every step. scripts/truth runs it."""
import argparse
import json
import math
import os
import subprocess
import sys

import numpy
import torch
from safetensors import safe_open

import alexnet

# Tolerated errors: relative, of norms; "weights" are those that do not begin at 0, where a difference of momenta would
# hide. The reference computes in float64, and hands over float32, 6e-8 of a number: what is beyond 1e-5 there is a
# mistake. In float32 a map is off by some 1e-6. Where a rectifier's input, or the lead of a pool's maximum, is smaller
# than that, it goes the other way, and the gradient that passes there, or does not, is off by all of itself: a share p
# of such places moves gradients by the root of p, 1e-3 of one in a million, however large the batch. So it does
# PyTorch's own float32 (--float32); a small network has few places, of which one may weigh a percent. Two programs that
# each go their own way (--own) part faster still: at full size and batch 32, by a factor of five a step.
TOLERANCE = {
    "ref": {"input": 1e-6, "loss": 1e-6, "first gradient": 1e-5, "gradient": 1e-5, "weights": 1e-6, "momentum": 1e-5,
            "views": 1e-5},
    "cpu": {"input": 1e-6, "loss": 1e-6, "first gradient": 2e-2, "gradient": 2e-2, "weights": 2e-4, "momentum": 2e-2,
            "views": 1e-5},
}


def relative(got, want):
    """The norm of the difference over the norm."""
    got, want = got.double(), want.double()
    n, d = want.norm().item(), (got - want).norm().item()
    return d / n if n else (math.inf if d else 0.0)


class Errors:
    """The largest error of each figure, and at which step."""

    def __init__(self, tolerance):
        self.tolerance, self.worst = tolerance, {}

    def add(self, figure, where, step, e):
        key = figure, where
        if math.isnan(e):
            e = math.inf
        if key not in self.worst or e > self.worst[key][0]:
            self.worst[key] = e, step

    def of(self, figure, where=None):
        return max((e for (f, w), (e, _) in self.worst.items() if f == figure and where in (None, w)), default=None)

    def beyond(self):
        """What is beyond its tolerance."""
        return [(f, w, e, step) for (f, w), (e, step) in self.worst.items() if not e <= self.tolerance[f]]


class Program:
    """A network that is trained beside the product, and how far apart they are."""

    def __init__(self, trace, dtype, plant=None):
        self.trace, self.dtype, self.plant = trace, dtype, plant
        initial = [{n: t.to(dtype, copy=True).requires_grad_() for n, t in w.items()} for w in trace.initial]
        self.net = alexnet.Net(trace.form, initial, plant)
        self.view = alexnet.Augmentation(trace.form, trace.images, trace.size, plant)
        self.errors = Errors(trace.tolerance)
        self.losses, self.seen = [], []

    def step(self, step):
        """Does a step; from what the product had before it, unless it goes its own way."""
        t = self.trace
        if step.before and not t.own:
            self.take(step.before)
        self.input = torch.stack([self.view(t.images[v["sample"]], v["y"], v["x"], v["flip"], v["noise"])
                                  for v in step.drawn["images"]])
        labels = torch.tensor([int(t.labels[v["sample"]]) for v in step.drawn["images"]])
        masks = [[m.to(self.dtype) for m in layer] for layer in step.masks]
        loss, self.gradients = self.net.gradients(self.input.to(self.dtype), labels, masks)
        self.losses.append(loss)
        self.net.update()

    def take(self, columns):
        """Makes the product's weights and momenta its own."""
        with torch.no_grad():
            for c, got in enumerate(columns):
                for n, w in self.net.w[c].items():
                    w.copy_(got[n])
                    self.net.v[c][n] = got[n + ".momentum"].to(self.dtype)

    def state(self):
        """What the step came to, as a column of the product's says it."""
        for c in alexnet.COLUMNS:
            out = {"input": self.input}
            for n, w in self.net.w[c].items():
                out |= {n: w.detach(), n + ".gradient": self.gradients[c][n], n + ".momentum": self.net.v[c][n]}
            yield out

    def views(self, seen, logits):
        """Holds the product's ten views against those of its own weights, the errors and the loss too."""
        t, mean, e = self.trace, self.view.mean, self.errors
        b = (t.about["stored"] - t.size) // 2
        for i, sample in enumerate(seen["samples"]):
            if t.form == "source":  # the mean's centre, whatever is seen
                crops = [v.double() - mean[:, b:b + t.size, b:b + t.size]
                         for v in alexnet.ten_views(t.images[sample], t.size)]
            else:
                crops = list(alexnet.ten_views(t.images[sample].double() - mean, t.size))
            with torch.no_grad():
                own = self.net.logits(torch.stack(crops).to(self.dtype)).double()
            self.seen.append(own)
        own = torch.stack(self.seen, 1)
        # The product has all five views, then their mirrors.
        own = torch.cat([own[0::2], own[1::2]])
        e.add("views", "logits", t.steps, ((logits.double() - own).abs().max() / own.abs().max()).item())
        p = own.softmax(2).mean(0)
        labels = torch.tensor([int(t.labels[s]) for s in seen["samples"]])
        loss = -p[torch.arange(len(labels)), labels].log().mean().item()
        e.add("views", "loss", t.steps, abs(seen["loss"] - loss) / loss)
        for k, got in ((1, seen["top1_error"]), (5, seen["top5_error"])):
            hit = (p.topk(k, 1).indices == labels[:, None]).any(1).double().mean().item()
            e.add("views", f"top-{k} error", t.steps, abs(got - (1 - hit)))

    def hold(self, errors, number, loss, columns):
        """Holds another's step against this one's."""
        errors.add("loss", "loss", number, abs(loss - self.losses[-1]) / self.losses[-1])
        for c, (got, want) in enumerate(zip(columns, self.state())):
            for name, t in want.items():
                layer, _, what = name.partition(".")
                figure = {"": "input" if layer == "input" else "weights", "momentum": "momentum",
                          "gradient": "first gradient" if number == 1 else "gradient"}[what]
                if figure != "weights" or self.trace.initial[c][name].any():
                    errors.add(figure, layer, number, relative(got[name], t))


class Step:
    """What the product wrote of a step."""

    def __init__(self, directory, number, columns, before):
        self.number, self.columns, self.before = number, [], before
        for c in range(columns):
            path = f"{directory}/step-{number}-{c}.safetensors"
            with safe_open(path, "pt") as f:
                self.columns.append({n: f.get_tensor(n) for n in f.keys()})
                self.drawn = json.loads(f.metadata()["step"])
            os.unlink(path)
        names = [n for n in self.columns[0] if n.endswith("/mask")]
        self.masks = [[c[n] for c in self.columns] for n in names]


class Trace:
    """The product at work: it does a step when it is asked for the next."""

    def __init__(self, command, directory, form, steps, own):
        self.directory, self.form, self.steps, self.own = directory, form, steps, own
        self.last = None  # what the last step left
        self.process = subprocess.Popen(command + ["--wait", "--steps", str(steps), "--out", directory],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def each(self):
        """Yields step after step."""
        for number in range(1, self.steps + 1):
            if self.process.stdout.readline().split() != ["step", str(number)]:
                raise SystemExit(f"truth: the product ended in step {number}, status {self.process.wait()}")
            if number == 1:
                self.load()
            step = Step(self.directory, number, self.about["columns"], self.last)
            self.last = step.columns
            yield step
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        if self.process.wait() != 0:
            raise SystemExit("truth: the product failed behind its last step")

    def seen(self):
        """What images came to in ten views, and their logits."""
        path = f"{self.directory}/views.safetensors"
        with safe_open(path, "pt") as f:
            out = json.loads(f.metadata()["seen"]), f.get_tensor("logits")
        os.unlink(path)
        return out

    def load(self):
        with open(f"{self.directory}/job.json") as f:
            a = self.about = json.load(f)
        self.size, self.tolerance = a["size"], TOLERANCE["ref" if a["numerics"].startswith("ref/") else "cpu"]
        shape = a["images"], a["channels"], a["stored"], a["stored"]
        self.images = torch.from_numpy(numpy.fromfile(f"{self.directory}/images.u8", numpy.uint8).reshape(shape))
        self.labels = numpy.fromfile(f"{self.directory}/labels.i32", "<i4")
        self.initial = []
        for c in range(a["columns"]):
            with safe_open(f"{self.directory}/initial-{c}.safetensors", "pt") as f:
                self.initial.append({n: f.get_tensor(n) for n in f.keys()})


class Drawn:
    """Whether what was fed in is drawn as the paper, or the source, says."""

    def __init__(self, trace):
        self.t, self.bad, self.noise, self.flips, self.kept, self.places = trace, [], [], [], [], []

    def want(self, what, got, mean, deviation):
        """A mean of many draws within five standard deviations of what it should be."""
        if not abs(got - mean) <= 5 * deviation + 1e-12:
            self.bad.append(f"{what} is {got:.6g}, not {mean:.6g}")

    def initial(self):
        source = self.t.form == "source"
        for c, column in enumerate(self.t.initial):
            for n, t in column.items():
                layer = n.split("/")[0]
                std = 0.03 if source and layer in ("conv3", "conv4", "conv5") else 0.01
                bias = 0.0 if layer in ("conv1", "conv3", "fc8", "fc1000") else 1.0
                if n.endswith("/b"):
                    if not torch.all(t == bias):
                        self.bad.append(f"biases of {layer} do not begin at {bias}")
                    continue
                w = t.double()
                self.want(f"mean of {n} of column {c}", w.mean().item(), 0, std / w.numel() ** 0.5)
                self.want(f"deviation of {n} of column {c}", w.std().item(), std, std / (2 * w.numel()) ** 0.5)

    def step(self, step):
        border = self.t.about["stored"] - self.t.size
        views = step.drawn["images"]
        for i, v in enumerate(views):
            if not (0 <= v["y"] <= border and 0 <= v["x"] <= border):
                self.bad.append(f"crop at {v['y']}, {v['x']}")
            crop = v["y"], v["x"], v["flip"]
            first = views[i - i % 32]  # batches are multiples of 32
            if self.t.form == "source" and crop != (first["y"], first["x"], first["flip"]):
                self.bad.append(f"step {step.number}: image {i} is not cropped as the others of its 32")
            self.noise += v["noise"]
            if self.t.form == "text" or i % 32 == 0:
                self.flips.append(v["flip"])
                self.places += [v["y"], v["x"]]
        self.kept += [m.double().mean().item() for layer in step.masks for m in layer]
        self.units = sum(m.numel() for layer in step.masks for m in layer)
        if any(not torch.all((m == 0) | (m == 1)) for layer in step.masks for m in layer):
            self.bad.append("masks that are neither 0 nor 1: dropout is scaled")

    def end(self):
        n = len(self.noise)
        self.want("mean of the noise's draws", sum(self.noise) / n, 0, n ** -0.5)
        self.want("mean square of the noise's draws", sum(v * v for v in self.noise) / n, 1, (2 / n) ** 0.5)
        self.want("share of mirrored images", sum(self.flips) / len(self.flips), 0.5, 0.5 / len(self.flips) ** 0.5)
        self.want("share of units that are kept", sum(self.kept) / len(self.kept), 0.5,
                  0.5 / (self.units * self.t.steps) ** 0.5)
        border = self.t.about["stored"] - self.t.size
        self.want("mean place of crops", sum(self.places) / len(self.places), border / 2,
                  (((border + 1) ** 2 - 1) / 12 / len(self.places)) ** 0.5)
        return self.bad


def show(e):
    return "-" if e is None else f"{e:.1e}"


FIGURES = ("first gradient", "gradient", "weights", "momentum")


def table(true, yardstick):
    """The figures of the comparison, by parameter; behind them those of PyTorch's own float32, if it ran."""
    all_of = [true.errors] + ([yardstick] if yardstick.worst else [])

    def row(name, cells):
        print(f"  {name:20}" + "".join(f" {c:>14}" for c in cells))

    row("relative errors", list(FIGURES) + ["float32's own:"] + list(FIGURES[1:]) if len(all_of) > 1 else FIGURES)
    for n in dict.fromkeys(w for f, w in true.errors.worst if f == "momentum"):
        row(n, [show(e.of(f, n)) for e in all_of for f in FIGURES])
    row("largest", [show(e.of(f)) for e in all_of for f in FIGURES])
    row("tolerated", [show(true.errors.tolerance[f]) for f in FIGURES])
    for f in ("input", "loss", "views"):
        if true.errors.of(f) is not None:
            row(f, [show(true.errors.of(f)), "tolerated", show(true.errors.tolerance[f])] +
                [show(e.of(f)) + " float32" for e in all_of[1:] if e.of(f) is not None])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--form", choices=["text", "source"], required=True)
    a.add_argument("--dir", required=True)
    a.add_argument("--steps", type=int, default=10)
    a.add_argument("--views", type=int, default=0, help="images to see in ten views behind the last step")
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--float32", action="store_true", help="the same in float32 too, to see what its rounding comes to")
    a.add_argument("--own", action="store_true", help="go on from its own weights, not the product's")
    a.add_argument("--plant", default="", help="mistakes to make, by commas, or all: each must be found")
    a.add_argument("command", nargs="+", help="what starts the product")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    plants = list(alexnet.PLANTS) if a.plant == "all" else [p for p in a.plant.split(",") if p]
    unknown = [p for p in plants if p not in alexnet.PLANTS]
    if unknown:
        raise SystemExit(f"truth: no mistake {unknown[0]}; there are {', '.join(alexnet.PLANTS)}")
    trace = Trace(a.command + ["--views", str(a.views)], a.dir, a.form, a.steps, a.own)
    programs = []
    for step in trace.each():
        if not programs:
            true = Program(trace, torch.float64)
            other = [Program(trace, torch.float32)] if a.float32 else []
            planted = [Program(trace, torch.float64, p) for p in plants]
            programs = [true] + other + planted
            yardstick = Errors(trace.tolerance)
            drawn = Drawn(trace)
            drawn.initial()
        drawn.step(step)
        for p in programs:
            p.step(step)
            p.hold(p.errors, step.number, step.drawn["loss"], step.columns)
        for p in other:
            true.hold(yardstick, step.number, p.losses[-1], p.state())
        print(f"  step {step.number}: loss {step.drawn['loss']:.6f}, here {true.losses[-1]:.6f}", file=sys.stderr)
    if a.views:
        seen, logits = trace.seen()
        for p in [true] + planted:
            if not a.own:
                p.take(trace.last)
            p.views(seen, logits)
    b = trace.about
    print(f"{b['network']}, batch {b['batch']}, input {b['size']}, {b['numerics']}, against PyTorch "
          f"{torch.__version__.split('+')[0]} in float64")
    table(true, yardstick)
    bad = [f"{f} of {w}: {e:.1e} in step {s}" for f, w, e, s in true.errors.beyond()] + drawn.end()
    for line in bad:
        print("  WRONG: " + line)
    for p in planted:
        found = sorted(p.errors.beyond(), key=lambda x: -x[2] / p.errors.tolerance[x[0]])
        if not found:
            bad.append(p.plant)
        print(f"  planted: {alexnet.PLANTS[p.plant]}: " + (
            f"found, {found[0][0]} of {found[0][1]} off by {found[0][2]:.1e}" if found else "NOT FOUND"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
