"""JSON schemas as grammars: a text that such a grammar matches is JSON and conforms to the schema.

llama-cpp-python has a converter of its own, but its grammars let strings hold newlines and numbers be infinite, read
quotes and backslashes of an enum as GBNF, take two definitions that end in one name for the same, drop properties
beside `"type": ["object", "null"]`, and ignore what it does not know. Here what cannot be promised is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from edgesteer.errors import EngineError
from edgesteer.runtime.gbnf import MAX_REPEATS
from edgesteer.runtime.grammar import check_grammar

_JSON_RULES = r"""
value ::= object | array | string | number | boolean | null
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" char* "\"" ws
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" code)
code ::= ([0-9a-ceA-CEfF] hex | [dD] [0-7]) hex hex | [dD] [89abAB] hex hex "\\u" [dD] [c-fC-F] hex hex
hex ::= [0-9a-fA-F]
number ::= integral ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})? ws
integer ::= integral ws
integral ::= "-"? ("0" | [1-9] [0-9]{0,14})
boolean ::= ("true" | "false") ws
null ::= "null" ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
JSON_OBJECT = f"root ::= object{_JSON_RULES}"
"""The grammar of any JSON object."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_REMARKS = {
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly", "discriminator", "format",
}  # fmt: skip
_TYPE_OF = {
    "properties": "object", "required": "object", "additionalProperties": "object",
    "items": "array", "minItems": "array", "maxItems": "array", "minLength": "string", "maxLength": "string",
}  # fmt: skip
"""The only type that a keyword says something about."""
_ALONE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
"""Keywords that say everything about a value by themselves."""


def json_schema_grammar(schema: dict[str, Any]) -> str:
    """Return the grammar (GBNF) of JSON texts that conform to a schema.

    Supported: type (one or a list), properties, required, additionalProperties, items, minItems, maxItems, minLength,
    maxLength, const, enum, anyOf, oneOf, allOf of one schema, and $ref into the schema itself, which may be recursive.
    format is a remark, as in the standard. Properties come in the schema's order, and none but those that it lists.
    Raises EngineError, with the place in the schema, for everything else. Never opens a URL.
    """
    try:
        grammar = _Converter(schema).grammar()
    except RecursionError as error:
        raise EngineError("JSON schema is nested too deeply") from error
    check_grammar(grammar)
    return grammar


class _Converter:
    """Each schema becomes a rule, and equal ones the same, so that the grammar is about as long as the schema."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """The rule that stands for a text of GBNF."""
        self._definitions: dict[str, str] = {}
        """The rule that stands for a $ref."""

    def grammar(self) -> str:
        root = self._value(self._schema, "#")
        rules = "".join(f"{name} ::= {text}\n" for name, text in self._rules.items())
        return f"root ::= {root}\n{rules}{_JSON_RULES}"

    def _rule(self, text: str) -> str:
        """Return the name of a rule for this text."""
        name = self._names.setdefault(text, f"schema-{len(self._names)}")
        self._rules[name] = text
        return name

    def _any_of(self, names: Sequence[str]) -> str:
        names = list(dict.fromkeys(names))
        return names[0] if len(names) == 1 else self._rule(" | ".join(names))

    def _value(self, schema: Any, where: str) -> str:
        """Return the rule of a schema; where: its place, as $ref would name it."""
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refusal(where, schema, "a schema")
        said = schema.keys() - _REMARKS
        for keyword in (each for each in _ALONE if each in said):
            others = said - {keyword, "type" if keyword in ("const", "enum") else keyword}
            if others:
                raise _refusal(where, f"{keyword} together with {min(map(str, others))}")
            return self._alone(keyword, schema, where)
        unknown = said - _TYPE_OF.keys() - {"type"}
        if unknown:
            raise _refusal(where, min(map(str, unknown)))
        if not said:
            return "value"
        return self._any_of([self._of_type(each, schema, where) for each in _types(schema, where)])

    def _alone(self, keyword: str, schema: dict[str, Any], where: str) -> str:
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, where)
        if keyword in ("const", "enum"):
            values = [value] if keyword == "const" else _items(value, where)
            if "type" in schema:
                fitting = {kind for each in _types(schema, where) for kind in _TYPES[each]}
                values = _items([each for each in values if type(each) in fitting], where)
            return self._rule(" | ".join(f"{_literal(each, where)} ws" for each in values))
        if keyword == "allOf" and len(_items(value, where)) > 1:
            raise _refusal(where, "allOf of several schemas")
        places = enumerate(_items(value, where))
        return self._any_of([self._value(each, f"{where}/{keyword}/{number}") for number, each in places])

    def _reference(self, reference: Any, where: str) -> str:
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            raise _refusal(where, reference, "a $ref such as #/$defs/name")
        if reference not in self._definitions:
            name = self._definitions[reference] = f"definition-{len(self._definitions)}"
            self._rules[name] = self._value(self._find(reference, where), reference)
        return self._definitions[reference]

    def _find(self, reference: str, where: str) -> Any:
        found = self._schema
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise _refusal(where, reference, "a $ref to a part of the schema")
        return found

    def _of_type(self, kind: str, schema: dict[str, Any], where: str) -> str:
        match kind:
            case "object":
                return self._object(schema, where)
            case "array":
                return self._array(schema, where)
            case "string":
                return self._string(schema, where)
        return kind

    def _object(self, schema: dict[str, Any], where: str) -> str:
        """The rules from the last property to the first: how an object goes on after a property, and how it starts."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _refusal(where, "properties or required of another type")
        if any(not isinstance(each, str) or each not in properties for each in required):
            raise _refusal(where, "a required property that is not in properties")
        if not properties:
            return self._mapping(schema.get("additionalProperties", True), where)
        start = more = '"}" ws'
        for name, each in reversed(properties.items()):
            place = f"{where}/properties/{name}"
            pair = self._rule(f'{_literal(name, place)} ws ":" ws {self._value(each, place)}')
            omitted_start, omitted = ("", "") if name in required else (f" | {start}", f" | {more}")
            start, more = self._rule(f"{pair} {more}{omitted_start}"), self._rule(f'"," ws {pair} {more}{omitted}')
        return self._rule(f'"{{" ws {start}')

    def _mapping(self, value: Any, where: str) -> str:
        """Return the rule of objects with any keys, whose values have one schema."""
        if value is True:
            return "object"
        if value is False:
            return self._rule('"{" ws "}" ws')
        pair = self._rule(f'string ":" ws {self._value(value, f"{where}/additionalProperties")}')
        return self._rule(f'"{{" ws ({pair} ("," ws {pair})*)? "}}" ws')

    def _array(self, schema: dict[str, Any], where: str) -> str:
        low, high = _bounds(schema, "minItems", "maxItems", where)
        if high == 0:
            return self._rule('"[" ws "]" ws')
        item = self._value(schema.get("items", True), f"{where}/items")
        more = f"{max(low - 1, 0)},{'' if high is None else high - 1}"
        optional = "" if low else "?"
        return self._rule(f'"[" ws ({item} ("," ws {item}){{{more}}}){optional} "]" ws')

    def _string(self, schema: dict[str, Any], where: str) -> str:
        low, high = _bounds(schema, "minLength", "maxLength", where)
        if (low, high) == (0, None):
            return "string"
        return self._rule(rf'"\"" char{{{low},{"" if high is None else high}}} "\"" ws')


def _items(values: Any, where: str) -> list[Any]:
    """Return a list that must not be empty."""
    if not isinstance(values, list) or not values:
        raise _refusal(where, values, "a list that is not empty")
    return values


def _types(schema: dict[str, Any], where: str) -> list[str]:
    """Return the types that a schema names, or else the one that its first keyword is about."""
    types = schema["type"] if "type" in schema else next(kind for each, kind in _TYPE_OF.items() if each in schema)
    types = [types] if isinstance(types, str) else _items(types, where)
    for each in types:
        if not isinstance(each, str) or each not in _TYPES:
            raise _refusal(where, each, "a type of JSON")
    return types


def _bounds(schema: dict[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for bound in (low,) if high is None else (low, high):
        if type(bound) is not int or not 0 <= bound <= MAX_REPEATS:
            raise _refusal(where, bound, f"{least} and {most} from 0 to {MAX_REPEATS}")
    if high is not None and high < low:
        raise _refusal(where, f"{least} {low} above {most} {high}")
    return low, high


def _literal(value: Any, where: str) -> str:
    """Return a value's JSON as a literal of GBNF."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _refusal(where, value, "values of JSON") from error
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refusal(where: str, found: Any, expected: str = "keywords that a grammar can express") -> EngineError:
    found = found if isinstance(found, str) else repr(found)
    return EngineError(
        "JSON schema cannot become a grammar", where=where, expected=expected, found=found[:80], remedy="Simplify it."
    )
