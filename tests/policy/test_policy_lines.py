from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.lines import Path, key_lines


def test_lines_of_every_kind_of_toml() -> None:
    """Tables, arrays of tables, dotted and quoted keys, strings that look like structure: each path has its line."""
    text = '''# first
a = 1 # [x]
"b.c" = "x = [1]"
[d.e]
f = """
[g]
h = 1
"""
i = [ 1, "]", # one
  {j = 2, k.l = ']'},
  [3]]
[[m]]
n = 1979-05-27T07:32:00Z
[[m]]
n = {}
[m.o]
p = []
\'q\'."r\\u0041" = \'\'\'
t = 1\'\'\'
'''
    lines = key_lines(text)
    assert set(lines.values()) <= set(range(1, 20))
    expected: dict[Path, int] = {
        ("a",): 2, ("b.c",): 3, ("d",): 4, ("d", "e"): 4, ("d", "e", "f"): 5, ("d", "e", "i"): 9,
        ("d", "e", "i", 0): 9, ("d", "e", "i", 1): 9, ("d", "e", "i", 2): 10, ("d", "e", "i", 2, "j"): 10,
        ("d", "e", "i", 2, "k"): 10, ("d", "e", "i", 2, "k", "l"): 10, ("d", "e", "i", 3): 11,
        ("d", "e", "i", 3, 0): 11, ("m",): 12, ("m", 0): 12, ("m", 0, "n"): 13, ("m", 1): 14, ("m", 1, "n"): 15,
        ("m", 1, "o"): 16, ("m", 1, "o", "p"): 17, ("m", 1, "o", "q"): 18, ("m", 1, "o", "q", "rA"): 18,
    }  # fmt: skip
    assert lines == expected
    assert set(lines) == _paths(tomllib.loads(text))


def test_what_is_not_toml_is_not_scanned() -> None:
    """A text that tomllib would refuse is a programming error here, not a silent wrong line."""
    with pytest.raises(ValueError, match="not the TOML that tomllib accepts, at 0"):
        key_lines("= 1")


def _paths(value: object, path: Path = ()) -> set[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, child in items:
        found |= _paths(child, (*path, key))
    return found


KEYS = st.sampled_from(["a", "b-1", '"q"', '"x y"', "'l'", '"\\u00e9"', '"]"', '"#"', "1"])
STRINGS = ['"s"', '"a # ]"', "'}'", '"\\""', '""', "''", '"""x\n]"y"""', "'''\n[z]\n'''", '"""a\\""""']
SCALARS = st.sampled_from([*STRINGS, "1", "-1.5e3", "true", "inf", "1979-05-27", "07:32:00", "0xff"])


def _inline(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    gap = st.sampled_from(["", " ", "\n", " # ]\n", "\n\n"])
    array = st.tuples(st.lists(children, max_size=3), gap).map(
        lambda x: "[" + x[1] + ("," + x[1]).join(x[0]) + x[1] + "]"
    )
    pairs = st.dictionaries(KEYS, children, max_size=3)
    return array | pairs.map(lambda pair: "{" + ", ".join(f"{key} = {value}" for key, value in pair.items()) + "}")


VALUES = st.recursive(SCALARS, _inline, max_leaves=6)
LINES = st.one_of(
    st.tuples(st.lists(KEYS, min_size=1, max_size=2).map(" . ".join), VALUES).map(" = ".join),
    st.lists(KEYS, min_size=1, max_size=2).map(lambda parts: f"[{'.'.join(parts)}] # x"),
    st.lists(KEYS, min_size=1, max_size=2).map(lambda parts: f"[[ {'.'.join(parts)} ]]"),
    st.sampled_from(["", "# [comment]", "  "]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(LINES, max_size=8).map("\n".join))
def test_every_path_that_tomllib_finds_has_a_line(text: str) -> None:
    """For any document that tomllib reads, the scanner finds exactly its paths, each on an existing line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    assert set(lines) == _paths(document)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
