"""Pairwise covering arrays: few rows that contain every pair of values of two columns."""

import itertools


def covering_rows(columns):
    """Yield rows {name: value} that contain each pair of values of two columns {name: values}.

    Greedy: a row begins with an uncovered pair; each further column takes the value that covers the
    most new pairs with the values in the row. There are about (values per column)^2 rows.
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
