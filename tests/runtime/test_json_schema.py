"""JSON schemas as grammars: that they match what conforms, spelled in any usual way, and nothing else."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime.gbnf import MAX_REPEATS
from edgesteer.runtime.grammar import Grammar, check_grammar
from edgesteer.runtime.json_schema import JSON_OBJECT, json_schema_grammar
from edgesteer.runtime.model import LlamaModel


def matches(grammar: str, text: str, model: LlamaModel) -> bool:
    """Return whether a model could write this text, and end there, under the grammar."""
    with Grammar(grammar, model) as state:
        for token in model.tokenize(text, add_special=False):
            if not state.allows(token):
                return False
            state.accept(token)
        return state.allows(model.tokenize("<|im_end|>")[0])


ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {
    "$ref": "#/$defs/Node_1",
    "$defs": {
        "Node_1": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node_1"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
}
CASES: list[tuple[Any, list[str], list[str]]] = [
    ({}, ["1", '"a"', "[]", "{}", "null", '{"a": [1, {"b": null}]}'], ["", "a", "nul"]),
    ({"title": "Anything"}, ["1", "null"], ["a"]),
    (True, ["1", "null"], ["a"]),
    (
        {"type": "string"},
        ['""', '"a"', r'"\n\"\\\u00e9"', '"é😀"', r'"\ud83d\ude00"'],
        ['"', "a", '"\n"', r'"\d"', r'"\ud83d"', r'"\ude00"', '"\x7f"'],
    ),
    (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"ab"', '"é😀\\n"', r'"\ud83d\ude00a"'],
        ['""', '"a"', r'"\ud83d\ude00"', '"abcd"'],
    ),
    ({"type": "string", "minLength": 1}, ['"a"', '"' + "a" * 50 + '"'], ['""']),
    ({"maxLength": 1}, ['""', '"a"'], ['"ab"', "1"]),
    ({"type": "string", "format": "date"}, ['"2026-11-22"'], ["2026"]),
    ({"type": "integer"}, ["0", "-0", "7", "-120", "1234567890"], ["01", "1.0", "1e2", "-", "+1", '"1"']),
    ({"type": "number"}, ["0", "1.5", "-2e10", "3E-7", "0.25e+1"], [".5", "1.", "01", "1e400", "NaN", "Infinity"]),
    ({"type": "boolean"}, ["true", "false"], ["True", "1", "null"]),
    ({"type": "null"}, ["null"], ["None", "false"]),
    ({"type": ["integer", "null"]}, ["5", "null"], ['"5"', "1.5"]),
    ({"type": ["string", "null"], "maxLength": 1}, ['"a"', "null"], ['"ab"']),
    (ADDRESS | {"type": ["object", "null"]}, ['{"city": "x"}', "null"], ["{}", '{"city": 1}']),
    ({"const": 'a"b\\c\n'}, [r'"a\"b\\c\n"'], ['"a"', '"a\\"b"']),
    ({"const": None}, ["null"], ["0"]),
    ({"enum": ["a", 1, {"k": ["é"]}]}, ['"a"', "1", '{"k": ["é"]}'], ['"b"', '"1"', "{}"]),
    ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    ({"type": ["integer", "null"], "enum": [True, 2, None, "x"]}, ["2", "null"], ["true", '"x"']),
    ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, ["3", '"x"'], ["null"]),
    ({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, ["true", "null"], ["1"]),
    ({"allOf": [{"type": "boolean"}], "description": "one"}, ["true"], ["1"]),
    ({"type": "array"}, ["[]", '[1, "a", [null]]', "[ 1,2 ]"], ["[1,]", "[", "{}"]),
    ({"items": {"type": "integer"}}, ["[]", "[1]", "[1, 2, 3]"], ['["a"]', "[1 2]"]),
    ({"items": {"type": "integer"}, "minItems": 2}, ["[1,2]", "[1,2,3,4]"], ["[]", "[1]"]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1, 2, 3]"]),
    ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
    ({"type": "array", "maxItems": 1}, ["[]", '["a"]'], ["[1, 2]"]),
    ({"type": "object"}, ["{}", '{"a": 1, "b": {}}'], ["[]", "{a: 1}"]),
    ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
    ({"additionalProperties": {"type": "integer"}}, ["{}", '{"a": 1, "b": 2}'], ['{"a": "x"}']),
    (ADDRESS, ['{"city":"x"}', '{ "city" : "" }', '{\n  "city": ""\n}'], ["{}", '{"city":1}', '{"city":"", "b":1}']),
    (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "required": ["b"]},
        ['{"b": null}', '{"a": null, "b": null}', '{"b": null, "c": null}', '{"a": null, "b": null, "c": null}'],
        ["{}", '{"a": null}', '{"a": null, "c": null}', '{"c": null, "b": null}', '{"b": null,}', '{"b":null,"b":1}'],
    ),
    (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
        ["{}", '{"a": null}', '{"b": null}', '{"a": null, "b": null}'],
        ['{,"b": null}', '{"a": null,}', '{"b": null, "a": null}'],
    ),
    ({"properties": {'q"\\é': {"const": 1}}, "required": ['q"\\é']}, [r'{"q\"\\é": 1}'], ["{}"]),
    (TREE, ['{"next": null}', '{"next": {"next": {"next": null}}}'], ["{}", '{"next": {}}', "null"]),
    (
        {"properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]},
        ['{"kids": []}', '{"kids": [{"kids": []}, {"kids": []}]}'],
        ['{"kids": [1]}'],
    ),
    (
        {
            "properties": {"a": {"$ref": "#/$defs/a/x"}, "b": {"$ref": "#/$defs/b/x"}, "ws": {"$ref": "#/$defs/~1%20"}},
            "required": ["a", "b", "ws"],
            "$defs": {"a": {"x": {"const": 1}}, "b": {"x": {"const": 2}}, "/ ": {"const": 3}},
        },
        ['{"a": 1, "b": 2, "ws": 3}'],
        ['{"a": 1, "b": 1, "ws": 3}'],
    ),
    ({"anyOf": [{"const": 1}, {"$ref": "#/anyOf/0"}]}, ["1"], ["2"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "conforming", "others"), CASES)
def test_texts_that_conform_match_and_others_do_not(
    schema: Any, conforming: list[str], others: list[str], tiny_llama: LlamaModel
) -> None:
    grammar = json_schema_grammar(schema)
    assert conforming
    assert others
    assert [text for text in conforming if not matches(grammar, text, tiny_llama)] == []
    assert [text for text in others if matches(grammar, text, tiny_llama)] == []
    assert all(json.loads(text) is not ... for text in conforming)


def test_any_object_matches_the_grammar_of_objects(tiny_llama: LlamaModel) -> None:
    check_grammar(JSON_OBJECT)
    value = {"a": [1, -2.5e-3, True, None], "é😀": {"": '\\ " \n'}}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=1), "{}"):
        assert matches(JSON_OBJECT, text, tiny_llama)
    assert [
        text for text in ("[]", "1", "{", '{"a": 1e999}', "{'a': 1}") if matches(JSON_OBJECT, text, tiny_llama)
    ] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "#: .*; found False"),
        ([], "#: JSON schema cannot become a grammar; expected a schema; found "),
        ({"properties": {"a": 1}}, "^#/properties/a: .*; expected a schema; found 1"),
        ({"type": "str"}, "expected a type of JSON; found str"),
        ({"type": []}, "expected a list that is not empty"),
        ({"type": [["string"]]}, "expected a type of JSON"),
        ({"type": "integer", "minimum": 3}, "expected keywords that a grammar can express; found minimum"),
        ({"type": "string", "pattern": "^a$"}, "found pattern"),
        ({"items": {"not": {}}}, "^#/items: .*; found not"),
        ({"anyOf": [{"type": "null"}, {"if": {}}]}, "^#/anyOf/1: .*; found if"),
        ({"anyOf": [{}], "properties": {}}, "found anyOf together with properties"),
        ({"$ref": "#/$defs/a", "minItems": 1, "$defs": {"a": {}}}, r"found \$ref together with minItems"),
        ({"allOf": [{}, {}]}, "found allOf of several schemas"),
        ({"anyOf": []}, "a list that is not empty"),
        ({"enum": []}, "a list that is not empty"),
        ({"type": "string", "enum": [1]}, "a list that is not empty"),
        ({"enum": [float("nan")]}, "expected values of JSON; found nan"),
        ({"const": object}, "expected values of JSON"),
        ({"required": ["a"]}, "a required property that is not in properties"),
        ({"properties": {"a": {}}, "required": [[]]}, "a required property that is not in properties"),
        ({"properties": []}, "properties or required of another type"),
        ({"properties": {"a": {}}, "required": True}, "properties or required of another type"),
        ({"items": [{}]}, "#/items: .*expected a schema"),
        ({"items": {}, "minItems": -1}, f"expected minItems and maxItems from 0 to {MAX_REPEATS}; found -1"),
        ({"items": {}, "maxItems": 1.5}, "expected minItems and maxItems"),
        ({"maxLength": MAX_REPEATS + 1}, "expected minLength and maxLength"),
        ({"minLength": True}, "expected minLength and maxLength"),
        ({"minLength": 3, "maxLength": 2}, "found minLength 3 above maxLength 2"),
        ({"$ref": 3}, r"expected a \$ref such as #/\$defs/name; found 3"),
        ({"$ref": "#anchor"}, r"expected a \$ref such as"),
        ({"$ref": "#/$defs/none"}, r"expected a \$ref to a part of the schema; found #/\$defs/none"),
        ({"anyOf": [{"$ref": "#/anyOf/2"}]}, r"expected a \$ref to a part of the schema"),
        ({"$ref": "#"}, "begins with itself"),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}, {}]}}}, "begins with itself"),
        ({"const": "\ud800"}, "not valid Unicode"),
    ],
)
def test_schemas_that_cannot_be_kept_are_refused_and_the_place_named(schema: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        json_schema_grammar(schema)


@pytest.mark.parametrize(
    "url", ["https://example.org/s.json", "http://localhost:1/s#/a", "file:///etc/passwd", "s.json"]
)
def test_schema_elsewhere_is_never_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("opened a socket"))
    with pytest.raises(EngineError, match=r"expected a \$ref such as #/\$defs/name"):
        json_schema_grammar({"$ref": url})


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}, "required": ["a"]}
    return schema


def test_grammar_grows_as_the_schema_does(tiny_llama: LlamaModel) -> None:
    grammar = json_schema_grammar(nested(50))
    assert len(json_schema_grammar(nested(100))) < 3 * len(grammar)
    assert matches(grammar, '{"a":' * 50 + "null" + "}" * 50, tiny_llama)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(5000), "nested too deeply"),
        ({"enum": [f"value number {number}" for number in range(50_000)]}, "grammar is too long"),
        ({"enum": list(range(5000))}, "begin in too many ways"),
        ({"properties": {f"key {number}": {} for number in range(2000)}}, "grammar is too long"),
    ],
    ids=["deep", "long", "wide", "optional"],
)
def test_huge_schemas_are_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        json_schema_grammar(schema)


def test_schema_with_many_properties_is_kept(tiny_llama: LlamaModel) -> None:
    grammar = json_schema_grammar({"properties": {f"k{number}": {"type": "null"} for number in range(300)}})
    assert matches(grammar, '{"k7": null, "k299": null}', tiny_llama)
    assert not matches(grammar, '{"k299": null, "k7": null}', tiny_llama)
