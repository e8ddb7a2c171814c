"""The core: the board's state and what follows from it. No I/O, no clock of its own, no awaits."""
