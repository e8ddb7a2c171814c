#!/bin/sh
# The command of a contender: tells when it begins and ends, and holds a kernel lock for as long as any of its processes
# lives. Arguments: FILE (all commands append to it), DIRECTORY (of locks), RUN, SECONDS. As long as DIRECTORY/stay-RUN
# exists it goes on: the command of somebody to whom a fault is done does not end by itself just in time.
# Only two programs besides the shell are started, because a hundred of these share a machine with what they test.
log=$1 locks=$2 run=$3 seconds=$4
resource=$PRESENCE_RESOURCE
read -r at _ < /proc/uptime
exec 9>> "$locks/$(printf %s "$resource" | tr '/:' '__')"
if flock -n 9; then alone=1; else alone=0; fi
echo "start $run $resource $PRESENCE_SESSION $PRESENCE_FENCING_TOKEN $$ $at $alone" >> "$log"
sleep "$seconds"
while [ -e "$locks/stay-$run" ]; do sleep 0.3; done
read -r at _ < /proc/uptime
echo "stop $run $resource $at" >> "$log"
