"""What the plugin of Frigate's `zmq` detector does, written anew, and small detectors to answer it.

The plugin has one REQ socket. It asks for its model when it starts and brings it when it is not there; then it sends
frames and waits 200 ms for each. A frame without an answer makes it close the socket and begin anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import zmq
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
SIDE = 64


class Plugin:
    """As Frigate starts it; `ready` is whether it would send frames. `detect` gives None where Frigate takes zeros."""

    def __init__(
        self,
        endpoint: str,
        model: Path,
        *,
        timeout_ms: int = 200,
        asking_ms: int = 30_000,
        curve: tuple[bytes, bytes, bytes] | None = None,
    ) -> None:
        self.ready = False
        self.said: list[dict[str, Any]] = []
        self._context = zmq.Context()
        self._endpoint, self._model, self._timeout_ms, self._curve = endpoint, model, timeout_ms, curve
        self._asking_ms = asking_ms
        self._socket: zmq.Socket[bytes] | None = None
        self._connect()
        self._initialize()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._context.term()

    def detect(self, tensor: Array) -> Array | None:
        assert self._socket is not None
        if not self.ready:
            return None
        header = {"shape": list(tensor.shape), "dtype": str(tensor.dtype.name), "model_type": "yologeneric"}
        try:
            self._socket.send_multipart([json.dumps(header).encode(), memoryview(tensor.tobytes(order="C"))])
            frames = self._socket.recv_multipart()
        except zmq.ZMQError:  # also zmq.Again, the timeout
            self._connect()
            self._initialize()
            return None
        told = json.loads(frames[0].decode())
        return np.frombuffer(frames[1], dtype=np.dtype(told["dtype"])).reshape(tuple(told["shape"]))

    def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, self._timeout_ms)
        self._socket.setsockopt(zmq.SNDTIMEO, self._timeout_ms)
        self._socket.setsockopt(zmq.LINGER, 0)
        if self._curve is not None:
            server, public, secret = self._curve
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, server)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self._socket.connect(self._endpoint)

    def _initialize(self) -> None:
        """Once ready it stays ready, whatever it is told later."""
        name = os.path.basename(self._model)
        told = self._ask([json.dumps({"model_request": True, "model_name": name}).encode()])
        if told is None:
            return
        if told.get("model_available") and told.get("model_loaded"):
            self.ready = True
        elif not told.get("model_available") and self._model.exists():
            header = json.dumps({"model_data": True, "model_name": name}).encode()
            told = self._ask([header, self._model.read_bytes()])
            if told is not None and told.get("model_saved") and told.get("model_loaded"):
                self.ready = True

    def _ask(self, parts: list[bytes]) -> dict[str, Any] | None:
        assert self._socket is not None
        try:
            self._socket.send_multipart(parts)
            self._socket.setsockopt(zmq.RCVTIMEO, self._asking_ms)
            try:
                frames = self._socket.recv_multipart()
            finally:
                self._socket.setsockopt(zmq.RCVTIMEO, self._timeout_ms)
        except zmq.ZMQError:
            return None
        told: dict[str, Any] = json.loads(frames[0].decode())
        self.said.append(told)
        return told


def yolo(path: Path, side: int = SIDE) -> Path:
    """float32 [1, 3, side, side] to [1, 6, 8]: three boxes, and the mean of each colour is the score of one.

    Red is the left half, green the top half, blue the whole; of two classes the second scores a tenth of the first.
    """
    half, anchors = side / 2, 8
    boxes = np.zeros((1, 4, anchors), np.float32)
    boxes[0, :, :3] = [[side / 4, half, half], [half, side / 4, half], [half, side, side], [side, half, side]]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "which"], ["scores"]),
        helper.make_node("Unsqueeze", ["scores", "one"], ["first"]),
        helper.make_node("Mul", ["first", "tenth"], ["second"]),
        helper.make_node("Concat", ["boxes", "first", "second"], ["output0"], axis=1),
    ]
    given = [
        numpy_helper.from_array(boxes, "boxes"),
        numpy_helper.from_array(np.eye(3, anchors, dtype=np.float32), "which"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array(0.1, np.float32), "tenth"),
    ]
    x = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])
    y = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, anchors])
    return _saved(path, nodes, x, y, given)


def ready(path: Path, side: int = SIDE) -> Path:
    """uint8 [1, side, side, 3] to [20, 6]: the first row is class 7, scored by the mean of the picture."""
    table = np.zeros((20, 6), np.float32)
    table[0] = [0, 1 / 255, 0, 0, 0, 0]
    fixed = np.zeros((20, 6), np.float32)
    fixed[0] = [7, 0, 0.25, 0.125, 0.75, 0.5]
    nodes = [
        helper.make_node("Cast", ["picture"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["table", "mean"], ["scores"]),
        helper.make_node("Add", ["scores", "fixed"], ["found"]),
    ]
    given = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(fixed, "fixed")]
    x = helper.make_tensor_value_info("picture", TensorProto.UINT8, [1, side, side, 3])
    y = helper.make_tensor_value_info("found", TensorProto.FLOAT, [20, 6])
    return _saved(path, nodes, x, y, given)


def _saved(path: Path, nodes: list[Any], x: Any, y: Any, given: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "detector", [x], [y], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def coloured(red: float, green: float, blue: float, side: int = SIDE) -> Array:
    """A frame for `yolo`."""
    frame = np.empty((1, 3, side, side), np.float32)
    frame[0] = np.array([red, green, blue], np.float32)[:, None, None]
    return frame
