"""How long do the models take on this machine's CPU? ONNX Runtime alone, one thread, no mesh in between.

    python models/measure.py             # all models; the figures in the cards come from here

Each figure is the median over many runs after a warm-up. Needs numpy and onnxruntime.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

HERE = Path(__file__).resolve().parent
ROUNDS = 1000


def session(name: str) -> ort.InferenceSession:
    """A session on one CPU thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(HERE / name / "model.onnx", options, providers=["CPUExecutionProvider"])


def median_s(model: ort.InferenceSession, feed: Mapping[str, Any], runs: int) -> float:
    """The median time of one run."""
    times = []
    for _ in range(runs + runs // 10 + 1):
        start = time.perf_counter()
        model.run(None, dict(feed))
        times.append(time.perf_counter() - start)
    return statistics.median(times[runs // 10 + 1 :])


def main() -> None:
    """Prints the figures of every model."""
    digits, echo, slow = session("digits"), session("echo"), session("slow")
    image = np.load(HERE / "digits" / "samples.npz", allow_pickle=False)["image"]
    for batch in (1, 32):
        print(f"digits, batch {batch}: {1e3 * median_s(digits, {'image': image[:batch]}, 2000):.3f} ms")
    for n in (16, 262_144):
        x = np.ones((1, n), np.float32)
        print(f"echo, [1, {n}] ({x.nbytes} bytes): {1e3 * median_s(echo, {'x': x}, 2000):.4f} ms")
    for batch in (1, 16):
        x = np.linspace(-1, 1, batch * 64, dtype=np.float32).reshape(batch, 64)
        none, many = (median_s(slow, {"x": x, "rounds": np.array(rounds)}, 200) for rounds in (0, ROUNDS))
        print(f"slow, batch {batch}: {1e6 * (many - none) / ROUNDS:.2f} us a round, {1e6 * none:.0f} us for none")


if __name__ == "__main__":
    main()
