"""runkit itself, measured through its public API, with its peers in the same round where one stands beside it."""
