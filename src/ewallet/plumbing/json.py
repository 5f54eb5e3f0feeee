"""JSON as bytes: one encoder for the whole process."""

import msgspec

encode = msgspec.json.Encoder().encode
