"""Filters of the role picoseg: files of picoseg from plain values, and which files are too many.

Values go into TOML with every character escaped that could end a string, so no value can become a key, a table or a
comment. What a value means is not judged here: `picoseg check` does that on the text, with line and column.
"""

import datetime
import os.path
import re

HEADER = "# Managed by Ansible, role picoseg: what is changed here is changed back.\n"

# Times are bare in TOML. What looks like one is one; everything else stays a string, and `picoseg check` says so.
TIMES = frozenset(["commission", "decommission", "open", "close"])
TIME = re.compile(r"\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})?)?", re.ASCII)
# Templates give strings where these want something else.
SWITCHES = frozenset(["loopback", "dns", "protect"])
NUMBERS = frozenset(["priority", "log_group"])

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}

# Keys of the role that are none of the file. A service says in `state` whether its file is there, too.
OF_THE_ROLE = frozenset(["name"])
STATES_OF_A_FILE = frozenset(["suspended", "decommissioned"])


def picoseg_service(item):
    """The file of a service."""
    written = {key: value for key, value in item.items() if key not in OF_THE_ROLE | {"state"}}
    if item.get("state") in STATES_OF_A_FILE:
        written["state"] = item["state"]
    return HEADER + document(written)


def picoseg_segment(item):
    """The file of a segment."""
    return HEADER + document({key: value for key, value in item.items() if key not in OF_THE_ROLE | {"state"}})


def picoseg_settings(settings):
    """The settings file."""
    return HEADER + document(settings or {})


def picoseg_list(item):
    """The file of an endpoint list. A line is an entry, so an entry is a line."""
    lines = []
    for entry in item.get("entries") or []:
        line = str(entry)
        if any(ord(character) < 0x20 and character != "\t" for character in line):
            raise ValueError("an entry of the list %s has a line break or a control character" % quoted(item["name"]))
        lines.append(line + "\n")
    return HEADER + "".join(lines)


def picoseg_present(items):
    """Those whose file is to be there."""
    return [item for item in items or [] if item.get("state") != "absent"]


def picoseg_surplus(paths, directory, ending, items, purge):
    """Those of `paths` in `directory` that are to go: of items that are absent and, with `purge`, of no item at all."""
    kept = set(item["name"] for item in picoseg_present(items))
    known = set(item["name"] for item in items or [])
    surplus = []
    for path in paths:
        place, (name, end) = os.path.dirname(path), os.path.splitext(os.path.basename(path))
        if (place, end) == (directory.rstrip("/"), ending) and name not in kept and (purge or name in known):
            surplus.append(path)
    return sorted(surplus)


def document(table):
    """A TOML document. Keys with plain values come first: behind a table they would belong to it."""
    entries = [(str(key), value) for key, value in table.items() if value is not None]
    plain = [line(key, value) for key, value in entries if not is_section(key, value) and not is_tables(value)]
    tables = ["\n[%s]\n%s" % (bare(key), lines(value)) for key, value in entries if is_section(key, value)]
    arrays = [
        "\n[[%s]]\n%s" % (bare(key), lines(entry)) for key, value in entries if is_tables(value) for entry in value
    ]
    return "".join(plain + tables + arrays)


def lines(table):
    return "".join(line(str(key), value) for key, value in table.items() if value is not None)


def line(key, value):
    return "%s = %s\n" % (bare(key), rendered(key, value))


def rendered(key, value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (int, float)):
        return repr(value + 0)
    if is_table(value):
        pairs = ["%s = %s" % (bare(str(k)), rendered(str(k), v)) for k, v in value.items() if v is not None]
        return "{ %s }" % ", ".join(pairs) if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(rendered("", entry) for entry in value)
    return word(key, str(value))


def word(key, text):
    """A string, unless its key wants what the string says."""
    if key in TIMES and TIME.fullmatch(text):
        return text
    if key in SWITCHES and text.lower() in ("true", "false"):
        return text.lower()
    if key in NUMBERS and re.fullmatch(r"-?(?:0|[1-9][0-9]{0,9})", text):
        return text
    return quoted(text)


def quoted(text):
    return '"%s"' % "".join(SHORT.get(one) or escaped(one) for one in text)


def escaped(one):
    code = ord(one)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return "\\u%04x" % code
    if 0xD800 <= code < 0xE000:
        raise ValueError("a value is not text: it has half of a surrogate pair, U+%04X" % code)
    return one


def bare(key):
    return key if BARE_KEY.fullmatch(key) else quoted(key)


def is_table(value):
    return hasattr(value, "items")


def is_section(key, value):
    """A subject stands on one line, as people write it."""
    return is_table(value) and key != "subject"


def is_tables(value):
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(is_table(entry) for entry in value)


class FilterModule:
    """What Ansible asks for."""

    def filters(self):
        return {
            "picoseg_service": picoseg_service,
            "picoseg_segment": picoseg_segment,
            "picoseg_settings": picoseg_settings,
            "picoseg_list": picoseg_list,
            "picoseg_present": picoseg_present,
            "picoseg_surplus": picoseg_surplus,
        }
