"""Whether a schema still keeps what an older one promised; `breaking` lists what it does not.

Two directions. What the node says: whoever reads by the old schema must be able to read what is sent by the new one, so
nothing that stood there may go, become optional or change its type; what is new may come. What the node hears: whatever
was accepted by the old schema must be accepted by the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
_TIGHTER_WHEN_MORE = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_TIGHTER_WHEN_LESS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def breaking(old: Schema, new: Schema, heard: bool) -> list[str]:
    """Each promise that `new` breaks, by its place."""
    return list(_compared(old, old, new, new, heard, "$"))


def _compared(old: Schema, old_whole: Schema, new: Schema, new_whole: Schema, heard: bool, at: str) -> Iterator[str]:
    old, new = _meant(old, old_whole), _meant(new, new_whole)
    yield from _types(old, new, heard, at)
    yield from _words(old, new, at)
    yield from _bounds(old, new, heard, at)
    yield from _keys(old, new, heard, at)
    for key, was in old.get("properties", {}).items():
        now = new.get("properties", {}).get(key)
        if now is None:
            yield f"{at}.{key}: is gone"
        else:
            yield from _compared(was, old_whole, now, new_whole, heard, f"{at}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _compared(old[key], old_whole, new[key], new_whole, heard, f"{at}[]")
        elif isinstance(old.get(key), dict):
            yield f"{at}: its {key} are told no longer"


def _meant(schema: Schema, whole: Schema) -> Schema:
    """References followed, and "this or null" as one schema whose type holds both."""
    while "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        choices = [_meant(one, whole) for one in schema["anyOf"]]
        merged: Schema = {"type": sorted({word for one in choices for word in _type(one)})}
        for one in choices:
            merged |= {key: value for key, value in one.items() if key != "type"}
        return merged
    return schema


def _type(schema: Schema) -> list[str]:
    said = schema.get("type", "any")
    return [said] if isinstance(said, str) else list(said)


def _types(old: Schema, new: Schema, heard: bool, at: str) -> Iterator[str]:
    was, now = set(_type(old)), set(_type(new))
    lost, come = was - now, now - was
    if lost and not (heard and "any" in now):
        yield f"{at}: is {' or '.join(sorted(now))}, was {' or '.join(sorted(was))}"
    elif come and not heard:
        yield f"{at}: may now also be {' or '.join(sorted(come))}"


def _words(old: Schema, new: Schema, at: str) -> Iterator[str]:
    was, now = (set(one.get("enum", ()) or ([one["const"]] if "const" in one else ())) for one in (old, new))
    if was and now and was - now:
        yield f"{at}: no longer {', '.join(map(str, sorted(was - now)))}"
    if now and not was:
        yield f"{at}: only {', '.join(map(str, sorted(now)))}, was free"


def _bounds(old: Schema, new: Schema, heard: bool, at: str) -> Iterator[str]:
    for key in (*_TIGHTER_WHEN_MORE, *_TIGHTER_WHEN_LESS):
        was, now = old.get(key), new.get(key)
        tighter = now is not None and (was is None or (now > was) == (key in _TIGHTER_WHEN_MORE)) and now != was
        looser = was is not None and (now is None or (now < was) == (key in _TIGHTER_WHEN_MORE)) and now != was
        if tighter if heard else looser:
            yield f"{at}: {key} is {now}, was {was}"
    if heard and new.get("pattern") not in (None, old.get("pattern")):
        yield f"{at}: its pattern is another"
    if old.get("format") != new.get("format"):
        yield f"{at}: its format is {new.get('format')}, was {old.get('format')}"


def _keys(old: Schema, new: Schema, heard: bool, at: str) -> Iterator[str]:
    was, now = set(old.get("required", ())), set(new.get("required", ()))
    for key in sorted(now - was if heard else was - now):
        yield f"{at}.{key}: is required now" if heard else f"{at}.{key}: may be absent now"
    if heard and new.get("additionalProperties") is False and old.get("additionalProperties") is not False:
        yield f"{at}: no key besides is accepted now"
