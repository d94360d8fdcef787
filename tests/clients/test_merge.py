"""The pure parts of both clients: the merge patch by RFC 7396, and the reader of event streams, whatever they are given.

hypothesis makes the examples; Chromium and Node take them all in one go, and what they answer is held against the rules here.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from playwright.async_api import BrowserContext, Page

from fleetcast.client import merge_patch
from fleetcast.sse import Parser
from tests.clients.followers import MODULE, chromium, node

# What both run: merges of [target, patch], and streams of base64 chunks -> [[[event, data, id], …], last id, retry, comments].
COMPUTE = """
async (given) => {
  const { module, merges, streams } = JSON.parse(given); // Playwright would lose what is called __proto__
  const { mergePatch, EventParser } = await import(module);
  const text = JSON.stringify(merges);
  const merged = merges.map(([target, patch]) => mergePatch(target, patch));
  if (JSON.stringify(merges) !== text) throw new Error("an argument was changed");
  const read = streams.map(([last, ...chunks]) => {
    const parser = new EventParser(last);
    const events = chunks.flatMap((chunk) => parser.feed(Uint8Array.from(atob(chunk), (letter) => letter.charCodeAt(0))));
    return [events.map(({ event, data, id }) => [event, data, id]), parser.lastId, parser.retry, parser.comments];
  });
  return JSON.stringify({ merged, read });
}
"""

NAMES = st.sampled_from(["a", "b", "c", "__proto__", "constructor", "toString", "0", "Vehicle.Speed"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)
PAIRS = st.tuples(OBJECTS | VALUES, OBJECTS | VALUES)

APPENDIX = [  # of RFC 7396: target, patch, result
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

FIELDS = [
    "data",
    "event",
    "id",
    "retry",
    ":",
    ": ",
    " ",
    "12",
    "007",
    "x",
    "{}",
    "data: y\n\n",
    "id: 7\n",
    ":\n\n",
]
PIECES = [*(field.encode() for field in FIELDS), b"\r", b"\n", b"\r\n", b"\n\n", b"\0", "\u2028\x85".encode()]
LETTERS = [b"\xef\xbb\xbf", "é€😀".encode(), b"\xff", b"\xe2\x82"]
CHUNKS = st.lists(st.lists(st.sampled_from([*PIECES, *LETTERS]), max_size=8).map(b"".join), max_size=8)
STREAMS = st.tuples(st.sampled_from(["", "before"]), CHUNKS)


@cache
def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many of what hypothesis would try."""
    found: list[Any] = []

    @settings(
        max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found


def same(one: Any, other: Any) -> bool:
    """As JSON: true is not 1, and 1 is 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and not isinstance(one, bool):
        return not isinstance(other, bool) and float(one) == float(other)  # 1e20 is written in many ways
    return type(one) is type(other) and bool(one == other)


def follows_the_rules(target: Any, patch: Any, result: Any) -> bool:
    """Whether RFC 7396, section 2, allows this result, name by name."""
    if not isinstance(patch, dict):
        return same(result, patch)
    before = target if isinstance(target, dict) else {}
    if not isinstance(result, dict) or not result.keys() <= before.keys() | patch.keys():
        return False
    for name in before.keys() | patch.keys():
        if name not in patch:
            fine = name in result and same(result[name], before[name])
        elif patch[name] is None:
            fine = name not in result
        else:
            fine = name in result and follows_the_rules(before.get(name), patch[name], result[name])
        if not fine:
            return False
    return True


# Python


@settings(max_examples=200)
@given(PAIRS)
def test_python_merges_by_the_rules(pair: tuple[Any, Any]) -> None:
    kept = copy.deepcopy(pair)
    assert follows_the_rules(*pair, merge_patch(*pair))
    assert pair == kept


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX)
def test_python_merges_as_the_appendix_says(target: Any, patch: Any, result: Any) -> None:
    assert same(merge_patch(target, patch), result)
    assert follows_the_rules(target, patch, result)


def test_the_rules_find_what_breaks_them() -> None:
    for target, patch, result in APPENDIX:
        for wrong in ({"wrong": 1}, [result], True):
            assert not follows_the_rules(target, patch, wrong)


# JavaScript


@pytest.fixture(scope="module")
async def page() -> AsyncIterator[Page]:
    async with chromium() as browser:
        yield await _page(browser)


async def _page(browser: BrowserContext) -> Page:
    page = await browser.new_page()
    await page.route("http://page.test/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    script = await asyncio.to_thread(MODULE.read_text)
    await page.route(
        "http://page.test/fleetcast.js",
        lambda route: route.fulfill(body=script, content_type="text/javascript"),
    )
    await page.goto("http://page.test/")
    return page


async def in_chromium(page: Page, given_: dict[str, Any]) -> dict[str, Any]:
    said: str = await page.evaluate(COMPUTE, json.dumps({"module": "/fleetcast.js", **given_}))
    return dict(json.loads(said))


async def in_node(_page: Page, given_: dict[str, Any]) -> dict[str, Any]:
    script = MODULE.read_bytes()
    module = "data:text/javascript;base64," + base64.b64encode(script).decode()
    code = f"let t = ''; for await (const c of process.stdin) t += c; console.log(await ({COMPUTE})(t));"
    process = await asyncio.create_subprocess_exec(
        *(node(), "--input-type=module", "--eval", code),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _error = await process.communicate(json.dumps({"module": module, **given_}).encode())
    assert process.returncode == 0
    return dict(json.loads(out))


@pytest.mark.parametrize("compute", [in_chromium, in_node])
async def test_javascript_merges_by_the_rules(page: Page, compute: Any) -> None:
    pairs = [*examples(PAIRS, 500), *([target, patch] for target, patch, _ in APPENDIX)]
    merged: Sequence[Any] = (await compute(page, {"merges": pairs, "streams": []}))["merged"]
    assert len(merged) == len(pairs) > 300
    for (target, patch), found in zip(pairs, merged, strict=True):
        assert follows_the_rules(target, patch, found), (target, patch, found)
    for (*_, expected), found in zip(APPENDIX, merged[-len(APPENDIX) :], strict=True):
        assert same(found, expected)


@pytest.mark.parametrize("compute", [in_chromium, in_node])
async def test_javascript_reads_streams_as_python_does(page: Page, compute: Any) -> None:
    """`fleetcast.sse.Parser`, which tests/test_sse.py holds against the standard."""
    streams = examples(STREAMS, 400)
    coded = [[last, *(base64.b64encode(chunk).decode() for chunk in chunks)] for last, chunks in streams]
    read = (await compute(page, {"merges": [], "streams": coded}))["read"]
    expected: list[list[Any]] = []
    for last, chunks in streams:
        parser = Parser(last)
        events = [[e.event, e.data, e.id] for chunk in chunks for e in parser.feed(chunk)]
        expected.append([events, parser.last_id, parser.retry, parser.comments])
    assert sum(len(one[0]) for one in expected) > 30
    assert read == expected
