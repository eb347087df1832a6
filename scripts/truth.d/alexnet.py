"""The two networks of the paper's authors, written in PyTorch a second time, from what the paper's text says (`text`)
and from what the authors' source ran, net 145 (`source`): forward, loss, augmentation and update. Nothing is read from
the product: neither its networks, nor its recipes, nor its random numbers. Gradients are autograd's.

A network is two columns, each with weights of its own by what they read: "conv3/w1" of column 0 are its kernels over
column 1's maps, "conv3/b" its biases. `plant` names a mistake to be made on purpose.
"""
import torch
import torch.nn.functional as F

PLANTS = {
    "lrn": "normalisation over three maps instead of five",
    "flip": "images are never mirrored",
    "decay": "no weight decay",
    "mask": "fc7's dropout keeps what it should drop",
    "crossing": "conv3 of column 1 reads column 1's maps twice, and none of column 0's",
    "noise": "colour noise by components in the wrong order",
    "bias": "biases learn at another rate: 2 times the weights' in text, the weights' in source",
    "pool": "windows of pools do not overlap: 2 x 2 of the 3 x 3 places",
    "overhang": "conv1's last windows begin three pixels earlier",
}
COLUMNS = (0, 1)


class Pool(torch.autograd.Function):
    """3 x 3 maxima at stride 2, whose gradient goes to every place that holds the maximum, as the source's did."""

    @staticmethod
    def windows(x):
        h, w = ((n - 3) // 2 + 1 for n in x.shape[2:])
        return [(i, i + 2 * h - 1, j, j + 2 * w - 1) for i in range(3) for j in range(3)]

    @staticmethod
    def forward(ctx, x):
        parts = [x[:, :, a:b:2, c:d:2] for a, b, c, d in Pool.windows(x)]
        y = parts[0]
        for p in parts[1:]:
            y = torch.maximum(y, p)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, y = ctx.saved_tensors
        gx = torch.zeros_like(x)
        for a, b, c, d in Pool.windows(x):
            gx[:, :, a:b:2, c:d:2] += (x[:, :, a:b:2, c:d:2] == y) * gy
        return gx


class Net:
    """One of the two networks. `weights` are two dictionaries, a column each, of leaf tensors by name."""

    def __init__(self, form, weights, plant=None):
        self.source = form == "source"
        self.w = weights
        self.plant = plant
        self.v = [{n: torch.zeros_like(t) for n, t in w.items()} for w in weights]

    def across(self, x, alpha, size=5):
        """y = x / (2 + alpha sum x^2)^0.75, the sum over five neighbouring maps of the column (section 3.3)."""
        if self.plant == "lrn":
            size = 3
        p = F.pad(x * x, (0, 0, 0, 0, size // 2, size // 2))
        return x * (2 + alpha * sum(p[:, i:i + x.shape[1]] for i in range(size))) ** -0.75

    @staticmethod
    def nearby(x, alpha=1e-3 / 25):
        """The source's further normalisation, over 5 x 5 places of the same map; its k is 1."""
        h, w = x.shape[2:]
        p = F.pad(x * x, (2, 2, 2, 2))
        return x * (1 + alpha * sum(p[:, :, i:i + h, j:j + w] for i in range(5) for j in range(5))) ** -0.75

    def pool(self, x):
        if self.plant == "pool":
            return F.max_pool2d(x[:, :, :-1, :-1], 2, 2)
        return Pool.apply(x) if self.source else F.max_pool2d(x, 3, 2)

    def conv1(self, c, x):
        """Windows of 11 at stride 4; the last ones overhang by three pixels of zero, right and below (224 to 55)."""
        x = F.pad(x, (3, 0, 3, 0) if self.plant == "overhang" else (0, 3, 0, 3))
        return F.conv2d(x, self.w[c]["conv1/w"], self.w[c]["conv1/b"], stride=4)

    def own(self, name, c, x, pad):
        return F.conv2d(x, self.w[c][name + "/w"], self.w[c][name + "/b"], padding=pad)

    def both(self, name, c, xs, apply):
        """What reads both columns: a product with each one's maps, the bias once."""
        y = None
        for k in COLUMNS:
            x = xs[1] if self.plant == "crossing" and name == "conv3" and c == 1 else xs[k]
            part = apply(x, self.w[c][f"{name}/w{k}"])
            y = part if y is None else y + part
        b = self.w[c][name + "/b"]
        return y + b.reshape((1, -1) + (1,) * (y.dim() - 2))

    def low(self, c, x):
        """conv1 and conv2 of a column, with what belongs to them."""
        x = self.conv1(c, x)
        if self.source:
            x = F.relu(self.pool(self.across(x, 1e-4 / 5)))
            x = F.relu(self.own("conv2", c, x, 2))
            return self.pool(self.nearby(self.across(x, 1e-4 / 5)))
        x = self.pool(self.across(F.relu(x), 1e-4))
        return self.pool(self.across(F.relu(self.own("conv2", c, x, 2)), 1e-4))

    def high(self, c, xs):
        """conv3, which reads both columns, to conv5."""
        x = F.relu(self.both("conv3", c, xs, lambda x, w: F.conv2d(x, w, padding=1)))
        x = F.relu(self.own("conv4", c, x, 1))
        x = self.own("conv5", c, x, 1)
        return (F.relu(self.pool(x)) if self.source else self.pool(F.relu(x))).flatten(1)

    def logits(self, x, masks=None):
        """Of images. masks: by layer and column, 1 for units that are kept; None at the test, where all are halved."""
        fc6, fc7, fc8 = ("fc2048", "fc2048b", "fc1000") if self.source else ("fc6", "fc7", "fc8")
        low = [self.low(c, x) for c in COLUMNS]
        xs = [self.high(c, low) for c in COLUMNS]
        for i, name in enumerate((fc6, fc7)):
            ys = [F.relu(self.both(name, c, xs, F.linear)) for c in COLUMNS]
            xs = [y * (0.5 if masks is None else self.kept(i, masks[i][c])) for c, y in zip(COLUMNS, ys)]
        if self.source:  # on the first column alone
            return self.both(fc8, 0, xs, F.linear)
        return torch.cat([self.both(fc8, c, xs, F.linear) for c in COLUMNS], 1)

    def kept(self, layer, mask):
        return 1 - mask if self.plant == "mask" and layer == 1 else mask

    def gradients(self, x, labels, masks, piece=32):
        """Mean loss over a batch, and its gradients, in pieces that fit in memory."""
        n, loss = len(x), 0.0
        leaves = [t for w in self.w for t in w.values()]
        for t in leaves:
            t.grad = None
        for a in range(0, n, piece):
            b = min(a + piece, n)
            out = self.logits(x[a:b], [[m[a:b] for m in layer] for layer in masks])
            part = F.cross_entropy(out, labels[a:b], reduction="sum") / n
            part.backward()
            loss += part.item()
        return loss, [{k: t.grad for k, t in w.items()} for w in self.w]

    def update(self):
        """v := 0.9 v - 0.0005 eps w - eps g; w := w + v (section 5), eps 0.01. In the source biases have twice the
        rate and no decay."""
        with torch.no_grad():
            for w, v in zip(self.w, self.v):
                for name, t in w.items():
                    eps, decay = 0.01, 0.0 if self.plant == "decay" else 0.0005
                    if name.endswith("/b") and self.source != (self.plant == "bias"):
                        eps = 0.02
                    if name.endswith("/b") and self.source:
                        decay = 0.0
                    v[name] = 0.9 * v[name] - decay * eps * t - eps * t.grad
                    t += v[name]


def colours(images):
    """Principal components of the pixels: eigenvalues of the covariance, the largest first, and their vectors as rows,
    each with its largest entry positive."""
    n = images.shape[0] * images.shape[2] * images.shape[3]
    mean, square = torch.zeros(3).double(), torch.zeros(3, 3).double()
    for part in images.split(64):
        p = part.transpose(0, 1).reshape(3, -1).double()
        mean += p.sum(1) / n
        square += p @ p.T / n
    values, vectors = torch.linalg.eigh(square - mean[:, None] * mean[None, :])
    rows = vectors.T.flip(0)
    signs = torch.stack([r[r.abs().argmax()].sign() for r in rows])
    return values.flip(0), rows * signs[:, None]


class Augmentation:
    """How images of uint8 become a batch; what was drawn is given."""

    def __init__(self, form, images, size, plant=None):
        self.source, self.size, self.plant = form == "source", size, plant
        self.mean = sum(p.double().sum(0) for p in images.split(64)) / len(images)
        self.values, self.vectors = colours(images)

    def __call__(self, image, y, x, flip, noise):
        s = self.size
        crop = image[:, y:y + s, x:x + s].double()
        if not self.source:  # the mean of each pixel, then the rest (sections 2 and 4.1)
            crop = crop - self.mean[:, y:y + s, x:x + s]
        if flip and self.plant != "flip":
            crop = crop.flip(2)
        if self.source:  # the mean's centre, whatever was cropped
            b = (self.mean.shape[1] - s) // 2
            crop = crop - self.mean[:, b:b + s, b:b + s]
        # The text multiplies by eigenvalues, of pixels in 0..1; the source by standard deviations, of 0..255.
        size = self.values.sqrt() if self.source else self.values / 255
        alpha = torch.tensor(noise, dtype=torch.float64)
        if self.plant == "noise":
            alpha = alpha.flip(0)
        crop = crop + (0.1 * alpha * size @ self.vectors)[:, None, None]
        return crop / 1.1 if self.source else crop


def ten_views(image, size):
    """Corners and centre, and their mirror images (section 4.1)."""
    far = image.shape[1] - size
    for y, x in ((0, 0), (0, far), (far // 2, far // 2), (far, 0), (far, far)):
        crop = image[:, y:y + size, x:x + size]
        yield crop
        yield crop.flip(2)
