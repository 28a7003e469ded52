"""How many threads numpy's and scipy's products of matrices have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from threadpoolctl import ThreadpoolController

from resnetkit.machine.threads import SharedSetting


class _BlasSetting(SharedSetting):
    """How many threads each BLAS has that this process has loaded; numpy and scipy bring one each."""

    def __init__(self) -> None:
        super().__init__(lambda: [each.num_threads for each in self.libraries], self._change)

    @cached_property
    def libraries(self) -> list[Any]:
        """They are looked for once, when numpy and scipy are there."""
        return list(ThreadpoolController().select(user_api="blas").lib_controllers)

    def _change(self, counts: Sequence[int]) -> None:
        for library, count in zip(self.libraries, counts, strict=True):
            library.set_num_threads(count)


_blas_setting = _BlasSetting()


def use_one_blas_thread() -> AbstractContextManager[None]:
    """Multiply matrices in the calling thread alone for a while.

    Products of less than a millisecond are several times slower in OpenBLAS's threads, which spin between them, and
    twenty times where these have to share their cores with other programs.
    """
    return _blas_setting.hold([1] * len(_blas_setting.libraries))
