# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task may be started with. The gateway checks requests with these, the worker checks jobs with them again."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Name = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9._/-]+$")]
_Server = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Payload):
    """No arguments."""


class HealthCheck(Payload):
    """Probe everything the stack consists of, now."""


class VectorIndex(Payload):
    """Embed the tools whose text has changed since they were embedded."""


class RegistrySync(Payload):
    """Fetch the tools of external MCP servers."""

    server: _Server | None = Field(None, description="Only this server; otherwise all that are due")


class ModelCache(Payload):
    """Compare the model files with the manifest and warm the model server up."""

    files: list[_Name] | None = Field(None, max_length=256, description="Only these files of the manifest")
    full: bool = Field(False, description="Read files again that have not changed since they were found good")
    warm_up: bool = Field(True, description="Send one small request to the model server afterwards")


BY_USERS: dict[str, type[Payload]] = {
    "health_check": HealthCheck,
    "model_cache": ModelCache,
    "registry_sync": RegistrySync,
    "vector_index": VectorIndex,
}
