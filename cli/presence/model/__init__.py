"""The rules both sides share: labels, durations, names, times and deadlines.

Everything here is pure and imports next to nothing, because the command line loads it on every call
and must answer in the time of a `kubectl get`.
"""
