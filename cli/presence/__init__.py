"""presence: a claim board on Kubernetes that agents, pipelines and people all see and respect."""

__version__ = "0.1.0"
