"""`pyd completion bash|zsh|fish`: scripts made from the same tables that parse the command line.

The scripts know every command and flag by themselves; names of containers, images, networks and volumes they ask
for with `pyd` when the tab key is pressed.
"""

from __future__ import annotations

from client import PROGRAM
from client.errors import ClientError
from client.options import Command, Parsed, parse_table
from client.registry import GROUPS, HIDDEN, NAMES, command
from client.session import Session, say

_LISTS = {
    "containers": "ps -a --format '{{.Names}}'",
    "running": "ps --format '{{.Names}}'",
    "images": "images --format '{{.Repository}}:{{.Tag}}'",
    "networks": "network ls --format '{{.Name}}'",
    "volumes": "volume ls -q",
}
SHELLS = ("bash", "zsh", "fish")


def _flags(entry: Command) -> list[str]:
    return [f"--{flag.name}" for flag in entry.table if not flag.hidden]


def _valued(entry: Command) -> list[str]:
    names = [f"--{flag.name}" for flag in entry.table if flag.kind != "bool"]
    return names + [f"-{flag.short}" for flag in entry.table if flag.kind != "bool" and flag.short]


def _visible() -> dict[str, Command]:
    return {name: command(name) for name in sorted(NAMES) if name not in HIDDEN}


def bash() -> str:
    commands = _visible()
    top = sorted({name.split()[0] for name in commands})
    cases = []
    for name, entry in commands.items():
        listing = _LISTS.get(entry.completes, "")
        cases.append(f'    "{name}") flags="{" ".join(_flags(entry))}"; valued="{" ".join(_valued(entry))}"; '
                     f'listing="{listing}" ;;')  # fmt: skip
    groups = "\n".join(
        f'    {group}) subs="{" ".join(name.split()[1] for name in commands if name.startswith(group + " "))}" ;;'
        for group in GROUPS
    )
    return f"""# bash completion for {PROGRAM}
_{PROGRAM}() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=() word i
  local subs="" flags="" valued="" listing=""
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${{COMP_WORDS[i]}}
    case $word in
      -H|--host|--config|-c|--context|-l|--log-level|--tlscacert|--tlscert|--tlskey) ((i++)) ;;
      -*) ;;
      *) words+=("$word") ;;
    esac
  done
  case ${{words[0]}} in
{groups}
  esac
  if [ ${{#words[@]}} -eq 0 ]; then COMPREPLY=($(compgen -W "{" ".join(top)}" -- "$cur")); return; fi
  if [ -n "$subs" ] && [ ${{#words[@]}} -eq 1 ]; then COMPREPLY=($(compgen -W "$subs" -- "$cur")); return; fi
  local name=${{words[0]}}
  [ -n "$subs" ] && name="$name ${{words[1]}}"
  case $name in
{chr(10).join(cases)}
  esac
  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$flags" -- "$cur")); return; fi
  for word in $valued; do if [ "$prev" = "$word" ]; then COMPREPLY=($(compgen -f -- "$cur")); return; fi; done
  if [ -n "$listing" ]; then COMPREPLY=($(compgen -W "$(eval "{PROGRAM} $listing" 2>/dev/null)" -- "$cur"))
  else COMPREPLY=($(compgen -f -- "$cur")); fi
}}
complete -o default -F _{PROGRAM} {PROGRAM}"""


def zsh() -> str:
    """zsh runs the bash function through its own bridge."""
    return f"#compdef {PROGRAM}\nautoload -U +X bashcompinit && bashcompinit\n{bash()}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish() -> str:
    commands = _visible()
    lines = [f"# fish completion for {PROGRAM}", f"complete -c {PROGRAM} -f"]
    tops = " ".join(sorted({name.split()[0] for name in commands}))
    for group, summary in GROUPS.items():
        first = f"not __fish_seen_subcommand_from {tops}"
        lines.append(f"complete -c {PROGRAM} -n {_quoted(first)} -a {group} -d {_quoted(summary)}")
    for name, entry in commands.items():
        words = name.split()
        if len(words) == 1:
            at, seen = f"not __fish_seen_subcommand_from {tops}", f"__fish_seen_subcommand_from {name}"
        else:
            at = f"__fish_seen_subcommand_from {words[0]}"
            seen = f"{at}; and __fish_seen_subcommand_from {words[1]}"
        lines.append(f"complete -c {PROGRAM} -n {_quoted(at)} -a {words[-1]} -d {_quoted(entry.summary)}")
        for flag in parse_table(entry.flags):
            if not flag.hidden:
                short = f" -s {flag.short}" if flag.short else ""
                value = " -r" if flag.kind != "bool" else ""
                described = f"-l {flag.name}{short}{value} -d {_quoted(flag.help)}"
                lines.append(f"complete -c {PROGRAM} -n {_quoted(seen)} {described}")
        if listing := _LISTS.get(entry.completes):
            lines.append(
                f"complete -c {PROGRAM} -n {_quoted(seen)} -a {_quoted(f'({PROGRAM} {listing} 2>/dev/null)')}"
            )
    return "\n".join(lines)


def completion(session: Session, parsed: Parsed) -> int:
    shell = parsed.arguments[0]
    if shell not in SHELLS:
        raise ClientError(f'unknown shell: "{shell}": must be one of {", ".join(SHELLS)}')
    say({"bash": bash, "zsh": zsh, "fish": fish}[shell]())
    return 0


COMMANDS = (
    Command(
        ("completion",), "bash|zsh|fish", "Print a shell's completion script", completion, least=1, most=1
    ),
)
