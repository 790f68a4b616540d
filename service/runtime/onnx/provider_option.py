"""What an operator may wish for, apart from what it takes to fulfil it: quick to import."""

from __future__ import annotations

from typing import Literal

ProviderOption = Literal["auto", "cuda", "cpu"]
