"""The service with a limit on the size of its files: `python -m tests.support.limited serve`.

ROWFERRY_TEST_FILE_BYTES is what `ulimit -f` would be. Its own log counts too.
"""

from __future__ import annotations

import os
import resource


def main() -> None:
    """`rowferry`, limited."""
    size = int(os.environ["ROWFERRY_TEST_FILE_BYTES"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    from service.cli import main as rowferry

    rowferry()


if __name__ == "__main__":
    main()
