"""`presence run`: a command that runs only while its claims are held.

Two processes watch over the command, and over each other:

- the **supervisor** is the process that the caller started. It has one thread and no connection. It starts the
  command as its child, in a process group of its own, passes signals on, and stops the command at the deadline that it
  was given;
- the **keeper** is forked from it, in a session of its own. It talks to the board: waits for the grant, renews,
  watches, lets go. It tells the supervisor every new deadline.

Whichever of them dies, is stopped or is cut off, the other one still ends the command in time:

| what happens | who ends the command |
|---|---|
| no renewal gets through | both, at the deadline |
| the supervisor is killed | the keeper, at once (and the kernel: PR_SET_PDEATHSIG); then it lets go |
| the supervisor is stopped | the keeper: it renews no more without a sign of life, and kills at the deadline |
| the keeper is killed | the supervisor, at once |
| the keeper is stopped | the supervisor, at the deadline |
"""
