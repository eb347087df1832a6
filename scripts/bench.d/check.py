"""Writes what column.py --check trains: full-size AlexNet's initial weights, images, labels and dropout masks of the
steps whose losses are pinned in worker/train/testdata/torch.json, which the product's own test is held to as well."""
import json
import os
import sys

import torch

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, os.path.join(root, "scripts/fixtures"))
import steps as pinned  # noqa: E402

STEPS = 3


def main():
    with open(os.path.join(root, "worker/train/testdata/torch.json")) as f:
        job = next(j for j in json.load(f)["jobs"] if j["network"] == "alexnet" and j["columns"] == 2)
    torch.set_default_dtype(torch.float64)
    layers, size, params = pinned.network(job)
    weights = {layers[i]["name"]: (p.w.detach().float(), p.b.detach().float()) for i, p in params.items()}
    x, labels = zip(*pinned.batches(job, size, STEPS))
    over = (0, 3, 0, 3)  # conv1's last windows reach 3 pixels beyond the image
    drops = [(i, l["keep"]) for i, l in enumerate(layers) if l["kind"] == "dropout"]
    masks = [[torch.tensor(pinned.kept(job["batch"], 4096, keep, job, i, s)).float() for s in range(STEPS)]
             for i, keep in drops]
    torch.save({"batch": job["batch"], "rate": job["rate"], "weights": weights, "labels": labels, "masks": masks,
                "x": [torch.nn.functional.pad(v, over).float() for v in x], "losses": job["losses"][:STEPS]},
               sys.argv[1] + ".tmp")
    os.replace(sys.argv[1] + ".tmp", sys.argv[1])  # whole or not at all


if __name__ == "__main__":
    main()
