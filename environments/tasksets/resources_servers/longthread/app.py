"""NeMo-Gym's resources server for longthread's tasks: `verify` scores a response against the row's target."""

from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from pydantic import ConfigDict, JsonValue

try:
    from environments.tasksets import nemo_gym as longthread_tasks
except ImportError as error:  # NeMo-Gym has a package of that name too
    raise SystemExit(
        "error: `environments` is NeMo-Gym's here, not longthread's: run this server from a checkout of NeMo-Gym, and "
        "install longthread into the server's own environment (README.md, Install)"
    ) from error


class LongthreadVerifyRequest(BaseVerifyRequest):
    """A response, and the target of the row that was asked."""

    model_config = ConfigDict(extra="allow")

    target: dict[str, JsonValue]


class LongthreadVerifyResponse(BaseVerifyResponse):
    """The reward, 0 to 1, and what it rests on."""

    model_config = ConfigDict(extra="allow")

    exact: float
    abstained: float
    well_formed: float
    prompt_tokens_off: int | None = None


class LongthreadResourcesServer(SimpleResourcesServer):
    """Scores with longthread alone: no judge, no tool, nothing kept between two requests."""

    config: BaseResourcesServerConfig

    async def verify(self, body: LongthreadVerifyRequest) -> LongthreadVerifyResponse:
        """Return the request with its reward. Raises `DataError` for a row that was changed."""
        measured = longthread_tasks.verify(body.response.model_dump(mode="json"), body.target)
        return LongthreadVerifyResponse(**body.model_dump(), **measured)


if __name__ == "__main__":
    LongthreadResourcesServer.run_webserver()
