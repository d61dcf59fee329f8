"""The problem that a search solves: its choices, reward, limits and fronts."""
