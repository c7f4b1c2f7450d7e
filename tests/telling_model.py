"""Model files that tell what can be seen, or do not, for tests of what is behind them."""

from __future__ import annotations

import json
from typing import Any

from octamark import models


def silent_model(name: str = "pico") -> bytes:
    """A released model without its output ``visible``, if it has one."""
    import onnx

    model: Any = onnx.load_from_string(models.read(name))
    graph = model.graph
    for output in [output for output in graph.output if output.name == "visible"]:
        graph.output.remove(output)
    for node in graph.node:
        node.output[:] = ["not_told" if output == "visible" else output for output in node.output]
    for entry in model.metadata_props:
        if entry.key == models.METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | {"visibility": None})
    content: bytes = model.SerializeToString()
    return content


def telling_model(name: str = "pico", *, inverted: bool = False) -> bytes:
    """A released model with a further output ``visible``: its confidence, or one minus that."""
    import onnx

    model: Any = onnx.load_from_string(silent_model(name))
    helper, graph = onnx.helper, model.graph
    node = helper.make_node("Identity", ["confidence"], ["visible"])
    if inverted:
        graph.initializer.append(helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0]))
        node = helper.make_node("Sub", ["one", "confidence"], ["visible"])
    graph.node.append(node)
    shape = graph.output[2].type.tensor_type.shape
    sides = [side.dim_param or side.dim_value for side in shape.dim]
    graph.output.append(helper.make_tensor_value_info("visible", onnx.TensorProto.FLOAT, sides))
    for entry in model.metadata_props:
        if entry.key == models.METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | {"visibility": [1.0, 0.0]})
    content: bytes = model.SerializeToString()
    return content
