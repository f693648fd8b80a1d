"""The models in the repository are what their cards say: shapes, sizes, bytes, accuracy."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail  # type: ignore[import-untyped,unused-ignore]
from PIL import Image

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ("digits", "echo", "slow")
MODEL_BYTES_MAX = 1_000_000
SHAPES = {
    "digits": (
        [("image", "tensor(float)", ["batch", 1, 8, 8])],
        [("probabilities", "tensor(float)", ["batch", 10])],
    ),
    "echo": ([("x", "tensor(float)", ["batch", "n"])], [("y", "tensor(float)", ["batch", "n"])]),
    "slow": (
        [("x", "tensor(float)", ["batch", 64]), ("rounds", "tensor(int64)", [])],
        [("y", "tensor(float)", ["batch", 64])],
    ),
}


def session(name: str) -> ort.InferenceSession:
    return ort.InferenceSession(MODELS / name / "model.onnx", providers=["CPUExecutionProvider"])


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"build_{name}", MODELS / name / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def held_out() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    with np.load(MODELS / "digits" / "samples.npz", allow_pickle=False) as samples:
        return samples["image"], samples["labels"]


def through_a_picture(picture: Image.Image, size: int, low: float, high: float) -> npt.NDArray[np.float32]:
    """The rule of models/README.md, for greyscale: [1, 1, size, size]."""
    small = picture.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return low + np.asarray(small, np.float32)[None, None] * np.float32((high - low) / 255)


def image_range() -> tuple[float, float]:
    low, high = session("digits").get_modelmeta().custom_metadata_map["meshnode.image.range"].split(",")
    return float(low), float(high)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_takes_and_gives_what_its_card_says(name: str) -> None:
    """Names, types and shapes of a model's inputs and outputs are those documented."""
    model = session(name)
    inputs = [(v.name, v.type, v.shape) for v in model.get_inputs()]
    outputs = [(v.name, v.type, v.shape) for v in model.get_outputs()]
    assert SHAPES[name] == (inputs, outputs)
    card = (MODELS / name / "CARD.md").read_text()
    assert all(f"`{variable}`" in card for variable, _, _ in [*inputs, *outputs])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_runs_on_older_runtimes(name: str) -> None:
    """A committed model is under 1 MB, as large as its card says, and readable by older runtimes."""
    path = MODELS / name / "model.onnx"
    size = path.stat().st_size
    assert size < MODEL_BYTES_MAX
    assert f"{size:,} bytes" in (MODELS / name / "CARD.md").read_text()
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [("", 17)] == [(opset.domain, opset.version) for opset in model.opset_import]
    assert model.producer_name == "meshnode"


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_its_row_in_the_table(name: str) -> None:
    """models/README.md links the card of every model there is."""
    assert sorted(NAMES) == sorted(p.parent.name for p in MODELS.glob("*/model.onnx"))
    assert f"| [{name}]({name}/CARD.md) |" in (MODELS / "README.md").read_text()


@pytest.mark.parametrize("name", ["echo", "slow"])
def test_a_recipe_gives_the_committed_bytes(name: str) -> None:
    """Building a model that needs no training gives the committed file, byte for byte."""
    assert (MODELS / name / "model.onnx").read_bytes() == recipe(name).build()


def test_digits_are_recognised_as_often_as_the_card_says() -> None:
    """The accuracy on the held-out samples is the figure of the card, and at least 98 %."""
    images, labels = held_out()
    (probabilities,) = session("digits").run(None, {"image": images})
    right = int((probabilities.argmax(axis=1) == labels).sum())
    assert right >= 0.98 * len(labels)
    assert (
        f"**{right} of {len(labels)} ({100 * right / len(labels):.2f} %)**"
        in (MODELS / "digits" / "CARD.md").read_text()
    )


def test_digits_are_the_same_alone_and_in_a_batch() -> None:
    """A sample gets the same digit alone as in a batch, and probabilities that sum to one."""
    images, _ = held_out()
    model = session("digits")
    (together,) = model.run(None, {"image": images})
    alone = np.concatenate([model.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(np.ones(len(images)), together.sum(axis=1), atol=1e-5)


def test_the_samples_hold_plain_raw_pixels() -> None:
    """At least 500 samples with all ten digits, values 0..16, and nothing pickled."""
    images, labels = held_out()
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert len(labels) >= 500
    assert images.shape == (len(labels), 1, 8, 8)
    assert list(range(10)) == sorted(set(labels.tolist()))
    assert (images == np.clip(np.rint(images), 0, 16)).all()


def test_digits_says_how_a_picture_becomes_its_input() -> None:
    """The metadata of the model hold the documented keys for `meshnode run digits 7.png`."""
    expected = {"meshnode.image.range": "0,16", "meshnode.image.layout": "NCHW"}
    assert expected == session("digits").get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("digit", range(10))
def test_a_picture_of_a_digit_is_recognised(digit: int) -> None:
    """Each committed picture is classified right after the documented conversion."""
    with Image.open(MODELS / "digits" / f"{digit}.png") as picture:
        assert (picture.size, picture.mode) == ((64, 64), "L")
        image = through_a_picture(picture, 8, *image_range())
    (probabilities,) = session("digits").run(None, {"image": image})
    assert digit == int(probabilities.argmax())


def test_most_samples_survive_a_picture() -> None:
    """As many samples as the card says are still right after they were drawn as 64x64 pictures and read back."""
    build, (images, labels) = recipe("digits"), held_out()
    read_back = [through_a_picture(build.as_picture(image[0]), 8, *image_range()) for image in images]
    (probabilities,) = session("digits").run(None, {"image": np.concatenate(read_back)})
    right = int((probabilities.argmax(axis=1) == labels).sum())
    assert (
        f"{right} of {len(labels)} ({100 * right / len(labels):.2f} %) when"
        in (MODELS / "digits" / "CARD.md").read_text()
    )


def test_the_credit_is_given() -> None:
    """The digits card names the authors, the source and the licence of the data."""
    card = (MODELS / "digits" / "CARD.md").read_text()
    assert re.search(r"E\. Alpaydin, C\. Kaynak.+Optical Recognition of Handwritten Digits", card)
    assert "https://doi.org/10.24432/C50P49" in card
    assert "CC BY 4.0" in card


def test_digits_can_be_trained_again() -> None:
    """Where scikit-learn and torch are installed, the recipe gives the committed samples and a model that agrees."""
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    build, (images, labels) = recipe("digits"), held_out()
    part, fresh = build.load()
    np.testing.assert_array_equal(images[:, 0], fresh.images)
    np.testing.assert_array_equal(labels, fresh.labels)
    rebuilt = ort.InferenceSession(build.to_onnx(build.train(part)), providers=["CPUExecutionProvider"])
    was = session("digits").run(None, {"image": images})[0].argmax(axis=1)
    now = rebuilt.run(None, {"image": images})[0].argmax(axis=1)
    assert (was == now).mean() >= 0.98
    assert (now == labels).mean() >= 0.98


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (0, 4), (2, 0)])
def test_echo_gives_back_every_bit(shape: tuple[int, int]) -> None:
    """Echo returns its input bit for bit, empty inputs, NaN, infinities and -0.0 included."""
    odd = np.array([np.nan, -0.0, np.inf, 1e-45, -1.5], np.float32)
    x = np.resize(odd, shape)
    (y,) = session("echo").run(None, {"x": x})
    assert (x.shape, x.tobytes()) == (y.shape, y.tobytes())


@pytest.mark.parametrize("rounds", [0, 1, 7, 2000])
def test_slow_computes_its_formula(rounds: int) -> None:
    """Slow runs as many rounds of tanh(h @ W + x) as it is told, and its values stay within -1..1."""
    x = np.random.default_rng(1).normal(0, 3, (5, 64)).astype(np.float32)
    (y,) = session("slow").run(None, {"x": x, "rounds": np.array(rounds, np.int64)})
    matrix = recipe("slow").weight().astype(np.float64)
    expected = np.zeros(x.shape)
    for _ in range(rounds):
        expected = np.tanh(expected @ matrix + x)
    np.testing.assert_allclose(expected, y, atol=1e-4)
    assert (np.abs(y) <= 1 + 1e-6).all()  # the tanh of ONNX Runtime overshoots by a rounding step


def test_slow_does_not_amplify_rounding() -> None:
    """The weight of slow is 63/64 times an orthogonal matrix, so differences between machines shrink."""
    matrix = recipe("slow").weight().astype(np.float64)
    np.testing.assert_array_equal((63 / 64) ** 2 * np.eye(64), matrix @ matrix.T)


def test_slow_can_be_stopped() -> None:
    """A run that was told to terminate ends with an error and not after its rounds."""
    options = ort.RunOptions()
    options.terminate = True
    feed = {"x": np.ones((1, 64), np.float32), "rounds": np.array(10**12, np.int64)}
    with pytest.raises(Fail, match="terminate"):
        session("slow").run(None, feed, options)
