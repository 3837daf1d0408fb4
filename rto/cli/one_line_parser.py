"""argparse for the commands that have flags of their own: what is wrong is one line of ours."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn

from rto.errors import UserError


class OneLineParser(argparse.ArgumentParser):
    """Raises ``UserError`` where argparse prints its usage and ends the program."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, 1)
            message = f"unknown argument {unknown[1]}{f': did you mean {near[0]}?' * bool(near)}"
        raise UserError(f"{self.prog.removeprefix('rto ')}: {message}")
