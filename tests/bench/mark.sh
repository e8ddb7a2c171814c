#!/bin/bash
# A command under a lock: notes when it begins and ends. Arguments: FILE, SECONDS. Bash reads the clock without a fork.
begin=$EPOCHREALTIME
[ "$2" = 0 ] || sleep "$2"
echo "$begin $EPOCHREALTIME" >> "$1"
