"""The JSON that `--json` prints: the messages of edged.v1 under the names of their fields.

Keys are the field names of `proto/edged/v1`, always all of them; enum values are their short names
in lower case ("ready", "batch"); what is absent is null; counts are numbers, never text. So the
comments of the proto files are the reference of this JSON too.
"""

import base64
import re
from typing import cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from edged.cli.output import Json

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def as_json(message: Message) -> dict[str, Json]:
    """Every field of a message by name, in the order of the proto file."""
    return {field.name: _field(message, field.name) for field in message.DESCRIPTOR.fields}


def event_as_json(message: Message, oneof: str) -> dict[str, Json] | None:
    """The event that is set, its name under `oneof`; None for one that this build does not know."""
    name = message.WhichOneof(oneof)
    return None if name is None else {oneof: name, **as_json(getattr(message, name))}


def enum_name(descriptor: EnumDescriptor, number: int) -> str:
    """The short name of an enum value: TIER_BATCH is "batch". A number this build does not know
    is told as it is."""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = _WORD_START.sub("_", descriptor.name).upper() + "_"
    return value.name.removeprefix(prefix).lower()


def _field(message: Message, name: str) -> Json:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    # The types know two classes of descriptor, of which a build of protobuf has one.
    enum = cast(EnumDescriptor | None, field.enum_type)
    if field.is_repeated:
        return [_value(item, enum) for item in value]
    if field.has_presence and not message.HasField(name):
        return None
    return _value(value, enum)


def _value(value: object, enum: EnumDescriptor | None) -> Json:
    if isinstance(value, Message):
        return as_json(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if enum is not None:
        return enum_name(enum, cast(int, value))
    return cast(Json, value)
