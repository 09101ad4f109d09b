"""Say something to an address that only the environment knows."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request

# For all of it: an address may answer a byte at a time.
_LIMIT_S = 5.0


def post(variable: str, text: str) -> str:
    """Post ``{"text": ...}``, as Slack, Mattermost and others take it, within five seconds.

    Parameters
    ----------
    variable : str
        Environment variable that holds the address.
    text : str

    Returns
    -------
    str
        Why it could not be posted, without the address, which is a secret; empty if it was.
    """
    address = os.environ.get(variable, "")
    if not address.startswith(("http://", "https://")):
        return f"The webhook was not called: {variable} in the environment holds no http address."
    problem = [f"no answer within {_LIMIT_S:g} s"]
    thread = threading.Thread(target=_post, args=(address, text, problem), daemon=True)
    thread.start()
    thread.join(_LIMIT_S)
    return f"The webhook of {variable} was not reached: {problem[-1]}." if problem[-1] else ""


def _post(address: str, text: str, problem: list[str]) -> None:
    try:
        request = urllib.request.Request(
            address, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_LIMIT_S):
            problem.append("")
    except urllib.error.HTTPError as error:
        problem.append(f"it answered {error.code}")
    except Exception as error:  # whose messages may repeat the address
        problem.append(type(error).__name__)
