"""Random molecules as SMILES strings (Weininger 1988), and a parser of exactly these.

    python molecules.py COUNT [SEED]

prints as many different ones, a line each. The grammar: chains of atoms with single, double and
triple bonds, within their valences; branches, also within branches; rings of three atoms or more,
closed in the chain that opened them, which may share atoms; aromatic rings of six c and n or of
five with one o, s or [nH], with side chains; nitro groups, [NH3+] and [O-]. A ring has the smallest
free number.

The rules are written once, as functions of `choose`, which is given the tokens that may come next
and returns one: at random to write a molecule, the next of the text to parse one. They never offer
a token after which a molecule could not be completed.
"""

import contextlib
import random
import re
import sys

TOKEN = re.compile(r"\[[^]]*\]|%\d\d|Cl|Br|.", re.DOTALL)
END = ""
VALENCES = {"C": 4, "N": 3, "O": 2, "S": 2, "F": 1, "Cl": 1, "Br": 1}
CHARGED = ["[NH3+]", "[O-]"]  # of one bond
NITRO = ["(", "=", "O", ")", "[O-]"]  # after [N+]
BONDS = {"=": 2, "#": 3}
HETERO = ["o", "s", "[nH]"]  # an aromatic ring of five has one
NUMBERS = [*"123456789", *(f"%{n}" for n in range(10, 100))]  # of rings
WEIGHTS = {"C": 40, "N": 8, "O": 8, "S": 3, "c": 24, "n": 5, "(": 16, "=": 6}  # others: 1


def parses(text):
    """Whether the grammar has `text`."""
    tokens = iter(TOKEN.findall(text))

    def choose(options):
        token = next(tokens, END)
        if token not in options:
            raise ValueError(f"{token!r} where one of {options} is expected")
        return token

    try:
        any_molecule(choose)
    except ValueError:
        return False
    return True


def molecule(rng, length=20, most=80):
    """A random molecule of some `length` tokens; `rng` is a random.Random.

    Raises ValueError if it would have more than `most` tokens.
    """
    tokens = []

    def choose(options):
        if len(tokens) > most:
            raise ValueError("the molecule is too long")
        excess = len(tokens) / length

        def weight(token):
            if token in (END, ")"):
                return 3 + 200 * excess**3
            if token in NUMBERS:  # where a ring is open, there is no end
                return 4 if {END, ")"} & set(options) else 25 / (1 + NUMBERS.index(token)) ** 2
            return WEIGHTS.get(token, 1) / (1 + excess**4 if token == "(" else 1)

        tokens.append(rng.choices(options, list(map(weight, options)))[0])
        return tokens[-1]

    any_molecule(choose)
    return "".join(tokens)


def molecules(count, seed=0):
    """A list of `count` different molecules of up to 80 tokens."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        with contextlib.suppress(ValueError):
            found[molecule(rng)] = None
    return list(found)


def any_molecule(choose):
    """A molecule, the token END included."""
    _chain(choose, END, _atoms(0, False))


def _chain(choose, end, first, taken=()):
    """A chain that begins with one of the tokens `first`; returns the order of its first bond.

    end: the token after it. taken: the numbers of the rings around it. While one of the chain's own
    rings is open, each atom must have a bond left to go on with.
    """
    opened, num_atoms, orders = {}, 0, []  # opened: {number: atom}
    token = choose(first)
    while token != end:
        order = BONDS.get(token, int(end != END or num_atoms > 0))
        orders.append(order)
        token = choose(_atoms(order, bool(opened))) if token in BONDS else token
        num_atoms += 1
        free = _atom(choose, token, order, (*taken, *opened), bool(opened))
        token, free = _rings(choose, end, opened, num_atoms, free, taken)
        while token == "(":
            links = _links(free - bool(opened), False)
            free -= _chain(choose, ")", links, (*taken, *opened))
            token = choose(_next(end, opened, free))
    return orders[0]


def _links(free, going_on):
    """The tokens that bind one more atom to one that has `free` bonds left."""
    if not free:
        return []
    return [bond for bond, order in BONDS.items() if order <= free] + _atoms(1, going_on)


def _atoms(order, going_on):
    """The first tokens of atoms with a bond of this order to the one before; 0: there is none."""
    atoms = [atom for atom, valence in VALENCES.items() if valence - order >= going_on]
    atoms += ["c"] if order < 2 else []
    return atoms + ([*CHARGED, "[N+]"] if order == 1 and not going_on else [])


def _next(end, opened, free):
    """The tokens after an atom and its rings, where it has `free` bonds left."""
    options = [] if opened else [end]
    options += ["("] if free > bool(opened) else []
    return options + _links(free, bool(opened))


def _atom(choose, token, order, taken, going_on):
    """The rest of an atom, or of the aromatic ring that it begins; returns its bonds left."""
    if token in VALENCES:
        return VALENCES[token] - order
    if token == "[N+]":
        for following in NITRO:
            choose([following])
    return _aromatic(choose, taken, going_on) if token == "c" else 0


def _rings(choose, end, opened, atom, free, taken):
    """The rings that an atom closes and opens; returns (the token after them, its bonds left)."""
    closed = []  # the other ends of rings closed here: no two atoms have two bonds
    while True:
        rings = [
            number
            for number, start in opened.items()
            if atom - start > 1 and free >= min(2, len(opened)) and start not in closed
        ]
        new = _free_number((*taken, *opened)) if free > 1 else []
        token = choose(rings + new + _next(end, opened, free))
        if token in rings:
            closed.append(opened.pop(token))
        elif token in new:
            opened[token] = atom
        else:
            return token, free
        free -= 1


def _free_number(taken):
    return [number for number in NUMBERS if number not in taken][:1]


def _aromatic(choose, taken, going_on):
    """An aromatic ring after its first c; returns the bonds left of its last atom."""
    number = choose(_free_number(taken))
    size, count, options = 6, 1, _members(2, 6, going_on)
    while True:
        token = choose(options)
        if token == "(":
            _chain(choose, ")", _links(1, False), (*taken, number))
            options = _members(count + 1, size, going_on)
            continue
        count += 1
        size = 5 if token in HETERO else size
        if count == size:
            choose([number])
            return int(token == "c")
        options = _members(count + 1, size, going_on) + (["("] if token == "c" else [])


def _members(place, size, going_on):
    """The atoms that may stand at a place of an aromatic ring; the last one may have to go on."""
    if going_on and place == size:
        return ["c"]
    has_hetero = size == 6 and place < 5 + (not going_on)
    return ["c", "n"] + (HETERO if has_hetero else [])


if __name__ == "__main__":
    print(*molecules(*map(int, sys.argv[1:])), sep="\n")
