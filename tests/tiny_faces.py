"""Small ONNX files with the signatures of antelopev2's detector and recogniser, which need no download.

The "face" they know is a red square of 32 px of the detector's input, on a cell of its stride 32, on anything gray. How
far its box reaches to the right and down depends on its green and blue, so that a test can order boxes of any shape.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from instantid_serve.models.alignment import TEMPLATE

STRIDES = (8, 16, 32)
LANDMARKS = TEMPLATE / 112  # of the square, in strides
GAIN = 10.0  # of the recogniser: its outputs are far from norm 1


def detector() -> onnx.ModelProto:
    """Outputs scores, boxes and landmarks for strides 8, 16, 32, as `scrfd_10g_bnkps.onnx` does."""
    nodes, constants = [], {}
    constants["redness"] = np.array([1, -0.5, -0.5], np.float32).reshape(1, 3, 1, 1)
    nodes.append(helper.make_node("Conv", ["input", "redness"], ["red"]))
    for stride in STRIDES:
        nodes += _scores(stride, constants)
    for stride in STRIDES:
        nodes += _boxes(stride, constants)
    for stride in STRIDES:
        nodes += _landmarks(stride, constants)
    names = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in STRIDES]
    return _model(nodes, constants, [1, 3, "height", "width"], {name: ["n", "k"] for name in names})


def recogniser() -> onnx.ModelProto:
    """Output the mean red, green and blue of its input, 171 times: `glintr100.onnx`'s 512 numbers."""
    spread = np.zeros((3, 512), np.float32)
    spread[np.arange(512) % 3, np.arange(512)] = GAIN
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "spread"], ["embedding"]),
    ]
    return _model(nodes, {"spread": spread}, ["n", 3, 112, 112], {"embedding": ["n", 512]}, source="data")


def save(folder: Path) -> Path:
    """Write both under the names that antelopev2 gives them."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(detector(), folder / "scrfd_10g_bnkps.onnx")
    onnx.save(recogniser(), folder / "glintr100.onnx")
    return folder


def _scores(stride: int, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """How much redder a cell is than the cells around it; only stride 32 answers."""
    s = str(stride)
    constants[f"gain{s}"] = np.array(0.5 if stride == 32 else 0.0, np.float32)
    constants["bias"] = np.array(-0.1, np.float32)
    wide = {"kernel_shape": [3 * stride] * 2, "strides": [stride] * 2, "pads": [stride] * 4, "count_include_pad": 1}
    return [
        helper.make_node("AveragePool", ["red"], ["cell" + s], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("AveragePool", ["red"], ["around" + s], **wide),
        helper.make_node("Sub", ["cell" + s, "around" + s], ["apart" + s]),
        helper.make_node("Mul", ["apart" + s, "gain" + s], ["scaled" + s]),
        helper.make_node("Add", ["scaled" + s, "bias"], ["biased" + s]),
        *_per_anchor("biased" + s, "score" + s, 1, constants),
    ]


def _boxes(stride: int, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Reach half a cell left and up, and 1.5 to 3.5 cells right (by green) and down (by blue)."""
    s = str(stride)
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[2, 1], weights[3, 2] = 1, 1
    constants["reach"], constants["least"] = weights, np.array([0.5, 0.5, 2.5, 2.5], np.float32)
    return [
        helper.make_node("AveragePool", ["input"], ["mean" + s], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Conv", ["mean" + s, "reach", "least"], ["reached" + s]),
        *_per_anchor("reached" + s, "box" + s, 4, constants),
    ]


def _landmarks(stride: int, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    s = str(stride)
    constants["nothing"], constants["places"] = np.zeros((10, 3, 1, 1), np.float32), LANDMARKS.reshape(-1)
    return [
        helper.make_node("Conv", ["mean" + s, "nothing", "places"], ["placed" + s]),
        *_per_anchor("placed" + s, "points" + s, 10, constants),
    ]


def _per_anchor(source: str, name: str, length: int, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Lay (1, length, h, w) out as two equal anchors per cell: (h * w * 2, length)."""
    constants[f"rows{length}"] = np.array([-1, length], np.int64)
    return [
        helper.make_node("Concat", [source, source], [name + "_twice"], axis=1),
        helper.make_node("Transpose", [name + "_twice"], [name + "_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [name + "_last", f"rows{length}"], [name]),
    ]


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: list[int | str],
    outputs: dict[str, list[int | str]],
    source: str = "input",
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
