"""Started as several ranks: each reads the rows of a file of pictures, and tells what it opened and what it reports.

python -m torch.distributed.run --nproc_per_node 2 tests/programs/check_media.py FILE OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import PartialState

from hf_genext import media_columns
from hf_genext.conditions import parse_condition_columns, read_rows

if __name__ == "__main__":
    ranks = PartialState(cpu=True)
    opened, open_condition = [], media_columns.open_condition

    def note(condition, *args):
        opened.extend(condition.values())
        return open_condition(condition, *args)

    media_columns.open_condition = note
    told = {"opened": opened}
    for rule in ("drop", "error"):
        try:
            rows, report = read_rows(
                sys.argv[1],
                parse_condition_columns({"image": "picture"}),
                target_columns=["caption"],
                unreadable=rule,
                ranks=ranks,
            )
            told[rule] = {"rows": rows["row"][:], "report": str(report)}
        except (ValueError, OSError) as error:
            told[rule] = f"{type(error).__name__}: {error}"
    Path(sys.argv[2], f"{ranks.process_index}.json").write_text(json.dumps(told))
