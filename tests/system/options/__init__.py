"""Trials of every `docker container` sub-command and option; tests/system/test_docker_options.py runs them."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.commands", f"{__name__}.creating", f"{__name__}.bench")
