"""What authors of backends need to test them. The library itself never imports it; it needs pytest."""

import pytest

pytest.register_assert_rewrite("kvgit_hamt.testing.backends")  # so that a failed assert shows its values
