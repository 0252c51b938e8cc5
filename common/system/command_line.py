"""What every tool's `main` shares: arguments, help with a working example, exit status."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.system.errors import SaidElsewhere, Stopped, UserError
from revit.common.system.files import check_writable

TRY_AGAIN = 75
"""Exit status EX_TEMPFAIL of sysexits.h: schedulers put such a job back into their queue, if told to."""

OUTPUTS = ("json", "html", "markdown")
"""Arguments that name a file to write."""

Main = Callable[[Sequence[str] | None], "int | None"]


def tool(main: Main) -> Callable[..., int]:
    """Decorate `main(argv) -> status` so that what it raises becomes an exit status.

    0 done; 2 the user's mistake (`UserError`: its message on stderr, no traceback); 75 stopped on request, the same
    command goes on; 130 interrupted; 1 anything else, with the traceback. Use as `sys.exit(main())`.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            status = main(argv) or 0
            sys.stdout.flush()  # now, so that a reader who left is met here and not at the end of the program
            return status
        except SaidElsewhere:
            return 2
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Stopped as stop:
            if str(stop):
                print(stop, file=sys.stderr)
            return TRY_AGAIN
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output left (`... | head`)
            print_nowhere()
            return 1
        except Exception:
            traceback.print_exc()
            return 1

    return wrapped


def print_nowhere() -> None:
    """Let what is printed from now on go nowhere, as nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """Make a parser whose help ends with `example`: one command per line, each of which works as it stands."""
    commands = "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
    return argparse.ArgumentParser(
        description=description, epilog=f"example:\n{commands}", formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config(arguments: argparse.ArgumentParser, *, several: bool = False, required: bool = True) -> None:
    """Add `--cfg FILE` (`--cfg FILE...` when `several`) and `key.path=value ...`; read them with `parse`."""
    kind: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    arguments.add_argument("--cfg", required=required, metavar="FILE.yaml", help="configuration file", **kind)
    arguments.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's, values as in YAML"
    )


def add_json(arguments: argparse.ArgumentParser) -> None:
    """Add `--json OUT`."""
    arguments.add_argument("--json", type=Path, metavar="OUT", help="also write the result as JSON to this file")


def parse(arguments: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse options and overrides in any order.

    With `add_config`: `cfg` is a path (a list of paths when `several`, from which whatever reads `key=value` and is no
    file is moved to the overrides, as `--cfg A.yaml B.yaml key=value` cannot be told apart earlier).

    Raises:
        UserError: an output cannot be written, or two are one file: said before the work, not after it.
    """
    values = _parse_intermixed(arguments, list(sys.argv[1:] if argv is None else argv))
    if isinstance(getattr(values, "cfg", None), list):
        moved = [text for text in values.cfg if "=" in text and not Path(text).exists()]
        values.cfg = [Path(text) for text in values.cfg if text not in moved]
        values.overrides = [*moved, *values.overrides]
        if not values.cfg:
            arguments.error("argument --cfg: expected at least one file")
    elif getattr(values, "cfg", None) is not None:
        values.cfg = Path(values.cfg)
    _check_outputs({name: path for name in OUTPUTS if (path := getattr(values, name, None)) is not None})
    return values


def _parse_intermixed(arguments: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse options and positional arguments in any order; what is behind "--" is never an option.

    Python's own `parse_intermixed_args` parses twice and has forgotten the "--" by the second time.
    """
    at = argv.index("--") if "--" in argv else len(argv)
    options, rest = argv[:at], argv[at + 1 :]
    stand_ins = {f"\0{number}": text for number, text in enumerate(rest)}
    # In front, where no option can take them for its values.
    values = arguments.parse_intermixed_args([*stand_ins, *options])
    for name, value in vars(values).items():
        if isinstance(value, list) and any(str(one) in stand_ins for one in value):
            first = [one for one in value if str(one) not in stand_ins]
            setattr(values, name, first + [stand_ins[one] for one in value if one in stand_ins])
    return values


def on_one_line(text: str) -> str:
    """Escape what would break the line, or is no letter at all."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def command_line(script: str, argv: Sequence[str] | None) -> str:
    """Return the running command, to be written beside its result; `argv` as a tool's `main` got it."""
    return shlex.join(["python", script, *(sys.argv[1:] if argv is None else argv)])


def _check_outputs(outputs: Mapping[str, Path]) -> None:
    taken: dict[Path, str] = {}
    for name, path in outputs.items():
        if str(path) == "-":
            raise UserError(f"--{name} -: this is a file's name here; for standard output give /dev/stdout")
        check_writable(path)
        if (other := taken.setdefault(path.resolve(), name)) != name:
            raise UserError(f"--{other} and --{name} both name {path}; give each its own file")
