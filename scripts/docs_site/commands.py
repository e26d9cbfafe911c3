"""The page of the commands: what argparse knows of each, as tables."""

from __future__ import annotations

import argparse
import html

from .markup import Markdown, Outline, anchor_link, code_block, parameter_table

EVERYWHERE = ("help", "debug")  # flags that every command has
TITLES = {"positional arguments": "Arguments", "options": "Flags"}
Arguments = list[argparse.Action]


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    found = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return next(found, {})


def spelled(action: argparse.Action) -> str:
    """A flag as it is written, or the name of an argument without one."""
    return ", ".join(action.option_strings) or values(action)


def values(action: argparse.Action) -> str:
    """What stands in a command for the values of an argument: `N …`, `hf|vllm`, or nothing."""
    if action.nargs == 0:
        return ""
    name = "|".join(map(str, action.choices or ())) or action.metavar or action.dest.upper()
    return f"{name} …" if action.nargs in ("+", "*") else str(name)


def meaning(action: argparse.Action) -> str:
    """The help of an argument as Markdown, with what it takes from the argument filled in."""
    text = html.escape((action.help or "") % vars(action), quote=False)
    return f"**required**: {text}" if action.required and action.option_strings else text


def default(action: argparse.Action) -> str:
    """The default, where there is one to name and the help does not name it."""
    value = action.default
    untold = isinstance(value, bool) or value in (None, "", [], {})
    return "" if untold or "default: " in (action.help or "") else str(value)


def synopsis(program: str, arguments: Arguments) -> str:
    """The shortest command: what it needs, and a sign for the rest."""
    parts = [program]
    for action in arguments:
        if not action.option_strings:
            parts.append(values(action) if action.required else f"[{values(action)}]")
        elif action.required:
            parts.append(f"{spelled(action)} {values(action)}")
    more = any(action.option_strings and not action.required for action in arguments)
    return " ".join([*parts, "[FLAGS]"] if more else parts)


def argument_table(title: str, arguments: Arguments, markdown: Markdown) -> str:
    """Arguments that `--help` shows under one title."""
    flags = [bool(action.option_strings) for action in arguments]
    takes = [values(a) if flag else "" for a, flag in zip(arguments, flags, strict=True)]
    columns = {
        "Name": [_code(spelled(action)) for action in arguments],
        "Takes": [_code(text) for text in takes],
        "Default": [_code(default(action)) for action in arguments],
        "Meaning": [markdown.inline(meaning(action)) for action in arguments],
    }
    return parameter_table(title, columns)


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>" if text else ""


def command_section(
    name: str, parser: argparse.ArgumentParser, markdown: Markdown, outline: Outline
) -> str:
    """The section of one command: what it is for, its shortest form, its arguments."""
    heading = outline.add(2, f"videothinker {name}", anchor=name)
    function = parser.get_default("run")
    address = markdown.name_link(f"{function.__name__}()") if function else None
    chapter = f' <a href="{html.escape(address)}">How it works</a>.' if address else ""
    text = (parser.description or "").strip()
    outline.note(text)
    groups = [
        (group, [a for a in group._group_actions if a.dest not in EVERYWHERE])
        for group in parser._action_groups
    ]
    every = [action for _, arguments in groups for action in arguments]
    outline.note(" ".join(f"{spelled(a)} {a.help or ''}" for a in every))
    parts = [
        f'<h2 id="{heading.anchor}">videothinker {name} {anchor_link(heading)}</h2>\n',
        f"<p>{_sentence(markdown.inline(text))}{chapter}</p>\n",
        code_block(synopsis(f"videothinker {name}", every), "sh"),
    ]
    for group, arguments in groups:
        title = TITLES.get(group.title or "", (group.title or "").capitalize())
        if group.description:
            title += f" ({group.description})"
        if arguments:
            parts.append(argument_table(title, arguments, markdown))
    if parser.epilog:
        parts.append(f"<p>{_sentence(markdown.inline(parser.epilog))}</p>\n")
    return "".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def commands_page(parser: argparse.ArgumentParser, markdown: Markdown, outline: Outline) -> str:
    """Every command of a program with its arguments, in the order of its `--help`."""
    parts = [
        "<header><h1>Commands</h1>\n"
        '<p class="subtitle">Every command with its flags, as <code>--help</code> tells it</p>'
        "</header>\n",
        "<p>Every command also takes <code>--help</code>, and <code>--debug</code>, which shows "
        "where in the code an error arose.</p>\n",
    ]
    for name, command in subparsers(parser).items():
        parts.append(command_section(name, command, markdown, outline))
    return "".join(parts)
