"""The kinds of view sources. A new kind is a file beside this one and its class in `SourceSettings`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from cdgmae.settings.base import Name, Settings
from cdgmae.settings.views import GeneratorSettings
from cdgmae.views.sources.crops import CropsSource
from cdgmae.views.sources.diffusers import DiffusersSource
from cdgmae.views.sources.folder import FolderSource
from cdgmae.views.sources.knn import KnnSource
from cdgmae.views.sources.random import RandomSource
from cdgmae.views.sources.rcg import RcgSource
from cdgmae.views.sources.s_ldm import SLdmSource
from cdgmae.views.sources.video import VideoSource
from cdgmae.views.sources.view_source import ViewSource

SourceSettings = Annotated[
    SLdmSource | RcgSource | CropsSource | KnnSource | RandomSource | VideoSource | DiffusersSource | FolderSource,
    Field(discriminator="kind"),
]
"""One view source of any kind."""

KINDS: dict[str, type[ViewSource]] = {
    get_args(source.model_fields["kind"].annotation)[0]: source for source in get_args(get_args(SourceSettings)[0])
}
"""Kind -> class of its sources."""


class ViewsSettings(Settings):
    """Section `views`."""

    generators: dict[Name, GeneratorSettings] = Field(default={}, description="Generators by name.")
    sources: dict[Name, SourceSettings] = Field(default={}, description="View sources by name.")
