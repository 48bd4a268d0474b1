"""What Ray itself says of a cluster of other versions, in one sentence; no cluster is started."""

from __future__ import annotations

import platform
import re

import pytest

from weaksam.config import UserError
from weaksam.pipeline.ray.cluster import _problems_named

ray = pytest.importorskip("ray")
from ray._private.utils import check_version_info  # noqa: E402


@pytest.mark.parametrize(
    "cluster",
    [{"ray_version": "1.2.3", "python_version": "3.9.1"}, {"python_version": "3.9.1"}, {"ray_version": "1.2"}],
)
def test_another_version_of_ray_or_python_is_named_with_ours(cluster: dict[str, str]) -> None:
    here = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    check_version_info(here, "here")
    there = {**here, **cluster}
    sentence = (
        f"wanted the Ray {here['ray_version']} and Python {here['python_version']} of this process in the cluster at "
        f"host:6379, found Ray {there['ray_version']} and Python {there['python_version']}: install the same on all"
    )
    with pytest.raises(UserError, match=re.escape(sentence)), _problems_named("host:6379"):
        check_version_info(there, "here")
