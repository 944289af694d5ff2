"""Texts whose lines are of several kinds, and checks of a line.

Each text is (make, kind): make(rng) returns its lines, kind(line) names the kind of a well-formed
line and returns None for any other.
"""

import json
import random
import re

NAMES = "anna ben carl dora emil frida gustav hanna ida jonas karl lena maria otto".split()  # noqa: SIM905
KEYS = {
    "login": {"user", "ok"},
    "order": {"id", "items"},
    "message": {"from", "to"},
    "error": {"code", "host"},
}


def json_line(rng, kind):
    a, b, n = rng.choice(NAMES), rng.choice(NAMES), rng.randrange(1000, 9999)
    values = {
        "login": {"user": a, "ok": n % 2 == 0},
        "order": {"id": n, "items": [rng.randrange(10, 99) for _ in range(rng.randrange(1, 4))]},
        "message": {"from": a, "to": b},
        "error": {"code": n % 200 + 400, "host": {"name": a, "port": n}},
    }
    return json.dumps({"type": kind} | values[kind])


def json_mixed(rng):
    lines = json_blocks(rng)
    rng.shuffle(lines)
    return lines


def json_blocks(rng):
    """700 lines of each kind, one kind after the other."""
    return [json_line(rng, kind) for kind in KEYS for _ in range(700)]


def json_kind(line):
    try:
        value = json.loads(line)
    except ValueError:
        return None
    kind = value.pop("type", None) if isinstance(value, dict) else None
    return kind if kind in KEYS and value.keys() == KEYS[kind] else None


def logs(rng):
    time, lines = 0, []
    for _ in range(2500):
        time += rng.randrange(1, 40)
        h, m, s = time // 3600 % 24, time // 60 % 60, time % 60
        lost = f"ERROR lost {rng.choice(NAMES)}"
        event = rng.choice(["INFO started job", "INFO ended job", "WARN slow disk", lost])
        lines.append(f"2024-03-{1 + time // 86400:02} {h:02}:{m:02}:{s:02} {event}")
    return lines


def table(rng):
    """CSV with a counter, which no line start can tell."""
    return [
        f"{1000 + i},{rng.choice(NAMES)},{rng.randrange(18, 90)},{rng.choice(['paris', 'rome'])}"
        for i in range(2500)
    ]


def cards(rng):
    bodies = {"Beast": "bites for", "Spell": "deals", "Relic": "draws"}
    return [
        f"|{kind}|{rng.choice(NAMES)}|{rng.randrange(1, 9)}|{bodies[kind]} {rng.randrange(1, 9)}|"
        for kind in rng.choices(list(bodies), k=2500)
    ]


def letters(rng, count=10_000, alphabet="ABCDEFGH", size=3):
    """CAB|ABC: letters and the same letters in order."""
    words = ("".join(rng.sample(alphabet, size)) for _ in range(count))
    return [f"{word}|{''.join(sorted(word))}" for word in words]


def letters_kind(line):
    word, _, ordered = line.partition("|")
    return "sorted" if word and ordered == "".join(sorted(word)) else None


def by_pattern(pattern):
    """Name a line by the last group of a pattern that matches it."""
    compiled = re.compile(pattern.replace("NAME", f"(?:{'|'.join(NAMES)})"))

    def kind(line):
        match = compiled.fullmatch(line)
        return match and match[match.lastindex]

    return kind


TIME = r"2024-03-\d\d \d\d:\d\d:\d\d"
KINDS = {
    "json": (json_mixed, json_kind),
    "json in blocks": (json_blocks, json_kind),
    "logs": (logs, by_pattern(TIME + r" (INFO|WARN|ERROR)(?: \w+ job| slow disk| lost NAME)")),
    "csv": (table, by_pattern(r"\d{4},NAME,\d\d,(paris|rome)")),
    "cards": (
        cards,
        by_pattern(r"\|(Beast|Spell|Relic)\|NAME\|\d\|(?:bites for|deals|draws) \d\|"),
    ),
    "letters": (letters, letters_kind),
}


def text_of(name):
    lines = KINDS[name][0](random.Random(1))
    assert all(map(KINDS[name][1], lines))
    return "".join(line + "\n" for line in lines)
