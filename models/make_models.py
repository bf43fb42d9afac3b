"""Train the digit classifiers of this folder and write them with their samples and `models.toml`.

    pip install '.[train]'
    python models/make_models.py                    # all of them, five minutes on two cores
    python models/make_models.py digits_resnet      # one

The data is the copy of the UCI "Optical Recognition of Handwritten Digits" set inside the scikit-learn wheel:
1797 images of 8x8 pixels.  Nothing is downloaded.  Seeds are fixed; the bytes may still differ between CPUs
and torch versions, hence the committed files and their checksums.
"""

import argparse
import hashlib
import tomllib
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from networks import NETWORKS
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).resolve().parent
SEED = 0
CALIBRATION_SAMPLES = 64
EVALUATION_SAMPLES = 500
OPSET = 17
INPUT, OUTPUT = "image", "logits"

Split = tuple[np.ndarray, np.ndarray]


def splits() -> dict[str, Split]:
    """Return disjoint `train`, `calib` and `eval` sets: images (N, 8, 8) in [0, 1] and labels (N,)."""
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(x))
    calib, evaluate, train = np.split(order, [CALIBRATION_SAMPLES, CALIBRATION_SAMPLES + EVALUATION_SAMPLES])
    return {name: (x[i], y[i]) for name, i in (("train", train), ("calib", calib), ("eval", evaluate))}


def as_input(x: np.ndarray) -> np.ndarray:
    """Repeat every pixel twice along both axes: (N, 8, 8) -> (N, 1, 16, 16)."""
    return np.ascontiguousarray(x.repeat(2, axis=1).repeat(2, axis=2)[:, None])


def augment(x: Tensor, rng: torch.Generator) -> Tensor:
    """Rotate, scale, shear and shift each image (N, 1, 8, 8) a little."""
    n = len(x)
    angle = (torch.rand(n, generator=rng) - 0.5) * 0.5
    zoom = 1.0 + (torch.rand(n, generator=rng) - 0.5) * 0.3
    shear = (torch.rand(n, generator=rng) - 0.5) * 0.4
    shift = (torch.rand(n, 2, generator=rng) - 0.5) * 0.5
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [torch.stack([cos, shear - sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def train(net: nn.Module, data: Split, epochs: int, learning_rate: float) -> None:
    """Train in place with AdamW, one cosine cycle after a short warm-up, and label smoothing."""
    rng = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(data[0])[:, None], torch.from_numpy(data[1])
    batch = 64
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=rng)
        for rows in order[: len(x) // batch * batch].split(batch):
            images = functional.interpolate(augment(x[rows], rng), scale_factor=2, mode="nearest")
            loss = functional.cross_entropy(net(images), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()


def export(net: nn.Module, path: Path) -> None:
    """Write an inference graph with a symbolic batch axis and batch normalisation left as nodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its successor
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, 16, 16),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold batch normalisation into Conv
        )
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def correct(path: Path, data: Split) -> int:
    """Count the images that ONNX Runtime classifies rightly."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run([OUTPUT], {INPUT: as_input(data[0])})[0]
    return int((logits.argmax(axis=1) == data[1]).sum())


def make(name: str, data: dict[str, Split], epochs: int, learning_rate: float) -> dict[str, object]:
    """Train, export and measure one network; return its record for `models.toml`."""
    torch.manual_seed(SEED)
    net = NETWORKS[name]()
    train(net, data["train"], epochs, learning_rate)
    files = {"model": f"{name}.onnx", "calibration": f"{name}.calib.npz", "evaluation": f"{name}.eval.npz"}
    export(net, FOLDER / files["model"])
    np.savez_compressed(FOLDER / files["calibration"], **{INPUT: as_input(data["calib"][0])})
    np.savez_compressed(
        FOLDER / files["evaluation"], **{INPUT: as_input(data["eval"][0]), "y": data["eval"][1]}
    )
    right = correct(FOLDER / files["model"], data["eval"])
    record: dict[str, object] = dict(files)
    record |= {f"{k}_sha256": hashlib.sha256((FOLDER / f).read_bytes()).hexdigest() for k, f in files.items()}
    record |= {
        "weights": sum(p.numel() for p in net.parameters()),
        "evaluation_samples": len(data["eval"][1]),
        "evaluation_correct": right,
        "float_accuracy": right / len(data["eval"][1]),
    }
    print(f"{name}: {right} of {len(data['eval'][1])} right")
    return record


def write_records(records: dict[str, dict[str, object]]) -> None:
    """Merge the records into `models.toml`."""
    path = FOLDER / "models.toml"
    known = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    lines = ["# Written by make_models.py; read by tests/test_models.py."]
    for name, record in sorted((known | records).items()):
        lines += ["", f"[{name}]"]
        lines += [f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in record.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Make the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NETWORKS)}; all if none")
    names: list[str] = parser.parse_args().names or list(NETWORKS)
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    schedule = {
        "digits_resnet": (60, 4e-3),
        "digits_mobilenet": (80, 4e-3),
        "digits_preactivation": (60, 4e-3),
        "digits_densenet": (60, 4e-3),
        "digits_transformer": (200, 2e-3),
    }
    data = splits()
    write_records({name: make(name, data, *schedule[name]) for name in names})


if __name__ == "__main__":
    main()
