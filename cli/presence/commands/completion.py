"""`presence completion`: completion scripts for shells, made from the parsers, so that they know what the parsers know.

The scripts are static: completing a verb or an option starts no program. Labels come from the board, within a short
limit, and in silence when the board is away.
"""

from __future__ import annotations

import argparse

from presence.deadline import Deadline
from presence.errors import BoardError
from presence.identity import find_session
from presence.model.labels import KNOWN_TYPES, is_key
from presence.output import clean, write
from presence.parser import VERBS, command_parser

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from presence.context import Context

DESCRIPTION = "Print a completion script for a shell. It completes verbs, options, and the labels on the board."
EXAMPLES = """examples:
  source <(presence completion bash)                                        # in ~/.bashrc
  presence completion zsh > "${fpath[1]}/_presence"                         # then start a new shell
  presence completion fish > ~/.config/fish/completions/presence.fish"""

#: Seconds that a shell waits for labels.
_PATIENCE = 1.0
#: Which labels a verb takes: those on the board, or one's own.
_LABELS = {"claim": "all", "peek": "all", "release": "mine"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), nargs="?", help="the shell to complete in")
    # For the scripts: prints labels, a line each.
    parser.add_argument("--labels", choices=("all", "mine"), help=argparse.SUPPRESS)


def run(context: Context) -> int:
    """Print the script."""
    if context.arguments.labels:
        for label in _labels(context, mine=context.arguments.labels == "mine"):
            write(label)
        return 0
    scripts: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    shell = context.arguments.shell
    if shell is None:
        command_parser("completion", context.program).error("name a shell: bash, zsh or fish")
    write(scripts[shell]())
    return 0


def _labels(context: Context, *, mine: bool) -> list[str]:
    context.deadline = Deadline(_PATIENCE)
    try:
        session = find_session(context.env, context.arguments.session)[0] if mine else None
        board = context.board()
        found = board.live(board.claims(session=session))
    except BoardError:
        found = []
    labels = {clean(claim["spec"]["resource"], 255) for claim, _ in found if not is_key(claim["spec"]["resource"])}
    return sorted(labels) if mine else sorted(labels | {f"{kind}:" for kind in KNOWN_TYPES})


class Option:
    """One option of a verb, as completion needs it."""

    __slots__ = ("choices", "file", "help", "names", "takes_value")

    def __init__(self, action: argparse.Action) -> None:
        self.names = list(action.option_strings)
        self.takes_value = action.nargs != 0
        self.choices = [str(choice) for choice in action.choices or ()]
        self.file = action.metavar == "FILE"
        self.help = (action.help or "").partition(";")[0].replace("%%", "%")


def options_of(verb: str) -> list[Option]:
    """The visible options of a verb."""
    actions = command_parser(verb)._actions
    return [Option(action) for action in actions if action.option_strings and action.help != argparse.SUPPRESS]


def words_of(verb: str) -> list[str]:
    """The fixed words that may follow a verb."""
    return [
        str(choice)
        for action in command_parser(verb)._actions
        if not action.option_strings
        for choice in action.choices or ()
    ]


def _names(options: Iterable[Option]) -> list[str]:
    return [name for option in options for name in option.names]


def bash() -> str:
    """The script for bash. Labels hold colons, which bash takes for ends of words, so the line is read afresh."""
    cases = []
    for verb in VERBS:
        options = options_of(verb)
        lines = [f"      words=({' '.join(_names(options) + words_of(verb))})"]
        if verb in _LABELS:
            lines.append(
                f'      [[ $cur == -* ]] || words=($("$program" completion --labels {_LABELS[verb]} 2>/dev/null))'
            )
        choices = [
            f"        {'|'.join(item.names)}) words=({' '.join(item.choices)});;" for item in options if item.choices
        ]
        if choices:
            lines += ["      case $prev in", *choices, "      esac"]
        cases.append("\n".join([f"    {verb})", *lines, "      ;;"]))
    common = options_of("version")
    files = "|".join(name for option in common if option.file for name in option.names)
    values = "|".join(name for option in common if option.takes_value and not option.file for name in option.names)
    return f"""# bash completion for presence
_presence() {{
  local line=${{COMP_LINE:0:COMP_POINT}} cur prev verb= word previous= program=$1 words
  cur=${{line##*[[:space:]]}}
  local -a typed
  read -ra typed <<< "${{line%"$cur"}}"
  [[ ${{#typed[@]}} -gt 0 ]] || return
  prev=${{typed[${{#typed[@]}}-1]}}
  for word in "${{typed[@]:1}}"; do
    case $previous in
      {files}|{values}) ;;
      *) [[ $word == -* ]] || {{ verb=$word; break; }};;
    esac
    previous=$word
  done
  case $prev in
    {files}) compopt -o default 2>/dev/null; return;;
    {values}) return;;
  esac
  case $verb in
{chr(10).join(cases)}
    "") words=({" ".join([*VERBS, *_names(common)])});;
    *) return;;
  esac
  COMPREPLY=($(compgen -W "${{words[*]}}" -- "$cur"))
  # bash replaces only what follows the last colon.
  if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
    COMPREPLY=("${{COMPREPLY[@]#"${{cur%"${{cur##*:}}"}}"}}")
  fi
  [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *: ]] && compopt -o nospace 2>/dev/null
}}
complete -F _presence presence kubectl-presence
"""


def zsh() -> str:
    """The script for zsh."""
    verbs = "\n".join(f"    {_zsh_quote(f'{verb}:{summary}')}" for verb, summary in VERBS.items())
    cases = []
    for verb in VERBS:
        arguments = [_zsh_option(option) for option in options_of(verb)]
        words = words_of(verb)
        if verb in _LABELS:
            arguments.append(f"'*: :_presence_labels {_LABELS[verb]}'")
        elif words:
            arguments.append(f"'1: :({' '.join(words)})'")
        lines = " \\\n        ".join(arguments)
        cases.append(f"    {verb})\n      _arguments \\\n        {lines}\n      ;;")
    common = " \\\n    ".join(_zsh_option(option) for option in options_of("version"))
    return f"""#compdef presence kubectl-presence
_presence_labels() {{
  local -a labels
  labels=(${{(f)"$(presence completion --labels $1 2>/dev/null)"}})
  compadd -S '' -a labels
}}
_presence() {{
  local curcontext=$curcontext state line
  local -a verbs
  verbs=(
{verbs}
  )
  _arguments -C \\
    {common} \\
    '1: :->verb' \\
    '*:: :->rest' && return
  case $state in
  verb) _describe verb verbs ;;
  rest)
    case $words[1] in
{chr(10).join(cases)}
    esac
    ;;
  esac
}}
if [[ $funcstack[1] == _presence ]]; then
  _presence "$@"
else
  compdef _presence presence kubectl-presence
fi
"""


def fish() -> str:
    """The script for fish."""
    lines = ["# fish completion for presence", "complete -c presence -f"]
    names = " ".join(VERBS)
    lone = f"not __fish_seen_subcommand_from {names}"
    for verb, summary in VERBS.items():
        lines.append(f"complete -c presence -n {_fish_quote(lone)} -a {verb} -d {_fish_quote(summary)}")
    for verb in VERBS:
        seen = f"__fish_seen_subcommand_from {verb}"
        lines += [_fish_option(option, seen) for option in options_of(verb)]
        words = words_of(verb)
        if words:
            lines.append(f"complete -c presence -n {_fish_quote(seen)} -a {_fish_quote(' '.join(words))}")
        if verb in _LABELS:
            call = f"(presence completion --labels {_LABELS[verb]} 2>/dev/null)"
            lines.append(f"complete -c presence -n {_fish_quote(seen)} -a {_fish_quote(call)}")
    lines += [_fish_option(option, lone) for option in options_of("version")]
    lines.append("complete -c kubectl-presence -w presence")
    return "\n".join(lines)


def _zsh_option(option: Option) -> str:
    meaning = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = ""
    if option.takes_value:
        value = ":value:" + (f"({' '.join(option.choices)})" if option.choices else "_files" if option.file else "")
    if len(option.names) == 1:
        return _zsh_quote(f"{option.names[0]}[{meaning}]{value}")
    return f"'({' '.join(option.names)})'{{{','.join(option.names)}}}{_zsh_quote(f'[{meaning}]{value}')}"


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_option(option: Option, condition: str) -> str:
    parts = ["complete -c presence", f"-n {_fish_quote(condition)}"]
    parts += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.takes_value:
        parts.append("-rF" if option.file else "-x")
    if option.choices:
        parts.append(f"-a {_fish_quote(' '.join(option.choices))}")
    parts.append(f"-d {_fish_quote(option.help)}")
    return " ".join(parts)


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
