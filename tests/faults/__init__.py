"""Proof that Exclusive claims exclude: contenders, faults, and a judge who believes only what was seen from outside."""
