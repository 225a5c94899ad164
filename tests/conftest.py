"""What every test shares."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: a shared machine stalls now and then, and a stall is not a failure. In CI the examples
# are the same in every run; new ones are looked for on developers' machines.
settings.register_profile(
    "kvgit_hamt",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("kvgit_hamt")
