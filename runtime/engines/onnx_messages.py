"""The parts of ONNX's protobuf messages that a change of a model needs; all other fields are kept unchanged.

Field numbers are those of onnx.proto (ONNX 1.16, IR version 10). The package onnx has all messages, but belongs to the
toolchain; protobuf comes with ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {"int": _Field.TYPE_INT64, "text": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES}
_PACKAGE = "ovround.onnx"
_MESSAGES = {
    "Model": "7 graph Graph, 8 *opset_import OperatorSet",
    "Graph": "1 *node Node, 5 *initializer Tensor",
    "Node": "1 *input text, 2 *output text, 3 name text, 4 op_type text, 5 *attribute Attribute, 7 domain text",
    "Attribute": "1 name text, 3 i int, 4 s bytes, 20 type int",
    "Tensor": "1 *dims int, 2 data_type int, 8 name text, 13 *external_data Entry, 14 data_location int",
    "Entry": "1 key text, 2 value text",
    "OperatorSet": "1 domain text, 2 version int",
}
INT, STRING, UINT8, FLOAT, FLOAT16, EXTERNAL = (
    2,
    3,
    2,
    1,
    10,
    1,
)  # AttributeProto.Type, TensorProto.DataType and DataLocation


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="ovround_onnx.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            number, label, kind = field.split()
            added = message.field.add(name=label.lstrip("*"), number=int(number))
            added.label = _Field.LABEL_REPEATED if label.startswith("*") else _Field.LABEL_OPTIONAL
            added.type = _TYPES.get(kind, _Field.TYPE_MESSAGE)
            if kind not in _TYPES:
                added.type_name = f".{_PACKAGE}.{kind}"
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())
Model, Node, Tensor = (
    message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    for name in ("Model", "Node", "Tensor")
)
