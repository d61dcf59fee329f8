"""What is asked of a search: choices, reward, limits and fronts."""
