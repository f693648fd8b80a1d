"""Cutting one ONNX graph at tensor boundaries into parts that are ordinary models. A tool: the agent never uses it.

It needs the `onnx` package (`pip install "meshnode[split]"`), which nothing else of meshnode imports.
"""
