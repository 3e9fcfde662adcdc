# SPDX-License-Identifier: Apache-2.0
"""Writes teager.onnx: the mean Teager-Kaiser energy of each channel of a window of EMG."""
import pathlib

import onnx
from onnx import TensorProto, helper

graph = helper.make_graph(
    [
        helper.make_node("TeagerKaiser", ["emg"], ["tk"], domain="emg", boundary="copy"),
        helper.make_node("ReduceMean", ["tk"], ["energy"], axes=[1], keepdims=0),
    ],
    "teager",
    [helper.make_tensor_value_info("emg", TensorProto.FLOAT, [1, 200, 4])],
    [helper.make_tensor_value_info("energy", TensorProto.FLOAT, [1, 4])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("emg", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="model.py")
onnx.save(model, pathlib.Path(__file__).with_name("teager.onnx"))
