"""stage=inspect: what a run would read, learn, cost and stumble over, before anything is trained."""
