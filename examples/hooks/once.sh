# shellcheck shell=bash
# For hooks that may be called twice for the same thing. Source this file; it works with bash 3.2 and newer.
#
#     . once.sh
#     presence_once session-start "$CLAUDE_SESSION_ID" ./announce.sh "$USER"
#
# The command runs once for this hook and context within five minutes, on whatever machine the hooks are called.
# A duplicate returns the exit code of the first run. Where presence is not installed, or its board cannot be
# reached, the command runs. It is a program: functions and builtins of the shell need `bash -c`.
#
# Options go into an array: presence_once_options=(--ttl 10m --wait 30s)

presence_once() {
  if [ $# -lt 3 ]; then
    echo 'presence_once: write presence_once "<hook>" "<context>" command...' >&2
    return 2
  fi
  # Written with =, a text may be empty or begin with a dash.
  local key="--hook=$1" input="--input=$2"
  shift 2
  if command -v presence >/dev/null 2>&1; then
    # Bash 3.2 takes an empty array for an unset one.
    presence once "$key" "$input" ${presence_once_options[@]+"${presence_once_options[@]}"} -- "$@"
  else
    "$@"
  fi
}
