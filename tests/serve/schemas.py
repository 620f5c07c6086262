"""JSON schemas whose every text is short, so that an answer of a few hundred tokens is complete."""

SCHEMAS = (
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "pets": {"type": "array", "items": {"enum": ["cat", "dog", "eel"]}, "maxItems": 3},
        },
        "required": ["name", "age", "pets"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "kind": {"const": "point"},
            "at": {"$ref": "#/$defs/pair"},
            "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 5}]},
        },
        "required": ["kind", "at", "note"],
        "additionalProperties": False,
        "$defs": {
            "pair": {
                "type": "object",
                "properties": {"x": {"type": "boolean"}, "y": {"type": "boolean"}},
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        },
    },
    {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]{2}$"}, "minItems": 1, "maxItems": 3},
)
