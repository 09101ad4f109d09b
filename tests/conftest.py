"""What every test process needs."""

import signal


def pytest_configure(config):
    # A shell that begins the tests in the background has them, and what they begin, ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
