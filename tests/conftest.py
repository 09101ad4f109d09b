"""What every test process needs."""

import os
import signal

# What a test compiles is compiled: an earlier run must not stand in for it. Processes that tests
# begin have this from here.
os.environ["PYMC_VI_EXT_CACHE"] = "off"


def pytest_configure(config):
    # A shell that begins the tests in the background has them, and what they begin, ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
