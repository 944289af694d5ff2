"""Few rows in which every two values of different columns meet: a pairwise covering array."""

import itertools


def covering_rows(columns):
    """Rows {name: value} such that each pair of values of two columns of {name: values} has one.

    Greedy: a row begins with a pair that has none yet; each further column takes the value that
    makes the most new pairs with what the row has. About (most values)^2 rows, give or take half.
    """
    names = list(columns)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(columns[a]))
        for j in range(len(columns[b]))
    }
    order = {name: k for k, name in enumerate(names)}

    def pair(one, other):
        return (one, other) if order[one[0]] < order[other[0]] else (other, one)

    while missing:
        row = dict(min(missing))
        for name in names:
            if name not in row:
                gains = [
                    sum(pair((name, i), cell) in missing for cell in row.items())
                    for i in range(len(columns[name]))
                ]
                row[name] = gains.index(max(gains))
        missing -= {pair(a, b) for a, b in itertools.combinations(row.items(), 2)}
        yield {name: columns[name][row[name]] for name in names}
