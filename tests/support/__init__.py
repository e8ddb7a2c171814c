"""What tests share: a small Kubernetes client, operator processes, waiting."""
