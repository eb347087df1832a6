"""Makes up images for scripts/truth, as a batch of CIFAR's: smooth colours, shades and noise, no two alike."""
import os
import sys

import numpy

directory, n = sys.argv[1], int(sys.argv[2])
os.makedirs(directory, exist_ok=True)
rng = numpy.random.default_rng(2012)
at = numpy.linspace(0, 1, 32)
waves = numpy.stack([numpy.cos(numpy.pi * k * at) for k in range(6)])
with open(f"{directory}/test_batch.bin", "wb") as f:
    for i in range(n):
        grey, tint = rng.normal(0, 40, (6, 6)), rng.normal(0, 12, (3, 6, 6))
        image = 120 + waves.T @ (grey + tint) @ waves + rng.normal(0, 6, (3, 32, 32))
        f.write(bytes([i % 10]) + image.clip(0, 255).astype(numpy.uint8).tobytes())
