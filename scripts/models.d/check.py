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


def pictures(directory, n, channels, size):
    """Writes pictures of noise and gradients as PNG; returns them as an array and their paths."""
    rng = numpy.random.default_rng(7)
    y, x = numpy.mgrid[0:size, 0:size]
    out = []
    for i in range(n):
        p = rng.integers(0, 256, (channels, size, size)) if i % 2 else [(x * (i + c) + y * 3) % 256 for c in range(channels)]
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


def main():
    a = argparse.ArgumentParser()
    a.add_argument("what", choices=["pictures", "compare"])
    a.add_argument("directory")
    a.add_argument("base", help="an export's path without its extension; its PyTorch module and all formats beside it")
    a = a.parse_args()
    with safetensors.safe_open(a.base + ".safetensors", "numpy") as f:
        meta = f.metadata()
    channels, stored = int(meta["channels"]), int(meta["image_height"])
    made = f"{a.directory}/pictures"
    os.makedirs(made, exist_ok=True)
    images = pictures(made, 8, channels, stored)
    if a.what == "pictures":
        return 0
    ours = numpy.array([p["logits"] for p in json.load(open(f"{a.directory}/logits.json"))])
    m = module(a.base + ".py")
    size = m.Network().input_mean.shape[-1]
    x = centre(images, size)
    rows = []
    for end in (".safetensors", ".pt", ".npz"):
        with torch.no_grad():
            rows.append(("PyTorch " + torch.__version__.split("+")[0], end, m.load(a.base + end)(torch.from_numpy(x)).numpy()))
    onnx.checker.check_model(a.base + ".onnx", full_check=True)
    session = onnxruntime.InferenceSession(a.base + ".onnx", providers=["CPUExecutionProvider"])
    logits, p = session.run(["logits", "probabilities"], {"pixels": x})
    rows.append(("onnxruntime " + onnxruntime.__version__, ".onnx", logits))
    bad = abs(p.sum(1) - 1).max() > 1e-5
    for who, end, got in rows:
        e = abs(got - ours).max() / abs(ours).max()
        bad = bad or not e <= TOLERANCE
        print(f"{who:22} {end:13} logits differ by {e:.1e} of the largest{'' if e <= TOLERANCE else '   TOO MUCH'}")
    rewrite(a.base, a.directory)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
