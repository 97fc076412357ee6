"""Switch off the mechanism that PREBAKE_DISABLE numbers, in this process.

Python imports this module at startup if its directory is on PYTHONPATH, in every process that a test starts.
"""

import os

if "PREBAKE_DISABLE" in os.environ:
    from tests.helpers.mechanisms import switch_off
    from tests.promises import MECHANISMS

    switch_off(MECHANISMS[int(os.environ["PREBAKE_DISABLE"])])
