"""Compares exported models with what `worker predict` says, in PyTorch and in onnxruntime, and writes the same weights
again with PyTorch's, safetensors', numpy's and ONNX's own writers, for us to read. scripts/models runs it."""
import argparse
import importlib.util
import json
import os
import struct
import sys
import zlib

import numpy
import onnx
import onnxruntime
import safetensors
import safetensors.numpy
import torch

TOLERANCE = 1e-5  # of a logit, relative to the largest one


def module(path):
    spec = importlib.util.spec_from_file_location("exported", path)
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m


def pictures(directory, n, channels, size, seed=7):
    """Writes pictures of noise and gradients as PNG; returns them as an array and their paths."""
    rng = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:size, 0:size]
    out = []
    for i in range(n):
        p = [(x * (i + c) + y * (3 + seed)) % 256 for c in range(channels)]
        if i % 2:
            p = rng.integers(0, 256, (channels, size, size))
        out.append(numpy.asarray(p, dtype=numpy.uint8))
        rows = out[i].transpose(1, 2, 0).reshape(size, -1)
        raw = b"".join(b"\0" + r.tobytes() for r in rows)
        head = struct.pack(">IIBBBBB", size, size, 8, 0 if channels == 1 else 2, 0, 0, 0)
        with open(f"{directory}/{i}.png", "wb") as f:
            f.write(b"\x89PNG\r\n\x1a\n")
            for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
                f.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return numpy.stack(out)


def centre(images, size):
    """The middle of images, as a frame of size x size pixels; 0 beyond their edge, where the mean is 0 too."""
    h = images.shape[-1]
    at = (h - size) // 2
    if at >= 0:
        return images[:, :, at:at + size, at:at + size].astype(numpy.float32)
    return numpy.pad(images, ((0, 0), (0, 0), (-at, size - h + at), (-at, size - h + at))).astype(numpy.float32)


def rewrite(base, directory):
    """Writes the model again by the writers of others."""
    state = torch.load(base + ".pt", weights_only=True)
    arrays = {k: v.numpy() for k, v in state.items()}
    torch.save(state, f"{directory}/torch.pt")
    numpy.savez(f"{directory}/numpy.npz", **arrays)
    numpy.savez_compressed(f"{directory}/compressed.npz", **arrays)
    safetensors.numpy.save_file(arrays, f"{directory}/others.safetensors")
    onnx.save(onnx.load(base + ".onnx"), f"{directory}/onnx.onnx")


class AlexNet(torch.nn.Module):
    """torchvision's AlexNet, with its names of tensors and its shapes."""

    def __init__(self):
        super().__init__()
        n = torch.nn
        self.features = n.Sequential(
            n.Conv2d(3, 64, 11, 4, 2), n.ReLU(), n.MaxPool2d(3, 2), n.Conv2d(64, 192, 5, padding=2), n.ReLU(),
            n.MaxPool2d(3, 2), n.Conv2d(192, 384, 3, padding=1), n.ReLU(), n.Conv2d(384, 256, 3, padding=1), n.ReLU(),
            n.Conv2d(256, 256, 3, padding=1), n.ReLU(), n.MaxPool2d(3, 2))
        self.avgpool = n.AdaptiveAvgPool2d((6, 6))
        self.classifier = n.Sequential(
            n.Dropout(), n.Linear(9216, 4096), n.ReLU(), n.Dropout(), n.Linear(4096, 4096), n.ReLU(),
            n.Linear(4096, 1000))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def torchvision(begin):
    net = AlexNet().eval()
    os.makedirs("pictures", exist_ok=True)
    images = pictures("pictures", 2, 3, 256)
    if begin:
        torch.save(net.state_dict(), "torchvision.pth")
        return 0
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        theirs = net((torch.from_numpy(centre(images, 224)) / 255 - mean) / std).numpy()
    ours = numpy.array([p["logits"] for p in json.load(open("logits.json"))])
    return report("torchvision's shape", ".pth", theirs, ours)


def full_size(name):
    """Writes random weights of a network of the paper's, two columns merged, as a state_dict."""
    source = name == "alexnet-source"
    shapes = {"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
              "conv5": (256, 192, 3, 3), "fc2048" if source else "fc6": (4096, 9216),
              "fc2048b" if source else "fc7": (4096, 4096), "fc1000" if source else "fc8": (1000, 4096)}
    state = {"input_mean": torch.linspace(100, 140, 224).expand(3, 224, 224).contiguous()}
    for layer, shape in shapes.items():
        fan = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
        state[layer + ".weight"] = torch.randn(shape) * (2 / fan) ** 0.5
        state[layer + ".bias"] = torch.randn(shape[0]) * 0.1
    torch.save(state, name + ".pt")
    return 0


def photos():
    """Writes eight pictures in two classes, to be packed."""
    for label in (0, 1):
        os.makedirs(f"photos/{label}", exist_ok=True)
        pictures(f"photos/{label}", 4, 3, 256, label)
    return 0


def ten_views(base):
    """The paper's test (section 4.1): the mean of the probabilities of the corners, the centre and their mirrors.
    The source's network takes the same mean from each, as its module does; else the mean image is seen at its place."""
    images = numpy.concatenate([pictures(f"photos/{label}", 4, 3, 256, label) for label in (0, 1)])
    labels = [0] * 4 + [1] * 4
    net = module(base + ".py").load(base + ".safetensors")
    x = images.astype(numpy.float32)
    if "source" not in base:
        net.input_mean.zero_()
        x -= images.astype(numpy.float64).mean(0).astype(numpy.float32)
    p = 0
    for top, left in ((0, 0), (0, 32), (16, 16), (32, 0), (32, 32)):
        crop = x[:, :, top:top + 224, left:left + 224]
        for view in (crop, crop[:, :, :, ::-1]):
            with torch.no_grad():
                p = p + torch.softmax(net(torch.from_numpy(view.copy())).double(), 1) / 10
    loss = -p[torch.arange(8), labels].log().mean().item()
    top5 = sum(l not in p[i].topk(5).indices for i, l in enumerate(labels)) / 8
    ours = json.load(open("ten.json"))
    e = abs(loss - ours["loss"]) / loss
    bad = not e <= TOLERANCE or ours["top5_error"] != top5
    print(f"  ten views: loss {ours['loss']:.6f}, differs by {e:.1e}{'   TOO MUCH' if bad else ''}")
    return int(bad)


def report(who, end, got, ours):
    e = abs(got - ours).max() / abs(ours).max()
    print(f"  {who:22} {end:13} logits differ by {e:.1e} of the largest{'' if e <= TOLERANCE else '   TOO MUCH'}")
    return int(not e <= TOLERANCE)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("what", choices=["pictures", "compare", "torchvision", "compare-torchvision", "random",
                                      "photos", "compare-ten"])
    a.add_argument("directory")
    a.add_argument("base", help="an export's path without its extension; its PyTorch module and all formats beside it")
    a = a.parse_args()
    torch.manual_seed(7)
    if a.what == "photos":
        return photos()
    if a.what == "compare-ten":
        return ten_views(a.base)
    if a.what == "random":
        return full_size(a.base)
    if "torchvision" in a.what:
        return torchvision(a.what == "torchvision")
    with safetensors.safe_open(a.base + ".safetensors", "numpy") as f:
        meta = f.metadata()
        size = f.get_tensor("input_mean").shape[-1]
    channels, stored = int(meta["channels"]), int(meta["image_height"]) or size
    made = f"{a.directory}/pictures"
    os.makedirs(made, exist_ok=True)
    images = pictures(made, 8 if stored < 64 else 2, channels, stored)
    if a.what == "pictures":
        return 0
    ours = numpy.array([p["logits"] for p in json.load(open(f"{a.directory}/logits.json"))])
    m = module(a.base + ".py")
    x = centre(images, size)
    rows = []
    for end in (".safetensors", ".pt", ".npz"):
        with torch.no_grad():
            got = m.load(a.base + end)(torch.from_numpy(x)).numpy()
        rows.append(("PyTorch " + torch.__version__.split("+")[0], end, got))
    onnx.checker.check_model(a.base + ".onnx", full_check=True)
    session = onnxruntime.InferenceSession(a.base + ".onnx", providers=["CPUExecutionProvider"])
    logits, p = session.run(["logits", "probabilities"], {"pixels": x})
    rows.append(("onnxruntime " + onnxruntime.__version__, ".onnx", logits))
    bad = abs(p.sum(1) - 1).max() > 1e-5
    for who, end, got in rows:
        bad = report(who, end, got, ours) or bad
    rewrite(a.base, a.directory)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
