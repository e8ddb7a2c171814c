"""The imperative shell: everything that talks to the outside."""
