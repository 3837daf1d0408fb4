"""Groups on disk, as the loaders leave them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rto.data.examples import Example, Rated
from rto.data.storage.groups import Groups, read_examples, read_rated, write_groups


def stored(groups: Sequence[Sequence[Example]]) -> Groups[Any]:
    rated = all(isinstance(row, Rated) for group in groups for row in group)
    table = write_groups(groups, Path(tempfile.gettempdir()))
    return Groups.of([table], read_rated if rated else read_examples)
