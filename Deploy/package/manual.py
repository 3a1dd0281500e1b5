#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bulkhead(1) from `bulkhead --experimental-dump-help` on standard input: one page, a section each command. Arguments: version, seconds since 1970."""
import json
import sys
import time


def roff(text):
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in lines)


def name(argument):
    names = [("-" if n["kind"] == "short" else "--") + n["name"] for n in argument.get("names", [])]
    value = f" <{argument.get('valueName', '')}>" if argument["kind"] == "option" else ""
    return ", ".join(names) + value if names else f"<{argument.get('valueName', '')}>"


def discussion(text):
    """Paragraphs are filled, indented lines stay as they are."""
    out, verbatim = [], False
    for line in (text or "").split("\n"):
        if line.startswith("  ") != verbatim:
            verbatim = not verbatim
            out.append(".nf" if verbatim else ".fi")
        out.append(roff(line) if line else ".PP" if not verbatim else "")
    return "\n".join(out + ([".fi"] if verbatim else []))


def options(command):
    out = []
    for argument in command.get("arguments", []):
        if not argument.get("shouldDisplay", True) or name(argument) in ("--version", "-h, --help"):
            continue
        text = argument.get("abstract", "")
        if argument.get("defaultValue") is not None:
            text += f" (default: {argument['defaultValue']})"
        out.append(f".TP\n.B {roff(name(argument))}\n{roff(text)}")
    return "\n".join(out)


def section(command, path):
    words = " ".join(path + [command["commandName"]])
    yield f".SS {roff(words)}\n{roff(command.get('abstract', ''))}\n.PP\n{discussion(command.get('discussion'))}\n{options(command)}"
    for child in command.get("subcommands", []):
        if child["commandName"] != "help":
            yield from section(child, path + [command["commandName"]])


def main():
    command = json.load(sys.stdin)["command"]
    version, seconds = sys.argv[1], int(sys.argv[2])
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    print(f'.TH BULKHEAD 1 "{date}" "Bulkhead {version}" "User Commands"')
    # Without hyphens at the ends of lines: commands and paths are copied from here.
    print(".nh")
    print(f".SH NAME\nbulkhead \\- {roff(command['abstract'])}")
    print(".SH SYNOPSIS\n.B bulkhead\n.I command\n[options]")
    print(f".SH DESCRIPTION\n{discussion(command.get('discussion'))}")
    print(".SH COMMANDS")
    for child in command["subcommands"]:
        if child["commandName"] != "help":
            print("\n".join(section(child, ["bulkhead"])))
    print(".SH FILES\n.TP\n.I /etc/bulkhead/bulkhead.yaml\nThe node.\n.TP\n.I /etc/bulkhead/tenants.d/NAME.yaml\nOne tenant each.")
    print(".TP\n.I /var/lib/bulkhead\nState of the service.\n.TP\n.I /run/bulkhead/control.sock\nWhere operators are answered: root and the group bulkhead.")
    print(".SH SEE ALSO\nsystemctl(1), /usr/share/doc/bulkhead/RUNBOOK.md, /usr/share/doc/bulkhead/THREATS.md")


if __name__ == "__main__":
    main()
