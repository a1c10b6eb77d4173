"""Schemas as people write them, whose keywords stand together."""

from typing import Any

WORD = {"type": "string", "maxLength": 8}
DAY = {"type": "string", "format": "date"}
SHAPES: tuple[dict[str, Any], ...] = (
    {
        "title": "person",
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "email": {"type": ["string", "null"], "format": "email"},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "title": "order",
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^A-[0-9]{4}$"},
            "lines": {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string", "format": "uuid"},
                        "count": {"type": "integer", "minimum": 1, "maximum": 12},
                        "price": {"type": "number", "multipleOf": 0.01, "minimum": 0},
                    },
                    "required": ["sku", "count"],
                    "additionalProperties": False,
                },
            },
            "paid": {"type": "boolean"},
        },
        "required": ["id", "lines", "paid"],
        "additionalProperties": False,
    },
    {
        "title": "weather tool",
        "type": "object",
        "properties": {
            "location": WORD,
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "exclusiveMinimum": 0, "maximum": 14},
        },
        "required": ["location"],
        "additionalProperties": False,
    },
    {
        "title": "arithmetic",
        "$ref": "#/$defs/term",
        "$defs": {
            "term": {
                "anyOf": [
                    {"type": "integer", "minimum": 0, "maximum": 9},
                    {"$ref": "#/$defs/sum"},
                ]
            },
            "sum": {
                "type": "object",
                "properties": {
                    "op": {"enum": ["+", "-", "*"]},
                    "left": {"$ref": "#/$defs/term"},
                    "right": {"$ref": "#/$defs/term"},
                },
                "required": ["op", "left", "right"],
                "additionalProperties": False,
            },
        },
    },
    {
        "title": "event log",
        "type": "array",
        "maxItems": 3,
        "items": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"type": {"const": kind}, "at": at},
                    "required": ["type", "at"],
                    "additionalProperties": False,
                }
                for kind, at in (
                    ("start", {"type": "string", "format": "date-time"}),
                    ("stop", {"type": "string", "format": "time"}),
                    ("host", {"type": "string", "format": "ipv4"}),
                )
            ]
        },
    },
    {
        "title": "settings",
        "type": "object",
        "properties": {"version": {"const": 2}},
        "patternProperties": {
            "^is_[a-c]$": {"type": "boolean"},
            "^num_[a-c]$": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["version"],
        "additionalProperties": False,
        "maxProperties": 4,
    },
    {
        "title": "grid",
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": {
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "items": {"enum": ["x", "o", " "]},
        },
    },
    {
        "title": "optional everything",
        "type": "object",
        "properties": {
            "from": DAY,
            "to": DAY,
            "tags": {"type": "array", "items": WORD, "maxItems": 2},
            "place": {
                "type": "object",
                "properties": {
                    "lat": {"type": "number", "minimum": -90, "maximum": 90},
                    "lon": {"type": "number", "minimum": -180, "maximum": 180},
                },
                "required": ["lat", "lon"],
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
    {
        "title": "of several languages",
        "type": "object",
        "properties": {
            "gäöße": {"type": "number", "exclusiveMinimum": 0, "maximum": 3},
            "日": {"enum": ["日本", "ä", "€"]},
            "😀": {"type": "string", "pattern": "^[ä€日]{1,3}$"},
        },
        "required": ["gäöße", "日", "😀"],
        "additionalProperties": False,
    },
)
