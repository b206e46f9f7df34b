"""Commands a person types: train, sweep, evaluate, status. Each imports the heavy libraries late."""
