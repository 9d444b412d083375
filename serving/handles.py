"""Calls from one application to another, with a time limit and one kind of failure.

A call to a replica that died is made once more: Serve holds it until the replica is back. All
calls made this way are safe to repeat (ids make them idempotent).
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from rove.errors import RoveError
from serving.problems import Unavailable


class RemoteApp:
    """The ingress deployment of another application."""

    def __init__(self, deployment: str, app: str, timeout_s: float) -> None:
        self._deployment = deployment
        self._name = app
        self._timeout_s = timeout_s
        self._handle: DeploymentHandle[Any] | None = None

    async def call(self, method: str, *args: Any) -> Any:
        """Return what `method` returns; raise its `RoveError`, or `Unavailable`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._once(method, args)
                except RayActorError:
                    return await self._once(method, args)
        except TimeoutError:
            raise Unavailable(
                f"{self._name} did not answer within {self._timeout_s:g} s; send it again"
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, RoveError):
                raise error.cause from None
            raise
        except (RayError, RayServeException) as error:
            raise Unavailable(
                f"{self._name} does not answer ({type(error).__name__}); send it again"
            ) from None

    async def _once(self, method: str, args: tuple[Any, ...]) -> Any:
        if self._handle is None:
            self._handle = await asyncio.to_thread(
                serve.get_deployment_handle, self._deployment, self._name
            )
        return await getattr(self._handle, method).remote(*args)
