"""Is a file that goes by the name of a published one that file? A warning where it is not: nothing is mended."""

from __future__ import annotations

from pathlib import Path

from controlkit.files import md5_of
from envs.neorl.data_files import released_as


def release_remark(path: Path) -> str | None:
    """What the quality report says of a file whose name is on the published list and whose md5 is another one."""
    released = released_as(path.name)
    if released is None or (found := md5_of(path)) == released.md5:
        return None
    if found in released.earlier_cuts:
        return (
            f"{path.name}: its md5 is {found}, which is an earlier cut of this data set and not the released file "
            f"({released.md5}): scores are not comparable with published ones"
        )
    return (
        f"{path.name}: its md5 is {found}, and that of the released file of this name {released.md5}: it is not the "
        "released file, so that scores are not comparable with published ones"
    )
