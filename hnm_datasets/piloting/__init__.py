"""Compare mining strategies on a sample of a user's own data: mine, measure, train, recommend."""
