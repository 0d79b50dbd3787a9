"""How fast runkit is, next to its peers, in one run on one SSH host: `python -m benchmarks`.

`peers` measures the others, `measures` measures runkit, `rows` holds the table's rows and what they should reach.
"""
