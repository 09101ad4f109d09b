"""Run a command that ends with the process that has asked for it, however that ends.

As a script: ``python guarded.py COMMAND ...``. When the standard input ends, whose other end that
process holds, the command does too.
"""

import contextlib
import subprocess
import sys
import threading

_GRACE_S = 5.0


def main() -> int:
    """Run the command; return its exit status."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def end() -> None:
        sys.stdin.buffer.read()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        process.kill()

    threading.Thread(target=end, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
